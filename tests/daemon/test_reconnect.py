from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Self

import pytest

from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import reconnect
from avff.daemon.sources.backoff import BackOff
from avff.daemon.sources.base import Connected, Lost, Notice, Source
from avff.daemon.sources.reconnect import ReconnectingSource
from avff.daemon.sources.scripted import ScriptedSource
from avff.engine.media import MediaItem
from tests.support.scripted import pictures

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(20)]

GONE = SourceError("gone", ExitCode.UNAVAILABLE, "closed")


class ScriptedDoor(ScriptedSource):
    """A source whose opening fails with an error, or takes for ever."""

    def __init__(self, *, refuse: SourceError | None = None, stuck: bool = False) -> None:
        super().__init__(pictures(4), live=True)
        self._refuse = refuse
        self._stuck = stuck

    async def __aenter__(self) -> Self:
        if self._refuse is not None:
            raise self._refuse
        if self._stuck:
            try:
                await asyncio.Event().wait()
            finally:
                self.closed = True
        return await super().__aenter__()


def _playing(count: int = 8, error: SourceError | None = GONE, *, endless: bool = False) -> ScriptedSource:
    return ScriptedSource(pictures(count), live=True, error=error, endless=endless)


class Rig:
    """A reconnecting source over a list of sources, with its notices and hardly any delay."""

    def __init__(self, *sources: Source) -> None:
        self.notices: list[Notice] = []
        self.made = 0
        self._sources = list(sources)
        self.source = ReconnectingSource("cam", self._make, BackOff(Random(1), first_s=0.001, longest_s=0.01))
        self.source.report_to(self.notices.append)

    def _make(self) -> Source:
        self.made += 1
        return self._sources[min(self.made, len(self._sources)) - 1]

    @property
    def told(self) -> list[str]:
        return [n.reason if isinstance(n, Lost) else "connected" for n in self.notices]

    async def play(
        self, enough: Callable[[list[list[MediaItem]]], bool] = lambda batches: False
    ) -> list[list[MediaItem]]:
        """Take batches until there are enough, then stop."""
        batches: list[list[MediaItem]] = []
        async with self.source:
            async for batch in self.source:
                batches.append(batch)
                if enough(batches):
                    self.source.stop()
        return batches


def _stretches(batches: list[list[MediaItem]]) -> set[int]:
    return {item.stretch for batch in batches for item in batch}


async def test_delays_double_from_half_a_second_to_thirty() -> None:
    """With jitter that only shortens them, from the generator it was given."""
    back_off, same = BackOff(Random(3)), BackOff(Random(3))
    delays = [back_off.next_s() for _ in range(40)]
    bounds = [min(30.0, 0.5 * 2**k) for k in range(40)]
    assert all(0.75 * bound <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays[10:])) == 30
    assert back_off.attempt == 40
    back_off.reset()
    assert back_off.next_s() <= 0.5
    assert 22.5 <= back_off.next_s(slow=True) <= 30
    assert delays == [same.next_s() for _ in range(40)]


async def test_lost_source_is_made_anew_and_goes_on_as_a_stretch() -> None:
    """An empty batch marks the end of a stretch; media time never goes back."""
    rig = Rig(_playing(), _playing(), _playing(endless=True))
    batches = await rig.play(lambda taken: 2 in _stretches(taken))
    assert rig.told == ["connected", "closed", "connected", "closed", "connected"]
    assert batches.count([]) == 2
    times = [item.pts_ns for batch in batches for item in batch]
    assert times == sorted(times)
    assert times[0] == 0


async def test_source_that_cannot_be_opened_is_tried_until_it_can() -> None:
    """Each attempt is told with its number; the first connection settles the tracks."""
    closed = ScriptedDoor(refuse=SourceError("no answer", ExitCode.UNAVAILABLE, "timed_out"))
    rig = Rig(closed, closed, closed, _playing(endless=True))
    await rig.play(lambda taken: True)
    lost = [notice for notice in rig.notices if isinstance(notice, Lost)]
    assert [(n.reason, n.message, n.attempt) for n in lost] == [
        ("timed_out", "no answer", k) for k in (1, 2, 3)
    ]
    assert rig.notices[-1] == Connected()
    assert (rig.source.has_video, rig.source.has_audio) == (True, False)


@pytest.mark.parametrize("at_first", [True, False])
async def test_error_that_no_attempt_can_change_is_raised(at_first: bool) -> None:
    """A wrong URL does not get better by waiting."""
    wrong = ScriptedDoor(refuse=SourceError("no such protocol", ExitCode.USAGE, "unsupported"))
    rig = Rig(*([wrong] if at_first else [_playing(), wrong]))
    with pytest.raises(SourceError, match="no such protocol"):
        await rig.play()


@pytest.mark.parametrize("opening", ["stuck", "refused", "playing"])
async def test_stop_ends_it_at_once_at_any_point(opening: str) -> None:
    """While it opens, while it waits, and while it plays."""
    sources = {
        "stuck": ScriptedDoor(stuck=True),
        "refused": ScriptedDoor(refuse=GONE),
        "playing": _playing(endless=True),
    }
    rig = Rig(sources[opening])
    rig.source._back_off = BackOff(Random(1), first_s=100, longest_s=100)
    playing = asyncio.create_task(rig.play())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        rig.source.stop()
        rig.source.stop()
        await playing
    assert len(asyncio.all_tasks()) == 1
    assert opening == "refused" or sources[opening].closed


@pytest.mark.parametrize(
    "opening", [ScriptedDoor(stuck=True), ScriptedDoor(refuse=GONE)], ids=["stuck", "waiting"]
)
async def test_cancelling_leaves_nothing_behind(opening: ScriptedDoor) -> None:
    """The daemon cancels a stream that is still opening."""
    rig = Rig(opening)
    rig.source._back_off = BackOff(Random(1), first_s=100, longest_s=100)
    playing = asyncio.create_task(rig.play())
    await asyncio.sleep(0.05)
    playing.cancel()
    async with asyncio.timeout(1):
        await asyncio.wait({playing})
    assert playing.cancelled()
    assert len(asyncio.all_tasks()) == 1


async def test_good_connection_makes_the_next_delay_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are counted since media last came for a while."""
    monkeypatch.setattr(reconnect, "STEADY_S", 0.0)
    closed = ScriptedDoor(refuse=GONE)
    good = ScriptedSource(pictures(8), live=True, error=GONE, pause_s=0.002)
    rig = Rig(closed, closed, good, closed, _playing(endless=True))
    await rig.play(lambda taken: 1 in _stretches(taken))
    assert [notice.attempt for notice in rig.notices if isinstance(notice, Lost)] == [1, 2, 1, 2]


async def test_source_that_ends_by_itself_ends() -> None:
    """Only what breaks is tried again."""
    rig = Rig(_playing(error=None))
    batches = await rig.play()
    assert sum(map(len, batches)) == 8
    assert rig.made == 1


async def test_losses_are_counted_over_all_connections() -> None:
    """What was dropped before an outage stays dropped."""
    first = ScriptedSource(pictures(40), live=True, capacity=4, error=GONE)
    rig = Rig(first, _playing(endless=True))
    async with rig.source:
        async for batch in rig.source:
            await asyncio.sleep(0.02)
            if 1 in _stretches([batch]):
                rig.source.stop()
    assert first.dropped > 0
    assert rig.source.dropped >= first.dropped
