"""Slices in, calibrated predictions out: tokens are computed once and reused by every window.

The encoders see one slice each; their tokens are kept per stream for the 8 windows
that slice belongs to, and only the fusion graph runs on whole windows.  Several
streams share a batch.  Pure but for the model: no clock, no thread.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.calibration import shares_of, together
from avff.engine.calibration import terms as terms_of
from avff.engine.contract import CLIP_OUTPUTS, ENCODERS, NOVELTY_OUTPUTS, Affine, Calibration
from avff.engine.errors import BackendDown
from avff.engine.evidence import SliceFacts, modality_of, sync_error_of, sync_known, window_coverage
from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.media import Bool, Float32
from avff.engine.model import Model
from avff.engine.slices import Coverage, Prediction, Reason, Slice
from avff.engine.spec import SPEC

MAX_BATCH = 32
"""Windows or slices in one graph run; more are split."""
_OF_PICTURE = frozenset({"video", "motion"})
"""Hypotheses that only a picture speaks for."""
_OF_BOTH = frozenset({"any", "motion"})
"""Hypotheses whose heads compare picture and sound where there are both."""
_SHOWN = {"av": ("video", "audio", "motion", "desync"), "video": ("video", "motion"), "audio": ("audio",)}


@dataclass(frozen=True, slots=True, eq=False)
class SliceTokens:
    """One slice's tokens, float32 ``[8, width]`` of each encoder's width (zeros without evidence)."""

    facts: SliceFacts
    video: Float32
    audio: Float32
    landmarks: Float32


class StreamState:
    """The last 8 slices of one stream.  Owned by the predictor; give each stream its own."""

    def __init__(self) -> None:
        self.recent: deque[SliceTokens] = deque(maxlen=SPEC.window_slices)
        self._stretch = 0

    def append(self, tokens: SliceTokens, stretch: int = 0) -> None:
        """Add the next slice.

        Slices dropped before it leave blanks, so that coverage tells of them; those dropped after one that
        the engine lost were so while it was waited for: it lost them too.  A new stretch starts with an
        empty window.
        """
        if stretch != self._stretch:
            self.recent.clear()
            self._stretch = stretch
        if self.recent:
            lost = self.recent[-1].facts.lost
            first = max(self.recent[-1].facts.index + 1, tokens.facts.index - SPEC.window_slices)
            for index in range(first, tokens.facts.index):
                self.recent.append(_blank(tokens, index, lost=lost))
        self.recent.append(tokens)


def _blank(like: SliceTokens, index: int, *, lost: bool) -> SliceTokens:
    """A slice that never arrived, or that the engine lost."""
    nothing = [np.zeros_like(tokens) for tokens in (like.video, like.audio, like.landmarks)]
    return SliceTokens(like.facts.missing(index, lost=lost), *nothing)


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """A window on its way through the fusion graph."""

    recent: tuple[SliceTokens, ...]
    coverage: Coverage
    modality: str
    reason: Reason | None
    track: int | None
    hides_picture: bool
    """Whether the stream has a picture that the score cannot rest on."""
    sync_error_ns: int | None

    @property
    def in_doubt(self) -> bool:
        """Whether picture and sound are compared though their time stamps may be apart."""
        return self.modality == "av" and not sync_known(self.sync_error_ns)


class Predictor:
    """Runs a model on slices of any number of streams.

    Args:
        model: used by this predictor alone.
        hop_slices: slices from one prediction to the next.
    """

    def __init__(self, model: Model, *, hop_slices: int = 1) -> None:
        self._model = model
        self._hop_slices = hop_slices

    def predict(self, batch: Sequence[tuple[StreamState, Slice]]) -> list[tuple[StreamState, Prediction]]:
        """Encode new slices and score the windows they complete, in the order given.

        While the runtime is down and about to be started again, windows get no score but that reason, and
        slices that could not be encoded are missing from the windows they belong to; those that have too
        little left for a score have that reason too.

        Args:
            batch: slices with their stream's state, each stream's slices in time order.

        Raises:
            ContractError, BackendError: the model failed for good; there is no score then.
        """
        slices = [piece for _, piece in batch]
        try:
            made = self.encode(slices)
        except BackendDown:
            lost = self._due(batch, [self._missing(piece) for piece in slices])
            return [(state, _abstain(self._judge(window), Reason.ENGINE_DOWN)) for state, window in lost]
        due = self._due(batch, made)
        try:
            scored = self.score([window for _, window in due])
        except BackendDown:
            judged = [(state, self._judge(window)) for state, window in due]
            return [
                (state, _abstain(window, window.reason or Reason.ENGINE_DOWN)) for state, window in judged
            ]
        return [(state, prediction) for (state, _), prediction in zip(due, scored, strict=True)]

    def _due(
        self, batch: Sequence[tuple[StreamState, Slice]], made: Sequence[SliceTokens]
    ) -> list[tuple[StreamState, tuple[SliceTokens, ...]]]:
        """Put tokens into their streams; return the windows that are due for a prediction."""
        due = []
        for (state, piece), tokens in zip(batch, made, strict=True):
            state.append(tokens, piece.stretch)
            if (piece.index + 1) % self._hop_slices == 0:
                due.append((state, tuple(state.recent)))
        return due

    def _missing(self, piece: Slice) -> SliceTokens:
        """Return the tokens of a slice that could not be encoded: as of one that never arrived."""
        contract = self._model.contract
        nothing = {name: np.zeros(contract.token_shape(name), np.float32) for name in ENCODERS}
        return SliceTokens(SliceFacts.of(piece).missing(piece.index, lost=True), **nothing)

    def score(
        self, windows: Sequence[tuple[SliceTokens, ...]], *, however_unfamiliar: bool = False
    ) -> list[Prediction]:
        """Judge and score windows, each up to 8 slices that follow each other.

        Args:
            windows: of any streams.
            however_unfamiliar: score windows beyond the model's experience too, to explain others by them.

        Raises:
            ContractError, BackendError: the model failed.
        """
        judged = [self._judge(window) for window in windows]
        limits = {} if however_unfamiliar else self._model.contract.calibration.limits
        scored = iter(self._fuse([w for w in judged if w.reason is None], limits))
        return [next(scored) if w.reason is None else _abstain(w) for w in judged]

    def encode(self, slices: Sequence[Slice]) -> list[SliceTokens]:
        """Return the tokens of slices, of any streams.

        Raises:
            ContractError, BackendError: the model failed.
        """
        faces = [s.face if s.face is not None and s.face.ok.any() else None for s in slices]
        video = self.tokens("video", [None if f is None else video_tensor(f.faces) for f in faces])
        points = self.tokens(
            "landmarks", [None if f is None else landmark_tensor(f.landmarks, f.motion) for f in faces]
        )
        sound = [audio_tensor(s.audio) if s.audio_ok > 0 else None for s in slices]
        audio = self.tokens("audio", sound)
        return [
            SliceTokens(SliceFacts.of(s), v, a, p)
            for s, v, a, p in zip(slices, video, audio, points, strict=True)
        ]

    def tokens(self, graph: str, tensors: Sequence[Float32 | None]) -> list[Float32]:
        """Run an encoder on the slices that have its input; the others get zeros.

        Args:
            graph: ``video``, ``audio`` or ``landmarks``.
            tensors: one slice's input each, as the functions of ``engine.features`` make it, or None.

        Returns:
            float32 ``[8, width]`` for each.
        """
        blank = np.zeros(self._model.contract.token_shape(graph), np.float32)
        tokens = [blank] * len(tensors)
        present = [i for i, t in enumerate(tensors) if t is not None]
        for start in range(0, len(present), MAX_BATCH):
            part = present[start : start + MAX_BATCH]
            stacked = np.stack([t for i in part if (t := tensors[i]) is not None])
            for i, out in zip(part, self._model.infer(graph, {graph: stacked})["tokens"], strict=True):
                tokens[i] = out
        return tokens

    def _judge(self, recent: tuple[SliceTokens, ...]) -> _Window:
        facts = [t.facts for t in recent]
        track = next((f.track for f in reversed(facts) if f.track is not None), None)
        coverage = window_coverage(facts, track)
        modality, reason = modality_of(facts, track, coverage, self._model.contract.calibration.any)
        hides = modality == "audio" and facts[-1].has_video
        face = track if modality != "audio" else None
        return _Window(recent, coverage, modality, reason, face, hides, sync_error_of(facts))

    def _fuse(self, windows: Sequence[_Window], limits: Mapping[str, float]) -> list[Prediction]:
        made: list[Prediction] = []
        for start in range(0, len(windows), MAX_BATCH):
            part = windows[start : start + MAX_BATCH]
            inputs = fusion_inputs([(w.recent, w.track, w.modality) for w in part])
            out = self._model.infer("fusion", inputs)
            there = inputs["video_ok"] + inputs["audio_ok"] > 0
            made += [
                self._prediction(w, {name: values[i] for name, values in out.items()}, there[i], limits)
                for i, w in enumerate(part)
            ]
        return made

    def _prediction(
        self, window: _Window, out: Mapping[str, Float32], there: Bool, limits: Mapping[str, float]
    ) -> Prediction:
        if not all(np.isfinite(values).all() for values in out.values()):
            return _abstain(window, Reason.MODEL_NAN)
        if _is_unfamiliar(window.modality, out["novelty"], limits):
            return _abstain(window, Reason.UNFAMILIAR)
        clip = out["clip"]
        logits = dict(zip(CLIP_OUTPUTS, map(float, clip), strict=True))
        calibration = self._model.contract.calibration
        by, blind = _asked(window, calibration)
        # Bad time stamps look like lips out of step: they must not speak for a fake.
        doubted = _OF_BOTH if window.in_doubt else ()
        terms = terms_of(by, calibration.parts, clip.astype(np.float64), blind=blind, doubted=doubted)
        return _finish(
            window,
            logit=float(together(by, terms)),
            parts=_parts(calibration, window, logits),
            terms={head: float(term) for head, term in terms.items()},
            frames=np.where(there[:, None], out["frames"], np.float32(np.nan)),
            sync=out["sync"] if window.modality == "av" and not window.in_doubt else None,
        )


def fusion_inputs(
    windows: Sequence[tuple[Sequence[SliceTokens], int | None, str]],
) -> dict[str, Float32]:
    """Stack windows for the fusion graph.

    Args:
        windows: 8 slices each, the face track they are about, and the modality to score by.

    Returns:
        tokens float32 ``[n, 64, width]`` by encoder name, and ``video_ok``, ``audio_ok``
        float32 ``[n, 64]``: 1 where there is evidence, 0 where the network must look away.
    """
    masks = [
        (
            np.concatenate([t.facts.face_mask(track) for t in recent]) & (modality != "audio"),
            np.concatenate([t.facts.audio_mask() for t in recent]) & (modality != "video"),
        )
        for recent, track, modality in windows
    ]
    return {
        "video": np.stack([np.concatenate([t.video for t in recent]) for recent, _, _ in windows]),
        "audio": np.stack([np.concatenate([t.audio for t in recent]) for recent, _, _ in windows]),
        "landmarks": np.stack([np.concatenate([t.landmarks for t in recent]) for recent, _, _ in windows]),
        "video_ok": np.stack([m[0] for m in masks]).astype(np.float32),
        "audio_ok": np.stack([m[1] for m in masks]).astype(np.float32),
    }


def _asked(window: _Window, calibration: Calibration) -> tuple[Affine, Collection[str]]:
    """Return the calibration to score a window by, and the hypotheses that it has no evidence for.

    A picture that cannot be judged is not a picture that is genuine: a made-up face that stands still, or
    turns away, must not be cleared by the voice.  It keeps its share of the odds, at even ones.
    """
    both = calibration.any.get("av")
    if window.hides_picture and both is not None:
        shares = set(shares_of(both))
        if shares & _OF_PICTURE and shares - _OF_PICTURE:
            return both, _OF_PICTURE
    return calibration.any[window.modality], ()


def _is_unfamiliar(modality: str, novelty: Float32, limits: Mapping[str, float]) -> bool:
    """Tell whether what a score would rest on lies beyond the model's experience."""
    return any(
        modality in ("av", name) and value > limits.get(name, math.inf)
        for name, value in zip(NOVELTY_OUTPUTS, novelty, strict=True)
    )


def _parts(calibration: Calibration, window: _Window, logits: dict[str, float]) -> dict[str, float]:
    hidden = {"desync"} if window.in_doubt else set()
    return {
        part: _probability(_affine(calibration.parts[part], logits[part]))
        for part in _SHOWN[window.modality]
        if part in calibration.parts and part not in hidden
    }


def _affine(by: Affine, logit: float) -> float:
    return by.scale * logit + by.offset


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, log_odds))))


def _abstain(window: _Window, reason: Reason | None = None) -> Prediction:
    return _finish(window, reason=reason or window.reason)


def _finish(
    window: _Window,
    *,
    logit: float | None = None,
    reason: Reason | None = None,
    parts: dict[str, float] | None = None,
    terms: dict[str, float] | None = None,
    frames: Float32 | None = None,
    sync: Float32 | None = None,
) -> Prediction:
    last = window.recent[-1].facts
    start = max(0, last.index + 1 - SPEC.window_slices)
    return Prediction(
        index=last.index, start_ns=start * SPEC.slice_ns, end_ns=(last.index + 1) * SPEC.slice_ns,
        logit=logit, reason=reason, parts=parts or {}, modality=window.modality, frames=frames, sync=sync,
        coverage=window.coverage, track=window.track, captured_ns=last.captured_ns, terms=terms or {},
        sync_error_ns=window.sync_error_ns,
    )  # fmt: skip
