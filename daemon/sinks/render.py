"""Events as text for people.  Pure: strings in, strings out."""

from __future__ import annotations

from collections.abc import Sequence

from avff.daemon.alarms import AlarmSummary
from avff.daemon.events import PARTS, AlarmEvent, ScoreEvent, StateEvent, SummaryEvent
from avff.daemon.status import State, Status
from avff.daemon.summary import Verdict, seconds
from avff.engine.alarm import Alarm, Cause

CLEAR_LINE = "\r\x1b[K"
BAR_WIDTH = 10
MAX_SPANS_SHOWN = 8
"""Of suspicious spans, and of alarms."""
_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NOTHING = "·"
_VERDICTS = {
    Verdict.FAKE: "FAKE",
    Verdict.NO_EVIDENCE: "no evidence of a fake",
    Verdict.ABSTAIN: "no verdict",
}
_CAUSES = {
    Cause.BELOW: "the score stayed low",
    Cause.NO_EVIDENCE: "no evidence left",
    Cause.FACE_CHANGED: "another face",
    Cause.ENDED: "the stream ended",
}
_ENDED = {"end": "", "stopped": ", stopped early", "lost": ", broke off"}


def sparkline(values: Sequence[float | None]) -> str:
    """Return one character per value 0…1, ``·`` for None."""
    return "".join(_NOTHING if v is None else _LEVELS[_level(v, len(_LEVELS))] for v in values)


def bar(value: float | None, width: int = BAR_WIDTH) -> str:
    """Return a bar of ``width`` characters for a value 0…1."""
    if value is None:
        return _NOTHING * width
    eighths = round(min(1.0, max(0.0, value)) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


class OpenAlarms:
    """Which streams have an open alarm, from the events that went by: scores do not say it."""

    def __init__(self) -> None:
        self._open: dict[str, Alarm] = {}

    def follow(self, event: AlarmEvent) -> None:
        """Take in what opened or closed."""
        if event.alarm.closed_ns is None:
            self._open[event.stream] = event.alarm
        else:
            self._open.pop(event.stream, None)

    def of(self, stream: str) -> Alarm | None:
        """Return the stream's open alarm, or None."""
        return self._open.get(stream)


def score_line(event: ScoreEvent, alarm: Alarm | None = None) -> str:
    """Return the line of one hop: time, window and rolling score, parts or the reason, and an open alarm."""
    head, tail = _head(event.stream, event.end_ns), _since(alarm)
    if event.score is None:
        return f"{head}  {'-':>4}  {bar(None)}  {event.reason}{tail}"
    parts = "  ".join(f"{name} {_share(event.parts.get(name))}" for name in PARTS)
    return f"{head}  {event.score:.2f}  {bar(event.rolling)}  rolling {_share(event.rolling)}  {parts}{tail}"


def alarm_line(event: AlarmEvent) -> str:
    """Return the line of an alarm that opened or closed."""
    alarm = event.alarm
    head = _head(event.stream, event.end_ns)
    if alarm.closed_ns is None or alarm.cause is None:
        return f"{head}{_since(alarm)}  {_told(alarm)}"
    duration_s = seconds(alarm.closed_ns - alarm.opened_ns)
    return f"{head}  alarm closed after {duration_s:.1f} s: {_CAUSES[alarm.cause]}  {_told(alarm)}"


def state_line(event: StateEvent) -> str:
    """Return the line of a change of state."""
    return f"{_head(event.stream, event.end_ns)}  {_state(event.change.status)}"


def live_state_line(event: StateEvent, columns: int) -> str:
    """Return the live line while there is no score to show: nothing old stays in sight."""
    text = f"{event.stream}  {seconds(event.end_ns):.1f} s  {bar(None)} {_state(event.change.status)}"
    return text[: max(1, columns - 1)]


def connection_text(event: StateEvent) -> str:
    """Return what to tell of a stream that went away or came back; ends with a line end."""
    status = event.change.status
    if status.state is State.RECONNECTING:
        message = status.message or ""
        # Messages name what could not be reached; a stream without a name of its own is called by that.
        where = message if message.startswith(event.stream) else f"{event.stream}: {message}"
        return f"avffd: {where}; trying again for as long as it takes\n"
    return f"avffd: {event.stream}: connected\n"


def live_line(event: ScoreEvent, columns: int, alarm: Alarm | None = None) -> str:
    """Return the live line, cut to the terminal's width; an open alarm comes before what may be cut."""
    state = event.reason if event.score is None else f"fake {_share(event.rolling)}"
    lost = f"  lost {event.dropped}" if event.dropped else ""
    text = (
        f"{event.stream}  {seconds(event.end_ns):.1f} s  {bar(event.rolling)} {state}{_since(alarm)}"
        f"  face {event.coverage.face:.0%}  sound {event.coverage.audio:.0%}  {event.latency_ms:.0f} ms{lost}"
    )
    return text[: max(1, columns - 1)]


def summary_text(event: SummaryEvent) -> str:
    """Return the summary: verdict, counts, timeline, where it is suspicious; ends with a line end."""
    made = event.summary
    score = "" if made.score is None else f", score {made.score:.2f} (fake from {event.threshold:.2f})"
    verdict = f"{_VERDICTS[made.verdict]}{score}{_ENDED.get(event.ended, '')}"
    lines = [f"{event.stream}: {verdict}", f"  {_counts(event)}"]
    if made.scored:
        lines.append(f"  0 s {sparkline(made.timeline)} {seconds(made.end_ns):.1f} s")
    if made.spans:
        lines.append(f"  suspicious: {_spans(event)}")
    if event.alarms is not None and event.alarms.count:
        lines.append(f"  alarms: {_alarms(event.alarms)}")
    return "\n".join(lines) + "\n"


def _counts(event: SummaryEvent) -> str:
    made = event.summary
    if not made.end_ns:
        return "nothing to score: too_short, less than half a slice of 0.32 s"
    reasons = ", ".join(f"{reason} {count}" for reason, count in made.abstained.items())
    without = f", {sum(made.abstained.values())} without a score ({reasons})" if reasons else ""
    lost = f", {event.dropped} items lost" if event.dropped else ""
    return f"{made.scored} windows scored{without}{lost}"


def _spans(event: SummaryEvent) -> str:
    spans = event.summary.spans
    shown = [f"{seconds(s.start_ns):.1f}-{seconds(s.end_ns):.1f} s (peak {s.peak:.2f})" for s in spans]
    more = len(shown) - MAX_SPANS_SHOWN
    return ", ".join(shown[:MAX_SPANS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _alarms(made: AlarmSummary) -> str:
    shown = [
        f"{seconds(a.opened_ns):.1f}-{seconds(a.closed_ns or a.opened_ns):.1f} s ({_told(a)})"
        for a in made.listed[:MAX_SPANS_SHOWN]
    ]
    more = made.count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _state(status: Status) -> str:
    if status.state is State.RECONNECTING:
        return f"reconnecting: {status.reason}, attempt {status.attempt} in {status.retry_s or 0:.1f} s"
    return str(status.state) if status.reason is None else f"{status.state}: {status.reason}"


def _told(alarm: Alarm) -> str:
    part = "" if alarm.part is None else f", {alarm.part} most"
    return f"highest {alarm.peak:.2f}{part}"


def _head(stream: str, end_ns: int) -> str:
    return f"{stream}  {seconds(end_ns):8.2f} s"


def _since(alarm: Alarm | None) -> str:
    return "" if alarm is None else f"  ALARM since {seconds(alarm.opened_ns):.1f} s"


def _share(value: float | None) -> str:
    return "   -" if value is None else f"{value:.2f}"


def _level(value: float, levels: int) -> int:
    return min(levels - 1, max(0, int(value * levels)))
