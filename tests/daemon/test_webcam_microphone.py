"""A camera with its microphone, with OpenCV, V4L2, PortAudio and ALSA as they are."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from tests.support.avffd import Done, avffd, command, environment
from tests.support.claps import bangs, clap_times_s, hands
from tests.support.media import write_clip
from tests.support.portrait import SECONDS, speech, talking
from tests.support.pulse import MICROPHONE, RATE_HZ, missing, pulse_server
from tests.support.replay import FPS, picture_lag_ms, recorded_pair, replayed, sound_lags_ms
from tests.support.v4l2 import DEVICE, SIZE, build_shim, compiler

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(compiler() is None, reason="needs Linux, and gcc to build the camera"),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

SOURCE = ["--source", f"webcam:{DEVICE}", "--mic", MICROPHONE, "--format", "jsonl"]
MEASURED = "microphone:\n  sync_offset_ms: 0\n"


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The camera."""
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def voice() -> npt.NDArray[np.float32]:
    """The voice of the face that ``talking`` draws."""
    return np.asarray(speech(RATE_HZ, "mono")[0] / 32768, np.float32)


def _talk(folder: Path, shim: Path, voice: npt.NDArray[np.float32], **how: Any) -> Any:
    return replayed(folder, shim, talking(SIZE), voice, seconds=SECONDS, rounds=20, **how)


class Running:
    """A run of ``avffd`` that is watched line by line."""

    def __init__(self, arguments: list[str], extra: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(extra),
        )
        self._lines: list[str] = []

    def until(self, enough: Callable[[dict[str, Any]], bool], lines: int = 100) -> None:
        """Read events until a score is enough."""
        assert self._process.stdout is not None
        for _ in range(lines):
            self._lines.append(self._process.stdout.readline())
            (event,) = Done(0, self._lines[-1], "", 0.0).events
            if event["type"] == "score" and enough(event):
                return
        raise AssertionError("".join(self._lines))

    def finish(self, *, interrupt: bool = True) -> Done:
        """Send SIGINT, or let it end by itself, and return what the run left behind."""
        if interrupt:
            self._process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = self._process.communicate(timeout=15)
        finally:
            self._process.kill()
            self._process.wait()
        return Done(self._process.returncode, "".join(self._lines) + stdout, stderr, 0.0)


def test_both_are_scored_together(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str], scored: frozenset[str]
) -> None:
    """Picture and sound on one timeline; with a measured offset, synchrony is known after some seconds."""
    config = tmp_path / "sync.yaml"
    config.write_text(MEASURED)
    with _talk(tmp_path, shim, voice) as replay:
        run = Running([*SOURCE, *model_args, "--config", str(config)], replay.environment)
        run.until(lambda event: event["modality"] == "av" and bool(event["sync"]["known"]))
        done = run.finish()
    assert (done.code, done.complaints) == (0, [])
    last = done.scores[-1]
    assert min(last["coverage"].values()) > 0.7
    assert last["sync"]["error_ms"] < 40
    assert ("av" in scored) == (last["score"] is not None)


def test_without_a_measurement_sync_is_unknown(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str]
) -> None:
    """Nobody knows how late camera and microphone are: there is no evidence of lips out of step."""
    with _talk(tmp_path, shim, voice) as replay:
        run = Running([*SOURCE, *model_args], replay.environment)
        run.until(lambda event: event["modality"] == "av" and event["t"] > 5)
        done = run.finish()
    both = [event for event in done.scores if event["modality"] == "av"]
    assert {(event["sync"]["known"], event["sync"]["error_ms"]) for event in both} == {(False, None)}
    assert {event["parts"]["desync"] for event in both} == {None}


def test_microphone_alone_is_scored_by_the_sound(
    voice: npt.NDArray[np.float32], model_args: list[str], scored: frozenset[str]
) -> None:
    """As long as there is a voice; mute and overdriven it has reasons instead."""
    with pulse_server() as pulse:
        run = Running(
            ["--source", f"mic:{MICROPHONE}", "--format", "jsonl", *model_args], dict(pulse.environment)
        )
        pulse.play(np.tile(voice, 20))
        run.until(lambda event: event["modality"] == "audio" and event["coverage"]["audio"] == 1)
        if "audio" in scored:
            run.until(lambda event: event["score"] is not None)
        pulse.mute(True)
        run.until(lambda event: event["reason"] == "no_speech")
        pulse.mute(False)
        pulse.loudness(400)
        run.until(lambda event: event["reason"] == "clipping")
        done = run.finish()
    assert (done.code, done.complaints) == (0, [])
    assert done.summary["stream"] == f"mic:{MICROPHONE}"
    assert {event["sync"] for event in done.scores} == {None}
    assert {event["coverage"]["video"] for event in done.scores} == {0}


def test_unplugged_microphone_alone_ends_the_stream(model_args: list[str]) -> None:
    """What it heard is summed up; one line and the code for a lost device."""
    with pulse_server() as pulse:
        run = Running(
            ["--source", f"mic:{MICROPHONE}", "--format", "jsonl", *model_args], dict(pulse.environment)
        )
        run.until(lambda event: event["t"] > 1)
        pulse.unplug()
        done = run.finish(interrupt=False)
    assert done.code == 69
    assert done.summary["ended"] == "lost"
    assert [line for line in done.complaints if "unplugged" not in line] == []
    assert len(done.complaints) == 1


def test_lost_microphone_leaves_the_picture_and_comes_back(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str]
) -> None:
    """The stream goes on by the picture, says so, and takes the sound up again."""
    with _talk(tmp_path, shim, voice) as replay:
        run = Running([*SOURCE, *model_args], replay.environment)
        run.until(lambda event: event["modality"] == "av")
        replay.pulse.unplug()
        run.until(lambda event: event["modality"] == "video" and event["coverage"]["audio"] == 0)
        replay.pulse.plug_in()  # a silent one
        run.until(lambda event: event["coverage"]["audio"] > 0.9)
        done = run.finish()
    assert done.code == 0
    assert done.summary["ended"] == "stopped"
    assert re.fullmatch(
        rf"avffd: webcam:{DEVICE}: sound lost, the other goes on: microphone {MICROPHONE}.*unplugged\?",
        done.complaints[0],
    )
    assert done.complaints[1:] == [f"avffd: webcam:{DEVICE}: sound is back"]
    assert all(event["coverage"]["video"] > 0.5 for event in done.scores[8:])


def test_lost_camera_leaves_the_sound(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str]
) -> None:
    """The stream goes on by the sound while the camera is tried again and again."""
    with _talk(tmp_path, shim, voice, mode="stall", after=120) as replay:
        run = Running([*SOURCE, *model_args], replay.environment)
        run.until(lambda event: event["modality"] == "av")
        run.until(lambda event: event["coverage"]["video"] == 0 and event["coverage"]["audio"] > 0.9)
        done = run.finish()
    assert done.code == 0
    assert any("picture lost, the other goes on" in line for line in done.complaints)


def test_missing_microphone_leaves_pictures(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str]
) -> None:
    """With a warning that says why, and which there are."""
    with _talk(tmp_path, shim, voice) as replay:
        run = Running([*SOURCE, *model_args, "--mic", "headset"], replay.environment)
        run.until(lambda event: event["modality"] == "video")
        done = run.finish()
    assert len(done.complaints) == 1
    assert "pictures only: there is no microphone headset; found" in done.complaints[0]
    assert MICROPHONE in done.complaints[0]
    assert {event["sync"] for event in done.scores if event["modality"] == "video"} == {None}


def test_clip_is_replayed_in_step(tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32]) -> None:
    """Picture and sound of a clip come back at the times at which they were shown and played.

    The bound leaves room for a busy machine; ``tools/bench_sync.py`` measures.
    """
    with _talk(tmp_path, shim, voice, ppm=200.0) as replay:
        recorded = recorded_pair(replay, 14, tmp_path)
    picture_ms = picture_lag_ms(recorded, replay, talking(SIZE))
    sound_ms = sound_lags_ms(recorded, replay, voice)
    assert abs(sound_ms[-1] - picture_ms) < 40
    assert recorded["error_ns"][-1] > 0


def test_scores_are_those_of_the_file(
    tmp_path: Path, shim: Path, voice: npt.NDArray[np.float32], model_args: list[str], scored: frozenset[str]
) -> None:
    """The clip before the camera scores as the same pictures and sound do in a file.

    Windows lie elsewhere in the clip and stamps are off by milliseconds; nothing else differs.
    """
    if "av" not in scored:
        pytest.skip("the model is not calibrated for both together")
    sound = (np.tile(voice[: round(SECONDS * RATE_HZ)], 4) * 32767).astype(np.int16)[None]
    draw, frames = talking(SIZE), round(SECONDS * FPS)
    clip = write_clip(
        tmp_path / "same.mkv",
        codec="ffv1",
        size=SIZE,
        seconds=4 * SECONDS,
        picture=lambda k: draw(k % frames),
        rate_hz=RATE_HZ,
        sound=sound,
    )
    from_file = avffd("--source", clip, *model_args).summary["score"]
    config = tmp_path / "sync.yaml"
    config.write_text(MEASURED)
    with _talk(tmp_path, shim, voice) as replay:
        run = Running([*SOURCE, *model_args, "--config", str(config)], replay.environment)
        run.until(lambda event: event["t"] > 15)
        done = run.finish()
    both = [event for event in done.scores if event["score"] is not None and event["sync"]["known"]]
    logits = [float(np.log(event["score"] / (1 - event["score"]))) for event in both]
    live = 1 / (1 + np.exp(-np.mean(logits)))
    assert len(both) >= 10
    assert live == pytest.approx(from_file, abs=0.1)


@pytest.mark.parametrize("later_ms", [0, 120])
def test_offset_is_measured_with_claps(tmp_path: Path, shim: Path, later_ms: int) -> None:
    """What the command writes is a settings file, with the offset that there is."""
    claps, seconds = clap_times_s(7.0), 7.0
    sound = bangs(seconds, [s + later_ms / 1000 for s in claps], rate_hz=RATE_HZ)
    with replayed(tmp_path, shim, hands(SIZE, claps), sound, seconds=seconds, rounds=8) as replay:
        done = avffd(
            "calibrate-sync", "--source", f"webcam:{DEVICE}", "--mic", MICROPHONE, "--seconds", "14",
            extra=replay.environment,
        )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.complaints == ["avffd: clap about once a second, with both hands in the picture, for 14 s"]
    written = yaml.safe_load(done.stdout)["microphone"]
    assert written["device"] == MICROPHONE
    assert written["sync_offset_ms"] == pytest.approx(later_ms, abs=40)
