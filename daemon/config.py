"""The daemon's settings: one frozen tree, filled from YAML and flags.

Unknown keys and wrong types are errors (:func:`avff.engine.settings.load_settings`
names file, line, key and the nearest known key).  ``configs/daemon.yaml`` documents
each value with its consequence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from avff.engine.alarm import FALSE_ALARMS_PER_HOUR, AlarmRule, promised_threshold

_RULE = AlarmRule()
"""The engine's defaults are the daemon's, so that ``avff-evaluate`` measures what users get."""


class _Settings(BaseModel):
    # Strict: "2" is not 2, and 1 is not true; a typo must not pass for a value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EngineSettings(_Settings):
    """How the model is run."""

    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of the inference runtime")
    batch: int = Field(default=8, ge=1, le=256, description="most slices in one call, over all streams")
    hop_slices: int = Field(default=1, ge=1, le=8, description="slices of 320 ms from one score to the next")
    backend: Literal["auto", "tensorrt", "onnx"] = Field(
        default="auto",
        description="what runs the model; auto takes TensorRT where there are engines and a GPU",
    )
    directory: Annotated[Path | None, Field(strict=False)] = Field(
        default=None, description="folder of TensorRT engines, as tools/build_engine.py writes it"
    )
    allow_fallback: bool = Field(
        default=False, description="whether engines that cannot be used are replaced by ONNX Runtime"
    )


class RollingSettings(_Settings):
    """How window scores become the rolling score."""

    time_constant_s: float = Field(
        default=5.0, gt=0, le=3600, description="age at which a window counts 1/e, s of media time"
    )
    reset_after_s: float = Field(
        default=10.0, gt=0, le=3600, description="longest bridged gap in evidence, s of media time"
    )


class AlarmSettings(_Settings):
    """When an alarm opens and when it closes."""

    enabled: bool = Field(default=True, description="whether to look for alarms at all")
    false_alarms_per_hour: float = Field(
        default=FALSE_ALARMS_PER_HOUR, gt=0, le=60, description="most in an hour of genuine footage"
    )
    measured_threshold: float | None = Field(
        default=None, gt=0, le=10_000, description="from avff-evaluate, nats; counts where it asks for more"
    )
    minimum_s: float = Field(
        default=_RULE.minimum_s, ge=0, le=3600, description="least evidence it rests on, s of media time"
    )
    close_below: float = Field(
        default=_RULE.close_below, gt=0, le=1, description="rolling score below which it may close"
    )
    close_after_s: float = Field(
        default=_RULE.close_after_s, ge=0, le=3600, description="how long below, s of media time"
    )

    def rule(self, rolling: RollingSettings) -> AlarmRule | None:
        """Return the rule, which bridges the same gaps as the rolling score; None when not enabled."""
        if not self.enabled:
            return None
        promised = promised_threshold(self.false_alarms_per_hour)
        return AlarmRule(
            threshold=max(promised, self.measured_threshold or 0.0),
            minimum_s=self.minimum_s,
            close_below=self.close_below,
            close_after_s=self.close_after_s,
            reset_after_s=rolling.reset_after_s,
        )


class QueueSettings(_Settings):
    """Sizes of the mailboxes between stages: more rides out stalls, less is fresher and smaller."""

    file_batches: int = Field(
        default=2, ge=1, le=64, description="decoded batches of a file (16 items or 8 MB each)"
    )
    live_frames: int = Field(
        default=4, ge=1, le=64, description="pictures of a live source; the oldest is dropped"
    )
    live_blocks: int = Field(
        default=50, ge=5, le=1000, description="blocks of a microphone (20 ms each); the oldest is dropped"
    )
    file_slices: int = Field(default=8, ge=1, le=256, description="slices of a file that wait for the engine")
    live_slices: int = Field(
        default=2, ge=1, le=64, description="slices of a live source; the oldest is dropped"
    )
    events: int = Field(default=256, ge=16, le=100_000, description="events that wait for one sink")


class CameraSettings(_Settings):
    """What is asked of a camera; it may answer with something else."""

    width: int = Field(default=1280, ge=160, le=7680, description="picture width, px")
    height: int = Field(default=720, ge=120, le=4320, description="picture height, px")
    fps: int = Field(default=30, ge=5, le=120, description="pictures a second")


class MicrophoneSettings(_Settings):
    """Which microphone goes with a webcam, and how late it is."""

    device: str = Field(default="default", min_length=1, description="default, none, a name or a number")
    sync_offset_ms: float | None = Field(
        default=None, ge=-500, le=500, description="how much later than the picture; null: not measured"
    )


class NetworkSettings(_Settings):
    """How network streams are reached."""

    open_timeout_s: float = Field(
        default=5.0, gt=0, le=120, description="longest wait for a connection, and again for its first media"
    )
    read_timeout_s: float = Field(
        default=5.0, ge=1, le=120, description="silence after which a connection is given up and made anew"
    )
    rtsp_transport: Literal["tcp", "udp"] = Field(
        default="tcp", description="of media over RTSP; tcp passes firewalls and loses nothing"
    )
    verify_tls: bool = Field(default=True, description="whether certificates have to be trusted")


class DaemonConfig(_Settings):
    """Everything ``avffd`` can be told."""

    source: str | list[str] | None = Field(
        default=None,
        description="a path, demo, webcam, mic, screen, pipe: or a URL, or a list; also NAME=URI",
    )
    name: str | None = Field(
        default=None, min_length=1, description="name of the stream; by default from the source"
    )
    realtime: bool = Field(default=False, description="play a file at its own speed")
    format: Literal["jsonl", "text"] | None = Field(
        default=None, description="of stdout; by default text on a terminal"
    )
    model: Annotated[Path | None, Field(strict=False)] = Field(
        default=None, description="directory of an exported model; the embedded one by default"
    )
    explain: bool = Field(default=False, description="whether score events say where the score comes from")
    engine: EngineSettings = EngineSettings()
    rolling: RollingSettings = RollingSettings()
    alarm: AlarmSettings = AlarmSettings()
    queues: QueueSettings = QueueSettings()
    camera: CameraSettings = CameraSettings()
    microphone: MicrophoneSettings = MicrophoneSettings()
    network: NetworkSettings = NetworkSettings()
