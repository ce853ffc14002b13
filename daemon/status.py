"""What can be said of a live stream: the words of the ``state`` event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What can be expected of a stream's scores now."""

    STARTING = "starting"
    LIVE = "live"
    DEGRADED = "degraded"
    ABSTAIN = "abstain"
    STALE = "stale"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


class Flaw(StrEnum):
    """Why a stream that is scored is degraded.  The values are part of the event interface."""

    VIDEO_ONLY = "video_only"
    """The stream has sound, but scores rest on the picture alone."""
    AUDIO_ONLY = "audio_only"
    """The stream has pictures, but scores rest on the sound alone."""
    DROPPING = "dropping"
    """Media is lost because a later stage is too slow."""
    LOW_FPS = "low_fps"
    """Few pictures a second."""


@dataclass(frozen=True, slots=True)
class Status:
    """A state and what there is to say about it.

    Attributes:
        state: the state.
        reason: one word for programs, or None where there is nothing to explain.
        message: one line for people, or None.
        attempt: when reconnecting, the attempt that comes next, from 1; else 0.
        retry_s: when reconnecting, the time until it begins, in s.
    """

    state: State
    reason: str | None = None
    message: str | None = None
    attempt: int = 0
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One step from a state to another, or to the same for another reason.

    Attributes:
        status: what is true now.
        before: the state it was in.
        age_ns: time since media last arrived, in ns; None before the first.
    """

    status: Status
    before: State | None
    age_ns: int | None
