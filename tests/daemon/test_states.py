from __future__ import annotations

import random
from itertools import pairwise

import pytest

from avff.daemon.course import SETTLE_NS
from avff.daemon.states import ABSTAIN_NS, STALE_NS, StateMachine
from avff.daemon.status import Change, State
from avff.engine.media import NS_PER_S

HOP_S = 0.32
PICTURES = 8


class Followed:
    """A machine with a clock that the test turns, and everything it told."""

    def __init__(self, *, has_both: bool = False) -> None:
        self.machine = StateMachine(has_both=has_both)
        self.now_ns = 1_000 * NS_PER_S
        self.changes: list[Change] = []
        self._dropped = 0
        self._keep(self.machine.tick(self.now_ns))

    def connect(self) -> None:
        self._keep(self.machine.connected(self.now_ns))

    def lose(self, reason: str = "refused", attempt: int = 1) -> None:
        self._keep(self.machine.lost(self.now_ns, reason, "it is gone", attempt, 0.5))

    def wait(self, seconds: float) -> None:
        """Let time pass without media."""
        for _ in range(round(seconds * 10)):
            self.now_ns += NS_PER_S // 10
            self._keep(self.machine.tick(self.now_ns))

    def play(
        self,
        seconds: float,
        reason: str | None = None,
        *,
        modality: str = "av",
        pictures: int = PICTURES,
        lost: int = 0,
    ) -> None:
        """Let media come, and a window be judged each hop, in which so many items are lost."""
        for _ in range(round(seconds / HOP_S)):
            self.now_ns += round(HOP_S * NS_PER_S)
            self._keep(self.machine.media(self.now_ns, pictures))
            self._dropped += lost
            self._keep(self.machine.judged(self.now_ns, self.now_ns, reason, modality, self._dropped))

    def end(self) -> None:
        self._keep(self.machine.ended(self.now_ns, "end"))

    def fail(self) -> None:
        self._keep(self.machine.failed(self.now_ns, "device_lost", "no camera"))

    @property
    def told(self) -> list[tuple[str, str | None]]:
        return [
            (str(c.status.state), None if c.status.reason is None else str(c.status.reason))
            for c in self.changes
        ]

    def _keep(self, change: Change | None) -> None:
        if change is not None:
            self.changes.append(change)


@pytest.fixture
def live() -> Followed:
    """A stream that has been scored for a while."""
    followed = Followed(has_both=True)
    followed.connect()
    followed.play(2.24, "too_short")
    followed.play(5)
    assert followed.told == [("starting", None), ("live", None)]
    followed.changes.clear()
    return followed


def test_first_score_is_live_at_once() -> None:
    """Windows that are not full yet are part of starting."""
    followed = Followed()
    followed.connect()
    followed.play(2.24, "too_short")
    assert followed.told == [("starting", None)]
    followed.play(HOP_S)
    assert followed.told == [("starting", None), ("live", None)]
    assert followed.changes[-1].before is State.STARTING


def test_first_full_window_without_evidence_abstains_at_once() -> None:
    """Nobody there at the start is told with the first window that could have had a score."""
    followed = Followed()
    followed.connect()
    followed.play(2.24, "too_short")
    followed.play(HOP_S, "no_face")
    assert followed.told[-1] == ("abstain", "no_face")


def test_loading_models_is_no_silence() -> None:
    """An open source whose media nobody takes yet stays starting, however long it lasts."""
    followed = Followed()
    followed._keep(followed.machine.connected(followed.now_ns, taken=False))
    followed.wait(60)
    assert followed.told == [("starting", None)]


def test_silence_is_stale_after_1_s_and_abstains_after_3(live: Followed) -> None:
    """The watchdog goes by the clock; the age of the newest item is told."""
    live.wait(5)
    assert live.told == [("stale", "no_media"), ("abstain", "no_media")]
    stale, silent = live.changes
    assert STALE_NS <= (stale.age_ns or 0) < STALE_NS + NS_PER_S // 5
    assert ABSTAIN_NS <= (silent.age_ns or 0) < ABSTAIN_NS + NS_PER_S // 5
    assert (stale.before, silent.before) == (State.LIVE, State.STALE)


def test_source_that_opens_and_sends_nothing_abstains() -> None:
    """There is nothing to be stale of; after 3 s it is known that nothing comes."""
    followed = Followed()
    followed.connect()
    followed.wait(2.5)
    assert followed.told == [("starting", None)]
    followed.wait(1)
    assert followed.told[-1] == ("abstain", "no_media")


def test_a_hiccup_of_media_is_followed_by_what_was_before(live: Followed) -> None:
    """After 2 s the window still holds what was scored."""
    live.wait(2)
    live.play(HOP_S)
    assert live.told == [("stale", "no_media"), ("live", None)]


def test_after_a_longer_silence_only_scores_make_it_live(live: Followed) -> None:
    """Media that is back is not yet evidence; the last score is not current again."""
    live.wait(4)
    live.play(2.24, "no_media")
    assert live.told == [("stale", "no_media"), ("abstain", "no_media")]
    live.play(SETTLE_NS / NS_PER_S + 2 * HOP_S)
    assert live.told[-1] == ("live", None)


def test_one_odd_window_changes_nothing(live: Followed) -> None:
    """A single null, or a single score between nulls, is noise."""
    for _ in range(5):
        live.play(HOP_S, "no_face")
        live.play(3 * HOP_S)
    assert live.told == []


def test_evidence_that_is_gone_for_a_second_abstains_with_its_reason(live: Followed) -> None:
    """And comes back in the same way; reasons that alternate do not keep it from abstaining."""
    for _ in range(3):
        live.play(HOP_S, "no_face")
        live.play(HOP_S, "face_turned")
    assert [state for state, _ in live.told] == ["abstain"]
    live.play(2)
    assert live.told[-1] == ("live", None)


def test_another_reason_that_lasts_is_told(live: Followed) -> None:
    """The state is the same, its reason is not."""
    live.play(3, "no_face")
    live.play(3, "bad_exposure")
    assert live.told == [("abstain", "no_face"), ("abstain", "bad_exposure")]
    assert live.changes[-1].before is State.ABSTAIN


@pytest.mark.parametrize(
    ("how", "flaw"),
    [
        ({"modality": "video"}, "video_only"),
        ({"modality": "audio"}, "audio_only"),
        ({"lost": 1}, "dropping"),
        ({"pictures": 3}, "low_fps"),
    ],
)
def test_scores_with_a_flaw_are_degraded(live: Followed, how: dict[str, object], flaw: str) -> None:
    """Each flaw has its word, and without it the stream is live again."""
    live.play(5, **how)  # type: ignore[arg-type]
    assert live.told == [("degraded", flaw)]
    live.play(8)
    assert live.told[-1] == ("live", None)


def test_losing_once_is_no_flaw(live: Followed) -> None:
    """A hiccup of another program is over before anybody could act."""
    live.play(HOP_S, lost=20)
    live.play(10)
    assert live.told == []


def test_modality_is_no_flaw_where_there_is_one_track() -> None:
    """A camera without a microphone is all that was asked for."""
    followed = Followed(has_both=False)
    followed.connect()
    followed.play(5, modality="video")
    assert followed.told[-1] == ("live", None)


def test_outage_tells_each_attempt_and_starts_over(live: Followed) -> None:
    """While it is away nothing else is told; afterwards it is starting, not live."""
    live.lose("closed", 1)
    live.wait(10)
    live.lose("refused", 2)
    live.lose("refused", 3)
    live.connect()
    live.play(2.24, "too_short")
    live.play(HOP_S)
    assert live.told == [
        ("reconnecting", "closed"), ("reconnecting", "refused"), ("reconnecting", "refused"),
        ("starting", None), ("live", None),
    ]  # fmt: skip
    assert [c.status.attempt for c in live.changes] == [1, 2, 3, 0, 0]


def test_window_from_before_an_outage_is_no_news(live: Followed) -> None:
    """The engine may still have been at it."""
    old_ns = live.now_ns
    live.lose()
    live.wait(1)
    live.connect()
    live._keep(live.machine.judged(live.now_ns, old_ns, None, "av", 0))
    assert live.told[-1] == ("starting", None)


@pytest.mark.parametrize("failing", [False, True])
def test_the_end_is_the_last_word(live: Followed, failing: bool) -> None:
    """Whatever comes in later."""
    live.fail() if failing else live.end()
    live.end()
    live.lose()
    live.play(3)
    live.wait(5)
    assert live.told == [("failed", "device_lost") if failing else ("ended", "end")]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_the_state_is_true(seed: int) -> None:
    """Random lives: scores are only promised on media that is there, and nothing is told twice."""
    chance = random.Random(seed)
    followed = Followed(has_both=True)
    away = lost = False
    media_ns = since_ns = -1
    for _ in range(300):
        what = chance.random()
        if what < 0.03:
            followed.lose(attempt=chance.randint(1, 3))
            away = lost = True
        elif what < 0.10:
            followed.connect()
            away, since_ns = False, followed.now_ns
        elif what < 0.15:
            followed.wait(chance.choice([0.5, 1.5, 4]))
        else:
            reason = chance.choice([None, None, None, "no_face", "too_short"])
            followed.play(HOP_S * chance.randint(1, 5), reason, modality=chance.choice(["av", "av", "video"]))
            media_ns = followed.now_ns
        status = followed.changes[-1].status
        silent_ns = followed.now_ns - max(media_ns, since_ns)
        if status.state in (State.LIVE, State.DEGRADED):
            assert not (lost and away)
            assert silent_ns < STALE_NS
        assert (status.state is State.RECONNECTING) == (lost and away)
        assert (status.reason is None) == (status.state in (State.STARTING, State.LIVE))
    for one, other in pairwise(followed.changes):
        assert one.status != other.status
        assert other.before is one.status.state
    assert all(change.age_ns is None or change.age_ns >= 0 for change in followed.changes)
