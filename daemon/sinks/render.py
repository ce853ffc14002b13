"""Events as text for people.  Pure: strings in, strings out."""

from __future__ import annotations

from collections.abc import Sequence

from avff.daemon.events import ScoreEvent, SummaryEvent
from avff.daemon.summary import Verdict, seconds

CLEAR_LINE = "\r\x1b[K"
BAR_WIDTH = 10
MAX_SPANS_SHOWN = 8
_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NOTHING = "·"
_VERDICTS = {
    Verdict.FAKE: "FAKE",
    Verdict.NO_EVIDENCE: "no evidence of a fake",
    Verdict.ABSTAIN: "no verdict",
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


def score_line(event: ScoreEvent) -> str:
    """Return the line of one hop: time, window and rolling score, parts or the reason."""
    head = f"{event.stream}  {seconds(event.end_ns):8.2f} s"
    if event.score is None:
        return f"{head}  {'-':>4}  {bar(None)}  {event.reason}"
    parts = "  ".join(f"{name} {_share(event.parts.get(name))}" for name in ("video", "audio", "desync"))
    return f"{head}  {event.score:.2f}  {bar(event.rolling)}  rolling {_share(event.rolling)}  {parts}"


def live_line(event: ScoreEvent, columns: int) -> str:
    """Return the live line, cut to the terminal's width."""
    state = event.reason if event.score is None else f"fake {_share(event.rolling)}"
    lost = f"  lost {event.dropped}" if event.dropped else ""
    text = (
        f"{event.stream}  {seconds(event.end_ns):.1f} s  {bar(event.rolling)} {state}"
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


def _share(value: float | None) -> str:
    return "   -" if value is None else f"{value:.2f}"


def _level(value: float, levels: int) -> int:
    return min(levels - 1, max(0, int(value * levels)))
