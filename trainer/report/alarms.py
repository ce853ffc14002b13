"""The section on alarms: how often on genuine clips, how soon on generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avff.engine.alarm import AlarmRule, promised_threshold
from avff.trainer.alarms import (
    RATES,
    Detection,
    FalseAlarms,
    begins_s,
    concatenated,
    stream_of,
    thresholds_for,
)
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import Judged
from avff.trainer.report.tables import NOTHING, interval_json, number, number_json, shown, table

_TEXT = """\
The daemon's default rule, h = {h:.2f} nats, on these windows: first with each genuine clip as a stream of
its own, then with all of them end to end as one stream, in which neither sum nor face starts anew at a
seam. Rates are per hour of footage, windows without a score included; intervals (95 %) are those of a
Poisson rate and do not know that clips share people. The time to an alarm runs from where generation begins
in a clip; the median is of the clips that raised one."""
_LOOKED_UP = """\
Thresholds from which on this genuine footage raises no more than so many alarms an hour, and what the
higher of the two finds. The promised one holds for scores that are calibrated and err independently. A
needed one is for the daemon's `alarm.measured_threshold`; it says little where the footage is shorter than
the alarms are meant to be apart."""
_HEAD = (
    "false alarms per hour",
    "h promised",
    "h needed, each clip a stream",
    "h needed, all clips one stream",
    "generated clips with an alarm",
    "median time to alarm, s",
)


@dataclass(frozen=True)
class Needed:
    """What it takes to have few false alarms.

    Attributes:
        per_hour: most false alarms per hour.
        promised: threshold that the rule promises it for, in nats.
        apart: threshold needed where each clip is a stream, in nats; None without genuine footage.
        joined: threshold needed where all clips are one stream, in nats, or None.
        found: what the higher of the two finds; None without them.
    """

    per_hour: float
    promised: float
    apart: float | None
    joined: float | None
    found: Detection | None


@dataclass(frozen=True)
class AlarmFigures:
    """What a rule for alarms makes of judged clips.

    Attributes:
        rule: the rule.
        hours: of genuine footage.
        scored_windows: genuine windows with a score.
        apart: alarms with every genuine clip as a stream.
        joined: alarms with all genuine clips as one stream.
        found: alarms on generated clips.
        needed: by rate of false alarms.
    """

    rule: AlarmRule
    hours: float
    scored_windows: int
    apart: FalseAlarms
    joined: FalseAlarms
    found: Detection
    needed: tuple[Needed, ...]

    @classmethod
    def of(cls, clips: Sequence[Clip], judged: Sequence[Judged]) -> AlarmFigures:
        """Run the daemon's default rule over clips and their windows; a file without windows has no part."""
        rule, by_uid = AlarmRule(), {clip.uid: clip for clip in clips}
        readable = [(by_uid[j.clip.uid], stream_of(j.windows)) for j in judged if j.windows]
        genuine = [stream for clip, stream in readable if not clip.is_fake]
        generated = [(begins_s(clip), stream) for clip, stream in readable if clip.is_fake]
        joined = [concatenated(genuine)]
        hours = sum(stream[-1].end_ns for stream in genuine) / 3600e9
        by_side = [thresholds_for(streams, hours, RATES, rule) for streams in (genuine, joined)]
        needed = []
        for rate in RATES:
            apart, end_to_end = (side.get(rate) for side in by_side)
            found = None
            if apart is not None and end_to_end is not None:
                found = Detection.of(generated, replace(rule, threshold=max(apart, end_to_end)))
            needed.append(Needed(rate, promised_threshold(rate), apart, end_to_end, found))
        return cls(
            rule, hours, sum(w.logit is not None for stream in genuine for w in stream),
            FalseAlarms.of(genuine, hours, rule), FalseAlarms.of(joined, hours, rule),
            Detection.of(generated, rule), tuple(needed),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return every figure in full precision; null where it is not defined."""
        return {
            "rule": asdict(self.rule),
            "genuine": {
                "hours": self.hours,
                "scored_windows": self.scored_windows,
                "each_clip_a_stream": _alarms_json(self.apart),
                "all_clips_one_stream": _alarms_json(self.joined),
            },
            "generated": _found_json(self.found),
            "thresholds": [
                {
                    "per_hour": n.per_hour, "promised": n.promised, "each_clip_a_stream": n.apart,
                    "all_clips_one_stream": n.joined, "generated": n.found and _found_json(n.found),
                }
                for n in self.needed
            ],
        }  # fmt: skip


def _alarms_json(made: FalseAlarms) -> dict[str, Any]:
    return {"count": made.count, "per_hour": interval_json(made.per_hour)}


def _found_json(made: Detection) -> dict[str, Any]:
    return {"clips": made.clips, "alarmed": made.alarmed, "median_s": number_json(made.median_s)}


def alarm_section(made: AlarmFigures) -> list[str]:
    """Return the section as paragraphs and tables."""
    rows = [
        ["genuine footage, hours", number(made.hours)],
        ["genuine windows with a score", str(made.scored_windows)],
        *(
            [f"false alarms, {what}", f"{alarms.count}: {shown(alarms.per_hour)} per hour"]
            for what, alarms in (("each clip a stream", made.apart), ("all clips one stream", made.joined))
        ),
        ["generated clips with an alarm", _share(made.found)],
        ["median time to alarm, s", number(made.found.median_s, 1)],
    ]
    return [
        "## Alarms",
        _TEXT.format(h=made.rule.threshold),
        table(["figure", "value"], rows),
        _LOOKED_UP,
        table(_HEAD, [_needed_row(n) for n in made.needed]),
    ]


def _needed_row(needed: Needed) -> list[str]:
    thresholds = [NOTHING if h is None else f"{h:.2f}" for h in (needed.apart, needed.joined)]
    found = needed.found
    told = [NOTHING, NOTHING] if found is None else [_share(found), number(found.median_s, 1)]
    return [f"{needed.per_hour:g}", f"{needed.promised:.2f}", *thresholds, *told]


def _share(found: Detection) -> str:
    return f"{found.alarmed} of {found.clips}"
