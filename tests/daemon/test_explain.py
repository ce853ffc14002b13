from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from avff.daemon.errors import DaemonError
from avff.daemon.explain import output_path
from tests.support.avffd import TIME_LIMIT_S, Done, assert_refused, avffd, command, environment
from tests.support.engine import DEMO
from tests.support.media import write_clip
from tests.support.portrait import speech

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 3.2 s with neither face nor sound."""
    return write_clip(tmp_path_factory.mktemp("media") / "nobody.mkv", seconds=3.2, audio=False)


def _explain(*arguments: object) -> Done:
    """Run to the end; the maps take some 4 s of two free cores, and longer where others use them."""
    done = subprocess.run(
        command("explain", *arguments),
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, 0.0)


def test_the_demo_clip_is_explained(tmp_path: Path, model_args: list[str], scored: frozenset[str]) -> None:
    """A picture named after the clip, and in words what it shows."""
    if "av" not in scored:
        pytest.skip("the model does not score the demo clip by both")
    done = _explain("demo", "-o", f"{tmp_path}/", *model_args)
    path = tmp_path / "talking_photo-explained.png"
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: ")
    assert [word for word in ("score 0.", "face:", "sound:") if word not in done.stdout] == []
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape == (640, 1280, 3)
    face = picture[124:508, 76:460].astype(np.int16)
    assert np.abs(face[..., 2] - face[..., 0]).max() > 80


def test_the_window_is_the_one_asked_for(tmp_path: Path, model_args: list[str]) -> None:
    """``--at`` and a file to write to."""
    done = _explain(DEMO, "--at", "1.5", "-o", tmp_path / "a.png", *model_args)
    assert done.code == 0, done
    assert f"{tmp_path / 'a.png'}: 0.32-2.88 s" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "required: FILE"),
        (["nope.mp4"], 66, "nope.mp4: no such file"),
        (["/"], 66, "/: is a directory"),
        ([__file__], 65, "not readable as audio or video"),
        (["demo", "-o", "x.jpg"], 2, "-o x.jpg: is neither a .png file nor a directory"),
        (["demo", "--at", "soon"], 2, "'soon' is not a time in seconds"),
        (["demo", "--at", "-1"], 2, "'-1' is not a time in seconds"),
        (["demo", "--at", "nan"], 2, "'nan' is not a time in seconds"),
        (["demo", "--model", "/nope"], 78, "/nope"),
        (["demo", "--sauce"], 2, "unrecognized arguments: --sauce"),
    ],
)
def test_wrong_use_gives_one_line_and_its_code(arguments: list[str], code: int, words: str) -> None:
    """As with the daemon."""
    done = avffd("explain", *arguments)
    assert (done.code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no window has a score that could be explained (too_short 7, no_face 3)"),
        (["--at", "1.5"], "the window 0.32-2.88 s has no score to explain: no_face"),
        (["--at", "60"], "60 s is past the end, 3.2 s"),
    ],
)
def test_nothing_to_explain_says_why(
    tmp_path: Path, nobody: Path, model_args: list[str], arguments: list[str], words: str
) -> None:
    """No picture is written; exit code 65."""
    assert_refused(avffd("explain", nobody, *arguments, "-o", tmp_path / "a.png", *model_args), 65, words)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written(tmp_path: Path, nobody: Path) -> None:
    """A file stands where the directory should be: that is told before all the work."""
    (tmp_path / "out").touch()
    done = avffd("explain", nobody, "-o", tmp_path / "out" / "a.png")
    assert_refused(done, 74, str(tmp_path / "out" / "a.png"), "cannot write")


def test_a_full_disk_is_told(tmp_path: Path, model_args: list[str], scored: frozenset[str]) -> None:
    """The map of a sound alone takes a second; what is lost has an exit code of its own."""
    if "audio" not in scored:
        pytest.skip("the model does not score sound alone")
    (tmp_path / "a.png").symlink_to("/dev/full")
    clip = write_clip(tmp_path / "voice.mkv", seconds=3.2, sound=speech(16_000, "mono"))
    done = _explain(clip, "-o", tmp_path / "a.png", *model_args)
    assert (done.code, done.stdout) == (74, "")
    assert "cannot write (No space left on device)" in done.stderr


def test_sound_alone_has_no_map_of_a_face(
    tmp_path: Path, model_args: list[str], scored: frozenset[str]
) -> None:
    """What is told and drawn is what the score rests on."""
    if "audio" not in scored:
        pytest.skip("the model does not score sound alone")
    clip = write_clip(tmp_path / "voice.mkv", seconds=3.2, sound=speech(16_000, "mono"))
    done = _explain(clip, "-o", tmp_path / "a.png", *model_args)
    assert (done.code, "sound:" in done.stdout, "face:" in done.stdout) == (0, True, False)
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_it_at_once(tmp_path: Path, model_args: list[str], number: int, code: int) -> None:
    """There is nothing to drain, and success is not what it ends with."""
    process = subprocess.Popen(
        command("explain", "demo", "-o", tmp_path / "a.png", *model_args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONFAULTHANDLER": "0"},
    )
    time.sleep(1.5)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIME_LIMIT_S)
    assert (process.returncode, stdout, "Traceback" in stderr) == (code, "", False)


def test_where_the_picture_goes(tmp_path: Path) -> None:
    """Beside the caller by default, never beside the clip; a directory need not be there yet."""
    clip = Path("/films/a.b.mp4")
    assert output_path(None, clip) == Path("a.b-explained.png")
    assert output_path(str(tmp_path), clip) == tmp_path / "a.b-explained.png"
    assert output_path("new/", clip) == Path("new/a.b-explained.png")
    assert output_path("x.PNG", clip) == Path("x.PNG")
    with pytest.raises(DaemonError, match=r"neither a \.png file nor a directory"):
        output_path("x", clip)


def test_a_clip_may_be_called_like_the_command(tmp_path: Path, model_args: list[str]) -> None:
    """``--source explain`` is a file."""
    done = subprocess.run(
        command("--source", "explain", *model_args),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, "explain: no such file" in done.stderr) == (66, True)


def test_help_tells_of_the_command() -> None:
    """In the main help, and its own with examples."""
    assert "avffd explain clip.mp4" in avffd("--help").stdout
    assert "--at SECONDS" in avffd("explain", "--help").stdout


def test_events_explain_themselves_on_request(
    tmp_path: Path, model_args: list[str], scored: frozenset[str]
) -> None:
    """By flag or by configuration; everything else in the events is as without."""
    if "av" not in scored:
        pytest.skip("the model does not score the demo clip by both")
    config = tmp_path / "daemon.yaml"
    config.write_text("explain: true\n")
    plain, flag, file = (
        # Slice by slice: how many share a batch depends on the moment, and may move the last digit.
        avffd("--source", DEMO, "--format", "jsonl", "--engine.batch", "1", *model_args, *extra).scores
        for extra in ([], ["--explain"], ["--config", config])
    )
    explained = [event.pop("explain", None) for event in flag]
    assert explained == [event.pop("explain", None) for event in file]
    assert [made is None for made in explained] == [event["score"] is None for event in plain]
    for made, event in zip(explained, plain, strict=True):
        if made is not None:
            assert sum(filter(None, made["shares"].values())) == pytest.approx(1.0, abs=2e-3)
            assert all(0 <= value <= 1 for value in made["frames"] if value is not None)
            assert (made["sync"] is None) == (event["parts"]["desync"] is None)
            assert len(json.dumps(made, separators=(",", ":"))) < 1000
    for event in plain + flag + file:
        del event["latency_ms"]
    assert plain == flag == file
    assert os.listdir(tmp_path) == ["daemon.yaml"]
