"""What leaves the daemon: versioned events.  Field by field in ``docs/events.md``.

A field is never renamed or given another meaning within a version; new fields may
be added.  ``null`` always means "not known", never zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avff.daemon.alarms import AlarmSummary
from avff.daemon.explanation import ScoreExplanation, explanation_of
from avff.daemon.status import Change
from avff.daemon.summary import POOLING, Summary, seconds
from avff.engine.alarm import Alarm
from avff.engine.evidence import sync_known
from avff.engine.rolling import evidence, probability
from avff.engine.slices import Coverage, Prediction, Reason

VERSION = 1
PARTS = ("video", "audio", "motion", "desync")
_DECIMALS = 6
"""Of probabilities: finer than the 1e-5 to which streaming and offline scores agree."""


@dataclass(frozen=True, slots=True)
class Sync:
    """How well the time stamps of picture and sound are known to agree.

    Attributes:
        known: whether well enough to compare lips and voice.
        error_ns: how far they may be apart, in ns; None if unknown.
    """

    known: bool
    error_ns: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the object as it is written."""
        return {
            "known": self.known,
            "error_ms": None if self.error_ns is None else round(self.error_ns / 1e6, 1),
        }


@dataclass(frozen=True, slots=True)
class ScoreEvent:
    """One window of one stream.

    Attributes:
        stream: name of the stream.
        start_ns, end_ns: media time of the window, in ns.
        score: probability 0…1 that anything in the window is fake; None with ``reason``.
        reason: why there is no score, else None.
        rolling: rolling probability 0…1, or None when this window is no evidence.
        parts: probability 0…1 by head (``video``, ``audio``, ``motion``, ``desync``), None where not given.
        modality: what the score rests on: ``av``, ``video`` or ``audio``.
        coverage: shares 0…1 of the window that hold evidence.
        track: face track the score belongs to, or None.
        latency_ms: from the arrival of the window's newest item to the making of this event.
        dropped: items lost so far in this stream because a later stage was too slow.
        model: name of the model.
        backend: what ran it: ``onnx`` or ``tensorrt``.
        explain: where the score comes from; None when not asked for, or without a score.
        sync: what is known of picture against sound; None where the window lacks either.
    """

    stream: str
    start_ns: int
    end_ns: int
    score: float | None
    reason: str | None
    rolling: float | None
    parts: Mapping[str, float | None]
    modality: str
    coverage: Coverage
    track: int | None
    latency_ms: float
    dropped: int
    model: str
    backend: str
    explain: ScoreExplanation | None = None
    sync: Sync | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as it is written: version, type and rounded numbers."""
        explain = {} if self.explain is None else {"explain": self.explain.to_json()}
        return {
            "v": VERSION,
            "type": "score",
            "stream": self.stream,
            "t": seconds(self.end_ns),
            "window": [seconds(self.start_ns), seconds(self.end_ns)],
            "score": _rounded(self.score),
            "reason": self.reason,
            "rolling": _rounded(self.rolling),
            "parts": {name: _rounded(self.parts.get(name)) for name in PARTS},
            "modality": self.modality,
            "coverage": {
                "video": round(self.coverage.video, 3),
                "audio": round(self.coverage.audio, 3),
                "face": round(self.coverage.face, 3),
            },
            "sync": None if self.sync is None else self.sync.to_json(),
            "track": self.track,
            "latency_ms": round(self.latency_ms, 1),
            "dropped": self.dropped,
            "model": self.model,
            "backend": self.backend,
            **explain,
        }


@dataclass(frozen=True, slots=True)
class SummaryEvent:
    """The end of one stream.

    Attributes:
        stream: name of the stream.
        summary: verdict, pooled score, suspicious spans, timeline.
        threshold: probability 0…1 from which the verdict is ``fake``.
        ended: ``end`` of the media, ``stopped`` by a signal, or ``lost`` (broke off).
        dropped: items lost in this stream because a later stage was too slow.
        model: name of the model.
        backend: what ran it: ``onnx`` or ``tensorrt``.
        alarms: those of the stream; None when none were looked for.
    """

    stream: str
    summary: Summary
    threshold: float
    ended: str
    dropped: int
    model: str
    backend: str
    alarms: AlarmSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as it is written."""
        made = self.summary
        return {
            "v": VERSION,
            "type": "summary",
            "stream": self.stream,
            "t": seconds(made.end_ns),
            "verdict": str(made.verdict),
            "score": _rounded(made.score),
            "threshold": _rounded(self.threshold),
            "pooling": POOLING,
            "max": _rounded(made.peak),
            "share_above": _rounded(made.share),
            "windows": {"scored": made.scored, "abstained": made.abstained},
            "spans": [
                {"start": seconds(span.start_ns), "end": seconds(span.end_ns), "peak": _rounded(span.peak)}
                for span in made.spans
            ],
            "timeline": {"step_s": seconds(made.step_ns), "max": [_rounded(v) for v in made.timeline]},
            "alarms": None
            if self.alarms is None
            else {
                "count": self.alarms.count,
                "listed": [_alarm_fields(alarm) for alarm in self.alarms.listed],
            },
            "ended": self.ended,
            "dropped": self.dropped,
            "model": self.model,
            "backend": self.backend,
        }


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """An alarm that opened or closed.

    Attributes:
        stream: name of the stream.
        end_ns: media time of the end of the window that did it, in ns.
        alarm: its facts so far.
        model: name of the model.
    """

    stream: str
    end_ns: int
    alarm: Alarm
    model: str

    def to_json(self) -> dict[str, Any]:
        """Return the event as it is written."""
        return {
            "v": VERSION,
            "type": "alarm",
            "stream": self.stream,
            "t": seconds(self.end_ns),
            "state": "opened" if self.alarm.closed_ns is None else "closed",
            **_alarm_fields(self.alarm),
            "model": self.model,
        }


def _alarm_fields(alarm: Alarm) -> dict[str, Any]:
    closed_ns = alarm.closed_ns
    return {
        "number": alarm.number,
        "opened": seconds(alarm.opened_ns),
        "closed": None if closed_ns is None else seconds(closed_ns),
        "duration": None if closed_ns is None else seconds(closed_ns - alarm.opened_ns),
        "cause": None if alarm.cause is None else str(alarm.cause),
        "max": _rounded(alarm.peak),
        "modality": alarm.modality,
        "part": alarm.part,
        "track": alarm.track,
    }


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A live stream whose state changed.

    Attributes:
        stream: name of the stream.
        end_ns: media time that had arrived by then, in ns.
        change: the states before and after, and why.
        sent_ns: Unix time of the newest item by its sender's clock, in ns; None where it does not tell.
    """

    stream: str
    end_ns: int
    change: Change
    sent_ns: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as it is written."""
        status, before, age_ns = self.change.status, self.change.before, self.change.age_ns
        return {
            "v": VERSION,
            "type": "state",
            "stream": self.stream,
            "t": seconds(self.end_ns),
            "state": str(status.state),
            "before": None if before is None else str(before),
            "reason": None if status.reason is None else str(status.reason),
            "message": status.message,
            "attempt": status.attempt,
            "retry_s": None if status.retry_s is None else round(status.retry_s, 3),
            "age_ms": None if age_ns is None else round(age_ns / 1e6, 1),
            "sent": None if self.sent_ns is None else seconds(self.sent_ns),
        }


Event = ScoreEvent | AlarmEvent | StateEvent | SummaryEvent


def score_event(
    prediction: Prediction,
    rolling: float | None,
    *,
    stream: str,
    model: str,
    dropped: int,
    now_ns: int,
    backend: str,
    explain: bool = False,
) -> ScoreEvent:
    """Make the event of one prediction.

    Args:
        prediction: what the engine said of the window.
        rolling: rolling probability after it, or None.
        stream: name of the stream.
        model: name of the model.
        dropped: items lost so far.
        now_ns: monotonic clock, in ns.
        backend: what ran the model.
        explain: whether to say where the score comes from.
    """
    logit = evidence(prediction)
    return ScoreEvent(
        stream=stream,
        start_ns=prediction.start_ns,
        end_ns=prediction.end_ns,
        score=None if logit is None else probability(logit),
        # No logit and no reason, or a logit that is not finite: the network broke down.
        reason=None if logit is not None else str(prediction.reason or Reason.MODEL_NAN),
        rolling=rolling,
        parts=prediction.parts,
        modality=prediction.modality,
        coverage=prediction.coverage,
        track=prediction.track,
        latency_ms=max(0.0, (now_ns - prediction.captured_ns) / 1e6),
        dropped=dropped,
        model=model,
        backend=backend,
        explain=explanation_of(prediction) if explain else None,
        sync=_sync_of(prediction),
    )


def _sync_of(prediction: Prediction) -> Sync | None:
    if not (prediction.coverage.video and prediction.coverage.audio):
        return None
    error_ns = prediction.sync_error_ns
    return Sync(sync_known(error_ns), error_ns)


def to_line(event: Event) -> str:
    """Return an event as one line of JSON with its line end.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    return json.dumps(event.to_json(), allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, _DECIMALS)
