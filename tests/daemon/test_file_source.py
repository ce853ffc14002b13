from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from avff.daemon.config import QueueSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import SourceSettings, open_source
from avff.daemon.sources.file import BATCH_BYTES, BATCH_ITEMS, FileSource, _batches
from avff.daemon.worker import abandoned_threads
from avff.engine.decode import open_media
from avff.engine.media import MediaItem, VideoFrame
from tests.support.media import write_clip

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("media") / "clip.mp4", seconds=2)


async def _take(source: FileSource, taken: list[MediaItem]) -> None:
    async for batch in source:
        taken.extend(batch)


async def _play(source: FileSource) -> list[MediaItem]:
    async with source:
        return [item async for batch in source for item in batch]


async def test_plays_every_item_in_file_order(clip: Path) -> None:
    """Nothing is added, lost or moved between the decoder and the stages."""
    with open_media(clip) as reader:
        expected = [(type(item), item.pts_ns) for item in reader]
    source = FileSource(clip, "clip", SourceSettings())
    played = [(type(item), item.pts_ns) for item in await _play(source)]
    assert played == expected
    assert (source.has_video, source.has_audio, source.live, source.dropped) == (True, True, False, 0)
    assert abandoned_threads() == []


async def test_decoding_waits_for_a_slow_taker(clip: Path) -> None:
    """Never more batches are queued than the mailbox holds, and none is lost."""
    source = FileSource(clip, "clip", SourceSettings(queues=QueueSettings(file_batches=1)))
    taken, most = 0, 0
    async with source:
        async for batch in source:
            await asyncio.sleep(0.02)
            most = max(most, len(source._box))
            taken += len(batch)
    with open_media(clip) as reader:
        assert taken == len(list(reader))
    assert most == 1


async def test_batches_are_bounded_by_count_and_by_bytes() -> None:
    """Large pictures travel one by one, small items sixteen at a time."""
    small = VideoFrame(0, np.zeros((2, 2, 3), np.uint8), 0)
    large = VideoFrame(0, np.zeros((1, BATCH_BYTES // 3, 3), np.uint8), 0)
    assert [len(b) for b in _batches(iter([small] * 40), BATCH_ITEMS)] == [16, 16, 8]
    assert max(len(b) for b in _batches(iter([large] * 3), BATCH_ITEMS)) <= 2


async def test_realtime_takes_as_long_as_the_media(tmp_path: Path) -> None:
    """The pace is the file's own, and items arrive when they are due."""
    clip = write_clip(tmp_path / "short.mp4", seconds=0.6, audio=False)
    began_ns = time.monotonic_ns()
    items = await _play(FileSource(clip, "clip", SourceSettings(realtime=True)))
    assert 0.5e9 < time.monotonic_ns() - began_ns < 2e9
    delays_ms = [(item.captured_ns - items[0].captured_ns - item.pts_ns) / 1e6 for item in items]
    assert min(delays_ms) > -5


async def test_realtime_and_full_speed_play_the_same(clip: Path, tmp_path: Path) -> None:
    """Only the arrival times differ."""
    clip = write_clip(tmp_path / "short.mp4", seconds=0.4)
    fast = await _play(FileSource(clip, "clip", SourceSettings()))
    slow = await _play(FileSource(clip, "clip", SourceSettings(realtime=True)))
    assert [item.pts_ns for item in fast] == [item.pts_ns for item in slow]


async def test_stop_ends_the_iteration_soon(tmp_path: Path) -> None:
    """A file played at its own speed does not have to end by itself."""
    clip = write_clip(tmp_path / "long.mp4", seconds=20, audio=False, fps=10)
    source = FileSource(clip, "clip", SourceSettings(realtime=True))
    async with source, asyncio.timeout(3):
        async for _ in source:
            source.stop()
            source.stop()
    assert abandoned_threads() == []


async def test_leaving_early_releases_the_thread(clip: Path) -> None:
    """A taker that gives up leaves no thread behind, even while decoding waits for room."""
    source = FileSource(clip, "clip", SourceSettings(queues=QueueSettings(file_batches=1)))
    async with source:
        async for _ in source:
            break
    assert abandoned_threads() == []


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda path: None, ExitCode.NO_INPUT, "no such file"),
        (lambda path: path.mkdir(), ExitCode.NO_INPUT, "is a directory"),
        (lambda path: path.write_bytes(b""), ExitCode.MEDIA, "is empty"),
        (lambda path: path.write_text("hello\n" * 100), ExitCode.MEDIA, "not readable"),
    ],
    ids=["missing", "directory", "empty", "text"],
)
async def test_unreadable_input_is_named(tmp_path: Path, make: object, code: int, words: str) -> None:
    """One line that names the file, with its exit code, and no thread left."""
    path = tmp_path / "bad.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=words) as raised:
        await _play(FileSource(path, "bad", SourceSettings()))
    assert raised.value.exit_code == code
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert abandoned_threads() == []


async def test_a_file_that_breaks_off_is_played_to_that_point(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was readable comes out first, then a warning with exit code 0."""
    taken: list[MediaItem] = []
    async with FileSource(clip, "clip", SourceSettings()) as source:
        assert source._reader is not None
        source._reader.truncated = "torn"
        with pytest.raises(SourceError, match=r"broke off after 2\.0 s \(torn\)") as raised:
            await _take(source, taken)
    assert len(taken) > 50
    assert raised.value.exit_code == ExitCode.OK


async def test_demo_is_packaged() -> None:
    """The clip that ships with the program can be opened."""
    async with open_source("demo") as source:
        assert source.has_video
        assert source.name == "demo"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gopher://host/x", "unknown kind of source 'gopher:'; known are a path and file, demo, webcam"),
        ("demo:x", "takes no argument"),
        ("file:", "needs a path"),
        ("webcam:front", "webcam:N"),
    ],
)
async def test_wrong_uri_is_a_usage_error(uri: str, words: str) -> None:
    """The message names the way out."""
    with pytest.raises(SourceError, match=words) as raised:
        open_source(uri)
    assert raised.value.exit_code == ExitCode.USAGE


async def test_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists is a file, whatever it looks like."""
    write_clip(tmp_path / "take:1.mkv", seconds=0.2, audio=False)
    monkeypatch.chdir(tmp_path)
    assert open_source("take:1.mkv").name == "take:1.mkv"
    async with open_source(str(tmp_path / "take:1.mkv")) as source:
        assert not source.has_audio
