"""The committed demo clip is what the tool promises, and the tool can make it again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "make_demo_clip.py"
CLIP = ROOT / "engine" / "demo" / "talking_photo.mp4"
FPS = 25
MOUTH = (slice(235, 310), slice(185, 290))  # rows and columns of the lips and the gap between them

Float64 = npt.NDArray[np.float64]

can_regenerate = pytest.mark.skipif(
    shutil.which("espeak-ng") is None or importlib.util.find_spec("skimage") is None,
    reason="needs espeak-ng and scikit-image",
)


def run_tool(output: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the tool as a user would, optionally with another PATH."""
    env = os.environ | ({} if path is None else {"PATH": path})
    command = [sys.executable, str(TOOL), "-o", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def read_video(path: Path) -> tuple[list[Fraction], Float64]:
    """Return the time stamps and the grey mouth region of every picture."""
    times, mouths = [], []
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            times.append(frame.pts * frame.time_base)
            mouths.append(frame.to_ndarray(format="gray")[MOUTH].astype(np.float64))
    return times, np.stack(mouths)


def read_audio(path: Path) -> tuple[Fraction, Float64, int]:
    """Return the first time stamp, the mono samples and their rate."""
    with av.open(str(path)) as source:
        frames = list(source.decode(audio=0))
    assert frames[0].pts is not None
    assert frames[0].time_base is not None
    pcm = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in frames]).astype(np.float64)
    return frames[0].pts * frames[0].time_base, pcm, frames[0].sample_rate


def motion_and_loudness(path: Path) -> tuple[Float64, Float64]:
    """Return the mouth's motion energy and the sound's RMS, one value each per picture."""
    _, mouths = read_video(path)
    _, pcm, rate_hz = read_audio(path)
    frames, per_frame = len(mouths), rate_hz // FPS
    pcm = np.pad(pcm, (0, max(0, frames * per_frame - pcm.size)))[: frames * per_frame]
    motion = np.abs(np.diff(mouths, axis=0, prepend=mouths[:1])).mean(axis=(1, 2))
    return motion, np.sqrt(np.square(pcm.reshape(frames, per_frame)).mean(axis=1))


def check_clip(path: Path) -> None:
    """Assert what every copy of the clip must satisfy."""
    assert path.stat().st_size <= 1_000_000
    times, _ = read_video(path)
    assert times == [Fraction(index, FPS) for index in range(len(times))]
    assert 10.0 < len(times) / FPS < 15.0
    start, pcm, rate_hz = read_audio(path)
    assert start == 0
    assert pcm.size / rate_hz == pytest.approx(len(times) / FPS, abs=0.05)


def test_clip_has_25_fps_and_sound_on_one_clock() -> None:
    """Picture and sound start at 0, last equally long, and the file is small."""
    check_clip(CLIP)
    with av.open(str(CLIP)) as source:
        assert source.streams.video[0].average_rate == FPS
        assert source.streams.audio[0].rate in (44_100, 48_000)


def test_mouth_moves_with_the_voice() -> None:
    """The mouth region changes more while there is speech, at the frame where the speech is."""
    motion, loudness = motion_and_loudness(CLIP)
    smooth = np.ones(5) / 5  # motion is the slope of the opening, so single frames only half agree
    motion, loudness = (np.convolve(track, smooth, "same") for track in (motion, loudness))
    aligned = np.corrcoef(motion, loudness)[0, 1]
    assert aligned > 0.3
    assert aligned > np.corrcoef(np.roll(motion, 2 * FPS), loudness)[0, 1] + 0.2


def test_picture_is_never_still() -> None:
    """Head sway keeps every pair of pictures different, even in the pauses."""
    motion, _ = motion_and_loudness(CLIP)
    assert motion[1:].min() > 0.0


def test_missing_espeak_says_how_to_install_it(tmp_path: Path) -> None:
    """Without espeak-ng the tool ends with one line and the status for a missing program."""
    done = run_tool(tmp_path / "clip.mp4", path=str(tmp_path))
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert "apt-get install espeak-ng" in done.stderr


@can_regenerate
def test_unwritable_output_is_one_line(tmp_path: Path) -> None:
    """A folder that does not exist is named in one line."""
    done = run_tool(tmp_path / "absent" / "clip.mp4")
    assert done.returncode == 73
    assert done.stderr.count("\n") == 1
    assert "absent" in done.stderr


@can_regenerate
def test_tool_makes_the_clip_again(tmp_path: Path) -> None:
    """A fresh clip satisfies the same promises as the committed one."""
    done = run_tool(tmp_path / "clip.mp4")
    assert done.returncode == 0, done.stderr
    check_clip(tmp_path / "clip.mp4")
