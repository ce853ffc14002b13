"""``avffd`` as a user runs it, on pipes, several files and streams that are not there."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.avffd import environment
from tests.support.media import write_clip

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parents[2]
SCRIPTED = [sys.executable, str(Path(__file__).with_name("scripted_avffd.py"))]
LIMIT_S = 40.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("media") / "clip.mkv", seconds=4)


def _run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SCRIPTED, *arguments],
        input=stdin,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
        env=environment({"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}),
    )


def _events(stdout: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def _scores(stdout: bytes) -> list[tuple[float, float | None]]:
    return [(event["t"], event["score"]) for event in _events(stdout) if event["type"] == "score"]


def test_pipe_gives_the_events_of_the_file(clip: Path) -> None:
    """Matroska on standard input, waited for like a file: nothing is lost, no states are told."""
    piped = _run("--source", "pipe:", "--format", "jsonl", stdin=clip.read_bytes())
    read = _run("--source", str(clip), "--format", "jsonl")
    assert (piped.returncode, read.returncode) == (0, 0), piped.stderr
    assert _scores(piped.stdout) == _scores(read.stdout)
    assert {event["stream"] for event in _events(piped.stdout)} == {"pipe"}
    assert {event["type"] for event in _events(piped.stdout)} == {"score", "summary"}


def test_file_on_standard_input_can_seek(tmp_path: Path) -> None:
    """An MP4 whose index lies at the end is read when the shell redirects it."""
    path = write_clip(tmp_path / "clip.mp4", seconds=1)
    with path.open("rb") as file:
        done = subprocess.run(
            [*SCRIPTED, "--source", "pipe:", "--format", "jsonl"],
            stdin=file,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
            env=environment({"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}),
        )
    assert done.returncode == 0, done.stderr
    assert _scores(done.stdout)


def test_torn_pipe_is_scored_to_that_point(clip: Path) -> None:
    """A warning with how far it went, and exit code 0, as for a torn file."""
    data = clip.read_bytes()
    done = _run("--source", "pipe:", "--format", "jsonl", stdin=data[: len(data) // 2])
    assert done.returncode == 0
    assert b"standard input: broke off after" in done.stderr
    whole = _run("--source", str(clip), "--format", "jsonl")
    assert 0 < len(_scores(done.stdout)) < 0.75 * len(_scores(whole.stdout))
    assert _events(done.stdout)[-1]["ended"] == "lost"


@pytest.mark.parametrize("data", [b"", b"no media at all\n" * 200], ids=["empty", "text"])
def test_pipe_without_media_is_named(data: bytes) -> None:
    """65 and one line."""
    done = _run("--source", "pipe:", stdin=data)
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"standard input: not readable as audio or video" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_several_files_are_several_streams(clip: Path) -> None:
    """Each has its events and its summary under its own name."""
    done = _run("--source", f"one={clip}", "--source", str(clip), "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    summaries = {event["stream"] for event in _events(done.stdout) if event["type"] == "summary"}
    assert summaries == {"one", "clip.mkv"}


def test_stream_that_is_not_there_is_told_and_tried_until_a_signal() -> None:
    """A line on stderr within seconds, states on stdout, attempts that go on, and a clean end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"rtsp://me:secret@127.0.0.1:{port}/live?token=secret"
    process = subprocess.Popen(
        [*SCRIPTED, "--source", url, "--format", "jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}),
    )
    try:
        assert process.stdout is not None
        head = b"".join(process.stdout.readline() for _ in range(4))
        process.send_signal(signal.SIGINT)
        began_s = time.monotonic()
        stdout, stderr = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()
    assert time.monotonic() - began_s < 5
    assert process.returncode == 0
    shown = f"rtsp://127.0.0.1:{port}/live"
    assert stderr.decode().splitlines() == [
        f"avffd: {shown}: connection refused; trying again for as long as it takes"
    ]
    events = _events(head + stdout)
    assert [event["state"] for event in events[:2]] == ["starting", "reconnecting"]
    assert [event["attempt"] for event in events[1:4]] == [1, 2, 3]
    assert {event["reason"] for event in events[1:4]} == {"refused"}
    assert events[-1]["state"] == "ended"
    assert b"secret" not in head + stdout + stderr


def test_stalled_pipe_does_not_keep_the_program(clip: Path) -> None:
    """A writer that stopped holds the pipe open: a signal still ends it, with what had come scored."""
    process = subprocess.Popen(
        [*SCRIPTED, "--source", "pipe:", "--format", "jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        data = clip.read_bytes()
        process.stdin.write(data[: len(data) * 3 // 4])
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        stdout = process.stdout.read()
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.communicate()
    assert _events(stdout)[-1]["ended"] == "stopped"
