"""Scripted stand-ins for the seams of the daemon, and makers of the values that flow through them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from avff.daemon.events import Event, ScoreEvent, StateEvent, SummaryEvent
from avff.daemon.runner import LoadedEngine
from avff.daemon.sinks.base import SinkError
from avff.engine.media import NS_PER_S, MediaItem, VideoFrame
from avff.engine.predictor import StreamState
from avff.engine.slices import Coverage, Prediction, Reason, Slice
from avff.engine.spec import SPEC

MODEL = "scripted@00000000"
THRESHOLD = 0.5


def pictures(count: int, *, fps: int = 25, side_px: int = 4) -> list[VideoFrame]:
    """Small grey pictures at a constant rate."""
    rgb = np.full((side_px, side_px, 3), 128, np.uint8)
    return [VideoFrame(k * NS_PER_S // fps, rgb, time.monotonic_ns()) for k in range(count)]


def make_slice(index: int, *, captured_ns: int = 0) -> Slice:
    """A slice with neither face nor sound."""
    samples = SPEC.context_samples + SPEC.slice_samples
    return Slice(
        index=index,
        face=None,
        other_faces=(),
        picture_ok=np.ones(SPEC.slice_frames, np.bool_),
        repeated=np.zeros(SPEC.slice_frames, np.bool_),
        still=np.zeros(SPEC.slice_frames, np.bool_),
        light=np.full((SPEC.slice_frames, 2), np.nan, np.float32),
        audio=np.zeros(samples, np.float32),
        audio_ok=0.0,
        has_video=True,
        has_audio=False,
        captured_ns=captured_ns,
    )


def make_prediction(
    index: int,
    logit: float | None = 0.0,
    *,
    reason: Reason | None = None,
    track: int | None = 1,
    captured_ns: int = 0,
    end_ns: int | None = None,
) -> Prediction:
    """A prediction for the window that ends with slice ``index``."""
    end_ns = (index + 1) * SPEC.slice_ns if end_ns is None else end_ns
    return Prediction(
        index=index,
        start_ns=max(0, end_ns - SPEC.window_ns),
        end_ns=end_ns,
        logit=logit,
        reason=Reason.TOO_SHORT if logit is None and reason is None else reason,
        parts={} if logit is None else {"video": 0.5, "audio": 0.25, "motion": 0.0625, "desync": 0.125},
        modality="av",
        frames=None,
        sync=None,
        coverage=Coverage(1.0, 1.0, 1.0),
        track=track,
        captured_ns=captured_ns,
    )


class ScriptedFrontend:
    """Makes a slice of every 8 items, whatever they are."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._items: list[MediaItem] = []
        self._next = 0

    def push(self, item: MediaItem) -> list[Slice]:
        time.sleep(self._delay_s)
        self._items.append(item)
        return self._take() if len(self._items) == SPEC.slice_frames else []

    def flush(self) -> list[Slice]:
        return self._take() if self._items else []

    def _take(self) -> list[Slice]:
        made = make_slice(self._next, captured_ns=max(item.captured_ns for item in self._items))
        self._next += 1
        self._items = []
        return [made]


class ScriptedPredictor:
    """Answers each slice with a logit by index; the first 7 are too short, as in the real one."""

    def __init__(
        self,
        logit: Callable[[int], float | None] = lambda index: 2.0,
        *,
        delay_s: float = 0.0,
        fail_at: int | None = None,
        error: Exception | None = None,
    ) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self._logit = logit
        self._delay_s = delay_s
        self._fail_at = fail_at
        self._error = error or RuntimeError("the runtime gave up\nand said more on a second line")

    def predict(self, batch: Sequence[tuple[StreamState, Slice]]) -> list[tuple[StreamState, Prediction]]:
        self.threads.add(threading.current_thread().name)
        self.batches.append([made.index for _, made in batch])
        time.sleep(self._delay_s * len(batch))
        if self._fail_at is not None and any(made.index >= self._fail_at for _, made in batch):
            raise self._error
        return [(state, self._answer(made)) for state, made in batch]

    def _answer(self, made: Slice) -> Prediction:
        logit = None if made.index < SPEC.window_slices - 1 else self._logit(made.index)
        return make_prediction(made.index, logit, captured_ns=made.captured_ns)


def loaded(predictor: ScriptedPredictor) -> LoadedEngine:
    """An engine around a predictor."""
    return LoadedEngine(predictor, MODEL, THRESHOLD, StreamState, "onnx")


class RecordingSink:
    """Keeps what it is given; may fail after some events."""

    def __init__(
        self,
        *,
        fail_after: int | None = None,
        message: str = "",
        essential: bool = True,
        lossless: bool = True,
    ) -> None:
        self.name = "recorder"
        self.essential = essential
        self.lossless = lossless
        self.events: list[Event] = []
        self.closed = False
        self._fail_after = fail_after
        self._message = message

    async def write(self, event: Event) -> None:
        if self._fail_after is not None and len(self.events) >= self._fail_after:
            raise SinkError(self._message)
        self.events.append(event)

    async def close(self) -> None:
        self.closed = True

    @property
    def scores(self) -> list[ScoreEvent]:
        return [event for event in self.events if isinstance(event, ScoreEvent)]

    @property
    def states(self) -> list[StateEvent]:
        return [event for event in self.events if isinstance(event, StateEvent)]

    @property
    def summaries(self) -> list[SummaryEvent]:
        return [event for event in self.events if isinstance(event, SummaryEvent)]
