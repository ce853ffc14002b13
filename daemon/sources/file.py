"""Media files, read in a thread of their own.

A file waits: when the stages behind it are slow, decoding stops until they have
caught up, so that every hop of a file gets its event.  A file that breaks off is
scored to that point and reported; it is an error only if nothing could be read.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.mailbox import Mailbox, MailboxClosed
from avff.daemon.sources.base import SourceSettings
from avff.daemon.worker import Worker
from avff.engine.errors import MediaError
from avff.engine.media import NS_PER_S, MediaItem, VideoFrame

if TYPE_CHECKING:
    from avff.engine.decode import MediaReader

log = logging.getLogger(__name__)

BATCH_ITEMS = 16
BATCH_BYTES = 8 * 1024 * 1024
"""Bounds memory for large pictures: a batch is full at the first picture that passes it."""
OPEN_TIMEOUT_S = 30.0


def open_file(rest: str, name: str | None, settings: SourceSettings) -> FileSource:
    """Return the source for a path; whether it can be read shows when it is opened.

    Raises:
        SourceError: the path is empty.
    """
    if not rest:
        raise SourceError("file: needs a path, as in file:clip.mp4", ExitCode.USAGE)
    path = Path(rest)
    return FileSource(path, name or path.name or str(path), settings)


def open_demo(rest: str, name: str | None, settings: SourceSettings) -> FileSource:
    """Return the source for the clip that ships with the package.

    Raises:
        SourceError: something follows the scheme.
    """
    if rest:
        raise SourceError(f"demo takes no argument, but '{rest}' follows it", ExitCode.USAGE)
    return FileSource(demo_clip(), name or "demo", settings)


def demo_clip() -> Path:
    """Return the path of the clip that ships with the package."""
    return Path(str(importlib.resources.files("avff.engine") / "demo" / "talking_photo.mp4"))


class FileSource:
    """Plays a file as fast as it is taken, or at its own speed with ``realtime``.

    Args:
        path: the file; with ``open_reader``, what people call the input.
        name: of the stream.
        settings: queue sizes and pace.
        open_reader: opens something else than a file, in the decoding thread.
    """

    live = False
    max_skew_ns = None
    dropped = 0

    def __init__(
        self,
        path: Path | str,
        name: str,
        settings: SourceSettings,
        open_reader: Callable[[], MediaReader] | None = None,
    ) -> None:
        self.name = name
        self.has_video = False
        self.has_audio = False
        self._path = path
        self._realtime = settings.realtime
        self._box: Mailbox[list[MediaItem]] = Mailbox(settings.queues.file_batches)
        self._worker = Worker(f"decode:{name}")
        self._stopping = threading.Event()
        self._open_reader = open_reader
        self._reader: MediaReader | None = None
        self._reading: asyncio.Future[str | None] | None = None

    async def __aenter__(self) -> Self:
        """Open the file and find its tracks.

        Raises:
            SourceError: it is missing, a directory, or no media.
        """
        open_reader = self._open_reader or _opener_of(Path(self._path))
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                self._reader = await self._worker.run(open_reader)
        except MediaError as error:
            await self._worker.close()
            raise SourceError(str(error), ExitCode.MEDIA) from error
        except TimeoutError:
            await self._worker.close()
            raise SourceError(f"{self._path}: not open after {OPEN_TIMEOUT_S:g} s", ExitCode.MEDIA) from None
        self.has_video, self.has_audio = self._reader.has_video, self._reader.has_audio
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop decoding and close the file in its own thread."""
        self.stop()
        if self._reading is not None:
            self._reading.cancel()  # an error nobody asks for any more
        if self._reader is not None:
            self._worker.submit(self._reader.close)
        await self._worker.close()

    def stop(self) -> None:
        """End the iteration after the batches that already wait."""
        self._stopping.set()
        self._box.close()

    def __aiter__(self) -> Self:
        """Start decoding; call once."""
        self._reading = self._worker.submit(self._read, asyncio.get_running_loop())
        return self

    async def __anext__(self) -> list[MediaItem]:
        """Return the next batch.

        Raises:
            SourceError: nothing could be decoded (65), or the file broke off (0: a warning).
        """
        try:
            return await self._box.get()
        except MailboxClosed:
            pass
        assert self._reading is not None, "__aiter__ comes first"
        try:
            broken = None if self._stopping.is_set() else await self._reading
        except MediaError as error:
            raise SourceError(str(error), ExitCode.MEDIA) from error
        if broken is not None:
            raise SourceError(broken, ExitCode.OK)
        raise StopAsyncIteration

    def _read(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Decode to the end, in the worker's thread.

        Returns:
            What to warn of when the file broke off, else None.
        """
        assert self._reader is not None, "open before reading"
        end_ns = 0
        try:
            items = self._paced(self._reader) if self._realtime else iter(self._reader)
            for batch in _batches(items, 1 if self._realtime else BATCH_ITEMS):
                asyncio.run_coroutine_threadsafe(self._box.put(batch), loop).result()
                end_ns = max(end_ns, *(item.pts_ns for item in batch))
        except MailboxClosed:
            return None  # stopped: what waits is still played, the rest is not wanted
        finally:
            loop.call_soon_threadsafe(self._box.close)
        return self._damage(self._reader, end_ns)

    def _damage(self, reader: MediaReader, end_ns: int) -> str | None:
        """Return what to warn of when the file broke off; of less damage, warn here."""
        gaps = f"damaged packets left out: {reader.damaged}" if reader.damaged else ""
        if reader.truncated is None:
            if gaps:
                log.warning("%s: %s", self._path, gaps)
            return None
        why = "; ".join(filter(None, (reader.truncated, gaps)))
        return f"{self._path}: broke off after {end_ns / NS_PER_S:.1f} s ({why}); scored to that point"

    def _paced(self, items: Iterable[MediaItem]) -> Iterator[MediaItem]:
        """Hold each item until its media time has come; it "arrives" then."""
        start_ns: int | None = None
        for item in items:
            start_ns = start_ns if start_ns is not None else time.monotonic_ns() - item.pts_ns
            wait_s = (start_ns + item.pts_ns - time.monotonic_ns()) / NS_PER_S
            if wait_s > 0 and self._stopping.wait(wait_s):
                return
            yield replace(item, captured_ns=time.monotonic_ns())


def check_path(path: Path) -> None:
    """Refuse what cannot be a file before anything is loaded.

    Raises:
        SourceError: it is missing, or a directory.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file", ExitCode.NO_INPUT)
    if path.is_dir():
        raise SourceError(f"{path}: is a directory; give one media file", ExitCode.NO_INPUT)


def _opener_of(path: Path) -> Callable[[], MediaReader]:
    check_path(path)

    def open_reader() -> MediaReader:
        from avff.engine.decode import open_media  # loads FFmpeg, so in the thread and on demand

        return open_media(path)

    return open_reader


def _batches(items: Iterator[MediaItem], max_items: int) -> Iterator[list[MediaItem]]:
    """Group items so that one trip through the loop carries several."""
    batch: list[MediaItem] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.rgb.nbytes if isinstance(item, VideoFrame) else item.pcm.nbytes
        if len(batch) >= max_items or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
