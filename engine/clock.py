"""A device's sample counter on the monotonic clock.

A sound card has a crystal of its own, 10–100 ppm off, and tells of each block when its first sample was
taken: to a fraction of a millisecond where its driver is good, whole blocks too late where the time is only
that of a callback.  ``DeviceClock`` lays a line through these stamps that few bad ones cannot bend.

Pure: time comes in as an argument; memory does not grow.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avff.engine.media import NS_PER_S

BIN_NS = NS_PER_S
"""Stamps of one second become one point of the line."""
BINS = 120
"""Points that are kept: crystals follow the temperature, and that takes minutes."""
SLOPE_BINS = 20
"""Points from which the drift is estimated.  Before, it is taken for none: 100 ppm are 1 ms then, and the
scatter of stamps, up to 10 ms a point, would make more of it."""
MIN_BINS = 3
"""Points from which the error is known."""
MAX_DRIFT = 3e-3
"""A line steeper than this is no crystal's."""
_LOW, _HIGH = 25.0, 75.0
"""Quartiles: a stamp is late more often than early, so a point is the lower one of its second's."""


@dataclass(frozen=True, slots=True)
class _Point:
    """One second of stamps: when, how late against the counter, and how much they differed, in ns."""

    at_ns: float
    late_ns: float
    spread_ns: float


class DeviceClock:
    """Maps counted samples to monotonic time.

    Args:
        rate_hz: nominal rate of the counter.

    Attributes:
        error_ns: how far off :meth:`time_ns` may be, in ns; None as long as nothing can be said.  Points off
            the line, and stamps that differ within a second, speak for an error; what all stamps have in
            common, such as a driver that does not know its own delay, cannot show.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._origin_ns: int | None = None
        self._points: deque[_Point] = deque(maxlen=BINS)
        self._filling: list[tuple[int, int]] = []
        self._slope = 0.0
        self._late_ns = 0.0
        self._about_ns = 0.0
        self.error_ns: int | None = None

    @property
    def started(self) -> bool:
        """Whether there was a stamp at all."""
        return self._origin_ns is not None

    @property
    def drift_ppm(self) -> float:
        """How much slower than the monotonic clock the counter runs, in parts per million."""
        return self._slope * 1e6

    def observe(self, count: int, stamp_ns: int) -> None:
        """Take in that sample ``count`` was captured at ``stamp_ns``; counts must not decrease."""
        nominal_ns = self._nominal_ns(count)
        if self._origin_ns is None:
            self._origin_ns = stamp_ns - nominal_ns
        if self._filling and nominal_ns - self._filling[0][0] >= BIN_NS:
            self._close_bin()
        self._filling.append((nominal_ns, stamp_ns - nominal_ns - self._origin_ns))
        if not self._points:
            self._late_ns = float(np.percentile([late for _, late in self._filling], _LOW))

    def time_ns(self, count: float) -> int:
        """Return the monotonic time at which sample ``count`` was captured; fractions are allowed."""
        assert self._origin_ns is not None, "observe() comes first"
        nominal_ns = self._nominal_ns(int(count)) + round((count % 1) * NS_PER_S / self._rate_hz)
        return nominal_ns + self._origin_ns + round(float(self._line(nominal_ns)))

    def _nominal_ns(self, count: int) -> int:
        return count * NS_PER_S // self._rate_hz

    def _line(self, nominal_ns: Any) -> Any:
        """Return how late ``nominal_ns`` is, a number or an array, by the line."""
        return self._late_ns + self._slope * (nominal_ns - self._about_ns)

    def _close_bin(self) -> None:
        late = np.array([late for _, late in self._filling], np.float64)
        low, high = np.percentile(late, (_LOW, _HIGH))
        at_ns = float(np.mean([nominal for nominal, _ in self._filling]))
        self._points.append(_Point(at_ns, float(low), float(high - low)))
        self._filling.clear()
        self._fit()

    def _fit(self) -> None:
        """Theil and Sen's line: the median of all slopes, then the median of what is left."""
        at = np.array([p.at_ns for p in self._points])
        late = np.array([p.late_ns for p in self._points])
        self._about_ns = float(at[-1])
        if len(at) >= SLOPE_BINS:
            self._slope = float(np.clip(_median_slope(at, late), -MAX_DRIFT, MAX_DRIFT))
        self._late_ns = float(np.median(late - self._slope * (at - self._about_ns)))
        if len(at) >= MIN_BINS:
            off_ns = np.percentile(np.abs(late - self._line(at)), 90)
            self.error_ns = round(float(off_ns + np.median([p.spread_ns for p in self._points])))


def _median_slope(at: npt.NDArray[np.float64], late: npt.NDArray[np.float64]) -> float:
    first, second = np.triu_indices(len(at), k=1)
    return float(np.median((late[second] - late[first]) / (at[second] - at[first])))
