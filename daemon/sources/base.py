"""The seam behind which all media comes in.

A source is opened by ``async with`` and then iterated: it yields lists of media
items, so that one trip through the event loop carries several.  Blocking libraries
run in a thread of the source's own (:class:`avff.daemon.worker.Worker`), and the
source holds the one mailbox between that thread and the loop: files wait when it
is full, live sources drop their oldest item.

To add a source: one file here, one line in ``sources/__init__.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from avff.daemon.config import CameraSettings, MicrophoneSettings, NetworkSettings, QueueSettings
from avff.engine.media import MediaItem


class Source(Protocol):
    """Where one stream's media comes from.

    Attributes:
        name: of the stream, unique within the daemon.
        live: whether time goes on without us; live streams drop rather than wait.
        has_video, has_audio: which tracks there are; known once the source is open.
        max_skew_ns: how far picture and sound may arrive apart, in ns; None for the engine's default.
        dropped: items lost so far because nobody took them in time.
    """

    @property
    def name(self) -> str: ...
    @property
    def live(self) -> bool: ...
    @property
    def has_video(self) -> bool: ...
    @property
    def has_audio(self) -> bool: ...
    @property
    def max_skew_ns(self) -> int | None: ...
    @property
    def dropped(self) -> int: ...

    async def __aenter__(self) -> Self:
        """Open the device or file.

        Raises:
            SourceError: it cannot be opened; the message names it and the way out.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release everything, within a second, whatever the driver does."""
        ...

    def __aiter__(self) -> AsyncIterator[list[MediaItem]]:
        """Iterate over batches of items in order of arrival; called once.

        An empty batch says that a stretch is over and that it may be long until the next one begins.

        Raises:
            SourceError: the source broke; what it yielded before is still scored.
        """
        ...

    def stop(self) -> None:
        """End the iteration after what has already arrived; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What an adapter may need to know besides its URI.

    Attributes:
        realtime: play files at their own speed.
        queues: sizes of mailboxes.
        camera: what to ask of a camera.
        microphone: which one goes with a camera, and how late it is.
        network: how to reach network streams.
    """

    realtime: bool = False
    queues: QueueSettings = field(default_factory=QueueSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    microphone: MicrophoneSettings = field(default_factory=MicrophoneSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)


@dataclass(frozen=True, slots=True)
class Lost:
    """A source could not be opened, or broke, and will be tried again.

    Attributes:
        reason: one word for programs; ``docs/events.md`` lists them.
        message: one line for people.
        attempt: the attempt that comes next, counted from 1 since media last came.
        retry_s: time until it begins, in s.
    """

    reason: str
    message: str
    attempt: int
    retry_s: float


@dataclass(frozen=True, slots=True)
class Connected:
    """A source that had been lost, or never been there, is open."""


Notice = Lost | Connected


@runtime_checkable
class Reporting(Protocol):
    """A source that comes back by itself and says how that goes.

    Attributes:
        sent_ns: Unix time of the newest item by its sender's clock, in ns; None where it does not tell.
    """

    @property
    def sent_ns(self) -> int | None: ...

    def report_to(self, listener: Callable[[Notice], None]) -> None:
        """Call ``listener`` on the event loop with every notice; to be called before opening."""
        ...


Opener = Callable[[str, str | None, SourceSettings], Source]
"""Makes a source from the part of the URI behind the scheme, an optional name, and the settings."""
