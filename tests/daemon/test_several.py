from __future__ import annotations

from pathlib import Path

import pytest

from avff.daemon.build import daemon_from_config
from avff.daemon.config import DaemonConfig
from avff.daemon.errors import DaemonError, ExitCode, SourceError
from avff.daemon.sources import expand, free_name
from avff.daemon.sources.several import MOST_FILES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.mp4", "a.mp4", "c.txt", "x=y.mp4"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("a.mp4", [("a.mp4", None)]),
        ("x=y.mp4", [("x=y.mp4", None)]),
        ("door=rtsp://cam/live", [("rtsp://cam/live", "door")]),
        ("rtsp://cam/live?a=b", [("rtsp://cam/live?a=b", None)]),
        ("glob:?.mp4", [("file:a.mp4", None), ("file:b.mp4", None)]),
        ("set=glob:?.mp4", [("file:a.mp4", "set/a.mp4"), ("file:b.mp4", "set/b.mp4")]),
    ],
)
def test_one_argument_stands_for_one_or_several(
    folder: Path, uri: str, expected: list[tuple[str, str | None]]
) -> None:
    """Names in front, files by pattern in order of name; what exists is a path."""
    assert expand(uri) == expected


def test_pattern_without_a_file_is_named(folder: Path) -> None:
    """Nothing to score is an error, not an empty run."""
    with pytest.raises(SourceError, match="matches no file") as raised:
        expand("glob:*.mkv")
    assert raised.value.exit_code == ExitCode.NO_INPUT


def test_pattern_with_too_many_files_is_refused(folder: Path) -> None:
    """All of them run at once, so there is a limit, and it is told."""
    for k in range(MOST_FILES + 1):
        (folder / f"{k}.wav").write_bytes(b"x")
    with pytest.raises(SourceError, match="17 files, and at most 16"):
        expand("glob:*.wav")


def test_names_never_clash(folder: Path) -> None:
    """Events of two streams could not be told apart."""
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a", "a#2"}) == "a#3"
    daemon = daemon_from_config(
        DaemonConfig(source=["a.mp4", "a.mp4", "door=a.mp4", "rtsp://h/x", "rtsp://h/x?2"])
    )
    names = [stream.source.name for stream in daemon._streams]
    assert names == ["a.mp4", "a.mp4#2", "door", "rtsp://h/x", "rtsp://h/x#2"]


@pytest.mark.parametrize("source", [None, []])
def test_no_source_is_a_usage_error(source: list[str] | None) -> None:
    """An empty list is none as well."""
    with pytest.raises(DaemonError, match="no source; give --source"):
        daemon_from_config(DaemonConfig(source=source))


def test_one_name_for_several_sources_is_refused() -> None:
    """The message names the way to name each."""
    with pytest.raises(DaemonError, match="NAME=URI"):
        daemon_from_config(DaemonConfig(source=["demo", "demo"], name="x"))
