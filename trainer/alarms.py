"""How often the daemon would raise an alarm on genuine clips, and how soon on generated ones.

The rule is the daemon's own (:mod:`avff.engine.alarm`), run over the windows that were judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2

from avff.engine.alarm import Alarm, AlarmDetector, AlarmRule
from avff.engine.media import NS_PER_S
from avff.engine.rolling import RollingScore
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import WindowScore
from avff.trainer.metrics import Interval

RATES = (1.0, 2.0, 5.0, 10.0)
"""False alarms per hour for which the threshold is looked up."""
_LOWEST, _STEP = 0.5, 1.05
"""Thresholds that are tried: from 0.5 nats on, each 5 % above the one before."""


@dataclass(frozen=True)
class StreamWindow:
    """A judged window in a stream of one or several clips.

    Attributes:
        end_ns: media time of the stream, in ns.
        logit, track, modality: as in ``WindowScore``.
    """

    end_ns: int
    logit: float | None
    track: int | None
    modality: str

    @property
    def parts(self) -> Mapping[str, float]:
        """Nothing: judged windows keep no parts."""
        return {}


Stream = list[StreamWindow]


def stream_of(windows: Sequence[WindowScore]) -> Stream:
    """Return a clip's windows as a stream of its own."""
    return [StreamWindow(round(w.end_s * NS_PER_S), w.logit, w.track, w.modality) for w in windows]


def concatenated(streams: Sequence[Stream]) -> Stream:
    """Join streams end to end, as if one recording went on: nothing starts anew at a seam.

    Each stream's first face counts as the last face of the stream before; where the face changes
    inside a stream, the alarm still starts anew.
    """
    made: Stream = []
    start_ns, last = 0, 0
    for stream in streams:
        faces = [w.track for w in stream if w.logit is not None and w.track is not None]
        shift = last - faces[0] if faces else 0
        made += [
            replace(w, end_ns=start_ns + w.end_ns, track=None if w.track is None else w.track + shift)
            for w in stream
        ]
        start_ns += stream[-1].end_ns if stream else 0
        last = faces[-1] + shift if faces else last
    return made


def alarms_of(stream: Stream, rule: AlarmRule) -> list[Alarm]:
    """Return the alarms of a stream, all closed, in order."""
    rolling, detector = RollingScore(reset_after_s=rule.reset_after_s), AlarmDetector(rule)
    changes = [alarm for w in stream for alarm in detector.push(w, rolling.push(w))] + detector.finish()
    return [alarm for alarm in changes if alarm.closed_ns is not None]


def peak_of(stream: Stream, rule: AlarmRule) -> float:
    """Return how high the sum gets, in nats, while no alarm takes it back to zero; 0 without evidence."""
    detector = AlarmDetector(replace(rule, threshold=math.inf))
    peak = 0.0
    for window in stream:
        detector.push(window, None)
        peak = max(peak, detector.statistic)
    return peak


def thresholds_for(
    streams: Sequence[Stream], hours: float, rates: Sequence[float], rule: AlarmRule
) -> dict[float, float]:
    """Find the thresholds from which on there are few enough alarms.

    Args:
        streams: genuine footage.
        hours: how long it is.
        rates: most alarms per hour.
        rule: all but its threshold is used.

    Returns:
        by rate, the lowest threshold tried, in nats, at which, and at all above which, the alarms
        per hour are no more than the rate; empty without footage.
    """
    if not hours > 0:
        return {}
    peaks = [peak_of(stream, rule) for stream in streams]
    step = max(0, math.ceil(math.log(max(*peaks, _LOWEST) / _LOWEST, _STEP))) + 1
    needed: dict[float, float] = {}
    open_rates = set(rates)
    for k in range(step, -1, -1):
        threshold = _LOWEST * _STEP**k
        tried = replace(rule, threshold=threshold)
        # Below its peak a stream's sum is that of no alarm at all, so it need not be run again.
        count = sum(len(alarms_of(s, tried)) for s, p in zip(streams, peaks, strict=True) if p >= threshold)
        open_rates = {rate for rate in open_rates if count <= rate * hours}
        needed |= dict.fromkeys(open_rates, threshold)
        if not open_rates:
            break
    return {rate: needed[rate] for rate in rates}


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms on genuine footage.

    Attributes:
        count: how many.
        per_hour: of footage, with the exact 95 % interval of a Poisson rate; NaN without footage.
    """

    count: int
    per_hour: Interval

    @classmethod
    def of(cls, streams: Sequence[Stream], hours: float, rule: AlarmRule) -> FalseAlarms:
        """Count them."""
        count = sum(len(alarms_of(stream, rule)) for stream in streams)
        return cls(count, rate_per_hour(count, hours))


def rate_per_hour(count: int, hours: float) -> Interval:
    """Return a rate with its exact 95 % Poisson interval (Garwood, 1936); NaN for no time at all."""
    if not hours > 0:
        return Interval(math.nan, math.nan, math.nan)
    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return Interval(count / hours, low / hours, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / hours)


@dataclass(frozen=True)
class Detection:
    """Alarms on generated clips.

    Attributes:
        clips: generated clips that could be read.
        alarmed: those with an alarm that opened after generation began.
        median_s: of the alarmed ones, from where generation begins to the alarm, in s; NaN without any.
    """

    clips: int
    alarmed: int
    median_s: float

    @classmethod
    def of(cls, generated: Sequence[tuple[float, Stream]], rule: AlarmRule) -> Detection:
        """Time the alarms of streams, each with where its generated part begins, in s."""
        delays = [d for begins_s, stream in generated if (d := _delay_s(stream, begins_s, rule)) is not None]
        return cls(len(generated), len(delays), float(np.median(delays)) if delays else math.nan)


def _delay_s(stream: Stream, begins_s: float, rule: AlarmRule) -> float | None:
    """Return the time from where generation begins to the first alarm after it, in s, or None."""
    opened = (alarm.opened_ns / NS_PER_S - begins_s for alarm in alarms_of(stream, rule))
    return next((delay_s for delay_s in opened if delay_s >= 0), None)


def begins_s(clip: Clip) -> float:
    """Return where the first generated passage of a generated clip starts, in s; 0 for the whole clip."""
    sides = ((clip.label_video, clip.fake_video), (clip.label_audio, clip.fake_audio))
    if any(label == 1 and passages is None for label, passages in sides):
        return 0.0
    return min((start for _, passages in sides for start, _ in passages or ()), default=0.0)
