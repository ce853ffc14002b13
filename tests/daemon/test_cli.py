from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.media import write_clip

ROOT = Path(__file__).parents[2]
SCRIPTED = [sys.executable, str(ROOT / "tests" / "daemon" / "scripted_avffd.py")]
REAL = [sys.executable, "-m", "avff.daemon"]
TIMEOUT_S = 30
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("media") / "clip.mp4", seconds=8, size=(64, 48))


def _environment(engine: str = "") -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "SCRIPTED_ENGINE": engine, "PYTHONDEVMODE": "1"}


def _run(
    *arguments: object, command: list[str] = SCRIPTED, engine: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=_environment(engine),
        check=False,
    )


def _start(*arguments: object, engine: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SCRIPTED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(engine),
    )


@pytest.fixture
def playing(clip: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon in the middle of a file played at its own speed."""
    process = _start("--source", clip, "--realtime")
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def _events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_file_gives_one_line_per_hop_and_a_summary(clip: Path) -> None:
    """JSON lines on a pipe, the summary for people on stderr, exit code 0; its alarm lasts to the end."""
    done = _run("--source", clip)
    events = _events(done.stdout)
    assert (done.returncode, [e["type"] for e in events[-3:]]) == (0, ["score", "alarm", "summary"])
    assert [e["state"] for e in events if e["type"] == "alarm"] == ["opened", "closed"]
    assert [e["t"] for e in events[:3]] == [0.32, 0.64, 0.96]
    assert done.stderr.startswith("clip.mp4: FAKE, score 0.88")
    assert len(done.stderr.splitlines()) == 5


def test_realtime_gives_the_same_scores(tmp_path: Path) -> None:
    """Playing at its own speed changes latencies only."""
    short = write_clip(tmp_path / "short.mp4", seconds=1.2, size=(64, 48))
    lines = [_events(_run("--source", short, *flags).stdout) for flags in ([], ["--realtime"])]
    for event in lines[0] + lines[1]:
        event.pop("latency_ms", None)
    assert lines[0] == lines[1]


def test_text_format_is_for_people(clip: Path) -> None:
    """One readable line per hop on stdout."""
    done = _run("--source", clip, "--format", "text")
    assert "too_short" in done.stdout.splitlines()[0]
    assert "rolling 0.88" in done.stdout
    assert "ALARM since 8.6 s" in done.stdout.splitlines()[-2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_signal_drains_with_summary_and_exit_code_0(
    playing: subprocess.Popen[str], number: signal.Signals
) -> None:
    """What had arrived is scored, the last line is the summary."""
    playing.send_signal(number)
    began = time.monotonic()
    stdout, stderr = playing.communicate(timeout=TIMEOUT_S)
    assert (playing.returncode, _events(stdout)[-1]["ended"]) == (0, "stopped")
    assert "stopped early" in stderr
    assert "Traceback" not in stderr
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_second_signal_forces_the_end(clip: Path, number: signal.Signals, code: int) -> None:
    """Even while the engine is stuck."""
    process = _start("--source", clip, engine="stuck")
    time.sleep(2)
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(number)
    _, stderr = process.communicate(timeout=3)
    assert process.returncode == code
    assert "second signal" in stderr


def test_signal_while_models_load_ends_at_once(clip: Path) -> None:
    """Nobody waits for a download to be able to quit."""
    process = _start("--source", clip, engine="loading")
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=5)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_reader_that_hangs_up_ends_it_cleanly(clip: Path) -> None:
    """``avffd | head -1``: one line, no complaint, exit code 0."""
    process = _start("--source", clip, "--realtime")
    assert process.stdout is not None
    assert process.stderr is not None
    json.loads(process.stdout.readline())
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=5) == 0
    process.stderr.close()
    assert "Broken pipe" not in stderr
    assert "Traceback" not in stderr


def test_full_disk_is_an_error(clip: Path) -> None:
    """Lines that are lost are told, with an exit code of their own."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SCRIPTED, "--source", str(clip)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    assert done.returncode == 74
    assert "avffd: stdout: cannot write (No space left on device)" in done.stderr


def test_failing_engine_ends_with_70_and_without_a_summary(clip: Path) -> None:
    """One line, no traceback, no verdict."""
    done = _run("--source", clip, engine="failing")
    assert done.returncode == 70
    assert done.stderr == "avffd: the engine failed: RuntimeError: the runtime gave up\n"
    assert "summary" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "no source; give --source PATH, --source webcam or --source demo"),
        (["--source", "nope.mp4"], 66, "nope.mp4: no such file"),
        (["--source", "/"], 66, "/: is a directory; give one media file"),
        (["--source", __file__], 65, "not readable as audio or video"),
        (["--source", "gopher://x"], 2, "unknown kind of source 'gopher:'"),
        (["--source", "rtsp:x"], 2, "rtsp:x: names no host"),
        (["--source", "glob:/nope/*"], 66, "glob:/nope/*: matches no file"),
        (["--source", "demo", "--source", "demo", "--name", "x"], 2, "one --name for 2 sources"),
        (["--source", "webcam:99"], 69, "there is no camera /dev/video99"),
        (["--source", "mic:nonesuch"], 69, "microphone"),
        (["--source", "webcam", "--mic", ""], 2, "--mic: "),
        (["calibrate-sync", "--source", "webcam:99"], 69, "there is no camera /dev/video99"),
        (["calibrate-sync", "--source", "demo"], 2, "only a webcam can be measured"),
        (["calibrate-sync", "--mic", "none"], 2, "there must be one to measure it"),
        (["calibrate-sync", "--seconds", "7"], 2, "'7' is not a whole number from 8 to 120"),
        (["devices", "--verbose"], 2, "unrecognized arguments: --verbose"),
        (["--sauce", "x"], 2, "unrecognized arguments: --sauce x"),
        (["--threads", "many"], 2, "'many' is not a whole number from 1 to 256"),
        (["--hop", "9"], 2, "'9' is not a whole number from 1 to 8"),
        (["--format", "xml"], 2, "invalid choice: 'xml'"),
        (["--source", "demo", "--name", ""], 2, "--name: "),
        (["--source", "demo", "--model", "/nope"], 78, "/nope"),
        (["--source", "demo", "--engine", "gpu"], 2, "invalid choice: 'gpu'"),
        (["--source", "demo", "--engine", "tensorrt"], 2, "--engine tensorrt needs a folder of engines"),
        (["--source", "demo", "--engine-dir", "/nope"], 78, "/nope/engine.json: cannot be read"),
        (
            ["--source", "demo", "--engine-dir", "/nope", "--allow-fallback", "--model", "/no"],
            78,
            "/no: holds",
        ),
    ],
)
def test_wrong_input_gives_one_line_and_its_code(arguments: list[str], code: int, message: str) -> None:
    """The thing is named, with the way out, and there is no traceback."""
    done = _run(*arguments, command=REAL)
    states = [json.loads(line)["state"] for line in done.stdout.splitlines()]
    # A source that cannot be opened has states to tell of; a command that stops before has none.
    told = ["starting", "failed"] if code == 69 and arguments[0] == "--source" else []
    assert (done.returncode, states) == (code, told)
    assert message in done.stderr
    lines = done.stderr.splitlines()
    if "usage:" not in done.stderr:
        assert lines[0].startswith(("avffd: ", "avffd devices: ", "avffd calibrate-sync: "))
        assert len(lines) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sorce: demo\n", ["sorce", "source"]),
        ("engine:\n  thread: 2\n", ["thread", "threads"]),
        ("source: demo\nengine:\n  threads: two\n", ["threads"]),
        ("engine:\n  backend: cuda\n", ["backend", "'auto', 'tensorrt' or 'onnx'"]),
        ("rolling:\n  time_constant_s: -1\n", ["time_constant_s"]),
        ("alarm:\n  false_alarms_per_hour: 0\n", ["false_alarms_per_hour"]),
        ("source: [\n", ["daemon.yaml"]),
    ],
    ids=[
        "misspelt",
        "misspelt-inside",
        "wrong-type",
        "wrong-choice",
        "out-of-bounds",
        "no-alarm-ever",
        "no-yaml",
    ],
)
def test_wrong_settings_name_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    """Configuration errors end with 78 before anything is opened."""
    pytest.importorskip("avff.engine.settings")
    path = tmp_path / "daemon.yaml"
    path.write_text(text)
    done = _run("--config", path, command=REAL)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in [str(path), *words])


def test_missing_settings_file(tmp_path: Path) -> None:
    """A configuration that is not there is a configuration error."""
    pytest.importorskip("avff.engine.settings")
    done = _run("--config", tmp_path / "nope.yaml", command=REAL)
    assert done.returncode == 78
    assert "nope.yaml" in done.stderr


def test_flags_override_the_file(clip: Path, tmp_path: Path) -> None:
    """What is said on the command line counts."""
    pytest.importorskip("avff.engine.settings")
    path = tmp_path / "daemon.yaml"
    path.write_text("source: nope.mp4\nname: from-file\nformat: text\n")
    done = _run("--config", path, "--source", clip, "--format", "jsonl", "--name", "from-flag")
    assert {event["stream"] for event in _events(done.stdout)} == {"from-flag"}


def test_help_is_quick_and_lists_the_exit_codes() -> None:
    """Half a second at most: nothing heavy is imported."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run(
            [*REAL, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        times.append(time.monotonic() - began)
    assert min(times) < 0.5
    for code in (0, 2, 65, 66, 69, 70, 74, 78, 130, 143):
        assert str(code) in done.stdout


def test_help_imports_nothing_heavy() -> None:
    """The slow libraries are loaded by those who need them."""
    program = (
        "import sys, avff.daemon.cli; print([m for m in sys.modules if m in {'numpy','cv2','av','pydantic'}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stdout.strip() == "[]"


def test_live_line_is_drawn_on_a_terminal_only(clip: Path) -> None:
    """With stderr on a terminal and stdout in a pipe, one line follows the score."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [*SCRIPTED, "--source", str(clip)], stdout=subprocess.DEVNULL, stderr=terminal, env=_environment()
    )
    os.close(terminal)
    drawn = b""
    try:
        while chunk := os.read(main, 4096):
            drawn += chunk
    except OSError:
        pass  # Linux ends a terminal whose other side is closed with EIO
    os.close(main)
    assert process.wait(timeout=TIMEOUT_S) == 0
    text = drawn.decode()
    assert "\r\x1b[Kclip.mp4  " in text
    assert "\r\x1b[Kclip.mp4: FAKE" in text
    assert "ALARM since" in text
