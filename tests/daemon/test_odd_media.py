"""Media out of the ordinary is scored; poor media ends with 0, null scores and the reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avff.engine.spec import SPEC
from tests.support.avffd import Done, avffd
from tests.support.media import write_clip
from tests.support.portrait import SECONDS, speech, talking

pytestmark = pytest.mark.timeout(60)

Clip = Callable[[Path], Path]
TALL = (360, 480)
"""Upright; a phone stores it lying on its side."""
ODD_PX = (477, 479)
UNEVEN_S = list(itertools.takewhile(lambda t: t < SECONDS, itertools.accumulate(
    itertools.cycle((0.033, 0.066, 0.020, 0.040, 0.100))
)))  # fmt: skip
SLOW_S = [k / 4 for k in range(round(4 * SECONDS))]


def _portrait(folder: Path, name: str = "clip.mp4", **changes: Any) -> Path:
    """Write the demo clip's first seconds again; what is not changed is as any camera does it."""
    usual: dict[str, Any] = {
        "codec": "libx264", "size": (480, 480), "picture": talking(),
        "rate_hz": 16_000, "layout": "mono",
    }  # fmt: skip
    wanted = usual | changes
    wanted.setdefault("sound", speech(wanted["rate_hz"], wanted["layout"]))
    return write_clip(folder / name, seconds=SECONDS, **wanted)


def _turned(folder: Path, degrees: int) -> Path:
    turns = degrees // 90
    size = TALL if turns % 2 == 0 else TALL[::-1]
    return _portrait(folder, size=size, picture=talking(TALL, quarter_turns=turns), rotation=degrees)


ODD: dict[str, Clip] = {
    "4:2:2-10-bit": lambda at: _portrait(at, pixel_format="yuv422p10le"),
    "odd-size": lambda at: _portrait(at, "clip.mkv", codec="ffv1", size=ODD_PX, picture=talking(ODD_PX)),
    "variable-rate": lambda at: _portrait(at, times_s=UNEVEN_S, picture=talking(times_s=UNEVEN_S)),
    "turned-90": lambda at: _turned(at, 90),
    "turned-180": lambda at: _turned(at, 180),
    "turned-270": lambda at: _turned(at, 270),
    "8-kHz": lambda at: _portrait(at, rate_hz=8_000),
    "5.1": lambda at: _portrait(at, rate_hz=48_000, layout="5.1"),
}  # fmt: skip


@pytest.mark.parametrize("write", ODD.values(), ids=ODD)
def test_odd_format_is_scored_like_any_other(tmp_path: Path, model_args: list[str], write: Clip) -> None:
    """The face is found in nearly every picture and each full window has a score."""
    done = avffd("--source", write(tmp_path), *model_args)
    full = _full_windows(done)
    assert len(full) == 3
    for event in full:
        assert (event["modality"], event["reason"]) == ("av", None), event
        assert 0 <= event["score"] <= 1
        assert event["coverage"]["face"] > 0.9
        assert event["coverage"]["audio"] > 0.95
        assert event["track"] == full[0]["track"]


def _lone_picture(folder: Path) -> Path:
    return _portrait(folder, frames=1, picture=talking())


def _voice_over(folder: Path) -> Path:
    return write_clip(folder / "clip.mp4", seconds=SECONDS, sound=speech(16_000, "mono"))


def _distant_face(folder: Path) -> Path:
    return _portrait(folder, audio=False, size=(160, 160), picture=talking((160, 160), reduced=8))


def _photograph(folder: Path) -> Path:
    draw = talking()
    return _portrait(folder, picture=lambda k: draw(0))


def _dark(folder: Path) -> Path:
    draw = talking()
    return _portrait(folder, picture=lambda k: draw(k) // 12)


def _overdriven(folder: Path) -> Path:
    voice = np.clip(speech(16_000, "mono").astype(np.int32) * 12, -32768, 32767).astype(np.int16)
    return _portrait(folder, "clip.mkv", sound=voice)


def _silence(folder: Path) -> Path:
    nothing = np.zeros((1, round(SECONDS * 16_000)), np.int16)
    return write_clip(folder / "clip.wav", video=False, sound=nothing)


POOR: dict[str, tuple[Clip, str, str]] = {
    # How to write it, what a model may score it by, and the reason when the model cannot.
    "picture-only": (lambda at: _portrait(at, audio=False), "video", "unsupported_modality"),
    "sound-only": (lambda at: _portrait(at, video=False), "audio", "unsupported_modality"),
    "one-picture-and-sound": (_lone_picture, "audio", "unsupported_modality"),
    "voice-over": (_voice_over, "audio", "no_face"),
    "nobody": (lambda at: write_clip(at / "clip.mp4", seconds=SECONDS, audio=False), "", "no_face"),
    "distant-face": (_distant_face, "", "face_too_small"),
    "photograph": (_photograph, "audio", "frozen"),
    "in-the-dark": (_dark, "audio", "bad_exposure"),
    "four-pictures-a-second": (
        lambda at: _portrait(at, times_s=SLOW_S, picture=talking(times_s=SLOW_S)),
        "audio",
        "low_fps",
    ),
    "overdriven": (_overdriven, "video", "clipping"),
    "silence-only": (_silence, "", "no_speech"),
}


@pytest.mark.parametrize(("write", "modality", "reason"), POOR.values(), ids=POOR)
def test_poor_media_gets_null_with_the_reason(
    tmp_path: Path,
    model_args: list[str],
    scored: frozenset[str],
    write: Clip,
    modality: str,
    reason: str,
) -> None:
    """Where evidence is missing there is no score, unless the model is calibrated for what is left."""
    done = avffd("--source", write(tmp_path), *model_args)
    full = _full_windows(done)
    assert len(full) >= 3
    for event in full:
        if modality in scored:
            assert (event["modality"], event["reason"]) == (modality, None), event
            assert event["parts"]["desync"] is None
        else:
            assert (event["score"], event["rolling"], event["reason"]) == (None, None, reason), event
    if modality not in scored:
        assert done.summary["verdict"] == "abstain"
        assert reason in done.stderr


def test_clip_shorter_than_a_window_is_too_short(tmp_path: Path, model_args: list[str]) -> None:
    """The length of a window is needed before anything is said."""
    done = avffd("--source", write_clip(tmp_path / "clip.mp4", seconds=1.6), *model_args)
    assert _full_windows(done) == []
    assert done.summary["windows"] == {"scored": 0, "abstained": {"too_short": 5}}


def test_single_picture_has_no_window_at_all(tmp_path: Path, model_args: list[str]) -> None:
    """Less than half a slice is no event; the summary abstains."""
    done = avffd("--source", write_clip(tmp_path / "clip.mp4", frames=1, audio=False), *model_args)
    assert _full_windows(done) == []
    assert done.scores == []
    assert (done.summary["verdict"], done.summary["score"]) == ("abstain", None)
    assert "too_short" in done.stderr


def _full_windows(done: Done) -> list[dict[str, Any]]:
    """Check what every clean end has, and return the events after those that are too short."""
    assert (done.code, done.complaints) == (0, []), done
    assert done.seconds < 20
    assert done.summary["ended"] == "end"
    head = done.scores[: SPEC.window_slices - 1]
    assert {(event["score"], event["reason"]) for event in head} <= {(None, "too_short")}
    return done.scores[SPEC.window_slices - 1 :]
