"""Where in a window its score comes from: the log-odds again, with one place covered at a time.

Occlusion maps.  A place that speaks for a fake is one without which the score is lower.  They cost
hundreds of runs of one encoder, so nothing here is called while a stream is scored.  Pure: no
clock, no files.  What the maps mean, and what not: ``docs/explanation.md``.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from avff.engine.errors import BackendError, ExplainError
from avff.engine.features import audio_tensor, band_middles_hz, video_tensor
from avff.engine.media import NS_PER_S, Float32
from avff.engine.predictor import Predictor, SliceTokens, StreamState
from avff.engine.rolling import evidence
from avff.engine.slices import FaceSlice, Prediction, Slice
from avff.engine.spec import SPEC

FACE_PLACES = 12
"""Places a side: 144 patches, 11 px apart."""
_FACE_CORE_PX, _FACE_FEATHER_PX = 9.0, 10.0
"""Half the side of what is wholly covered, and the fade around it: a patch is about as large as an eye."""
SOUND_TIMES, SOUND_BANDS = 16, 10
"""Places along the window, 160 ms each, and up the mel scale, 8 bands each."""
_SOUND_FEATHER = 0.25
"""The fade from one place to the next, as a part of a place."""
_FLOOR_PERCENTILE = 5
_AT_ONCE = 4
"""Places in one batch: 32 slices, 28 MB of pictures."""
_WINDOW_SPECTRA = SPEC.window_slices * SPEC.slice_spectra

Inputs = Mapping[int, Float32]
"""What an encoder gets for the slices that a place touches, by their place in the window."""


@dataclass(frozen=True, slots=True, eq=False)
class OcclusionMap:
    """What covering one place at a time does to a window's score.

    Attributes:
        values: float32 ``[rows, columns]``, calibrated log-odds of the window as it is minus those with
            the place covered: above 0 where the place speaks for a fake, below where it speaks against.
        y: float32 ``[rows]``, middles of the places: px of the aligned face from its top, or number of
            the mel band, 0…80 from the lowest.
        x: float32 ``[columns]``: px of the aligned face from its left, or s from the window's start.
    """

    values: Float32
    y: Float32
    x: Float32

    @property
    def peak(self) -> tuple[float, float, float]:
        """The highest value, and its ``y`` and ``x``."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return float(self.values[row, column]), float(self.y[row]), float(self.x[column])


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window with a score.

    Attributes:
        slices: its 8 slices in order.
        prediction: what the model says of it.
    """

    slices: tuple[Slice, ...]
    prediction: Prediction


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A window and the maps of what its score rests on.

    Attributes:
        window: what is explained.
        face: patches over the face in all pictures; None where the score does not rest on the picture.
        sound: times and bands; None where the score does not rest on the sound.
        times: the same with all bands at once, ``values`` ``[1, 16]``, or None.
        bands: the same with all times at once, ``values`` ``[10, 1]``, or None.
    """

    window: Window
    face: OcclusionMap | None
    sound: OcclusionMap | None
    times: OcclusionMap | None
    bands: OcclusionMap | None


def choose_window(slices: Iterable[Slice], predictor: Predictor, at_ns: int | None = None) -> Window:
    """Score slices and return the window with the highest score, or the one around a moment.

    Args:
        slices: of one stream, in order and without gaps; read only as far as needed, 8 kept at a time.
        predictor: makes a score at every slice.
        at_ns: media time in ns; the full window whose middle lies nearest is taken.

    Raises:
        ExplainError: no window has a score, or not the one around ``at_ns``.
        BackendError, ContractError: the model failed.
    """
    best: tuple[float, Window] | None = None
    reasons: Counter[str] = Counter()
    recent: deque[Slice] = deque(maxlen=SPEC.window_slices)
    state, end_ns = StreamState(), 0
    for piece in slices:
        recent.append(piece)
        for _, said in predictor.predict([(state, piece)]):
            end_ns = said.end_ns
            reasons.update([] if said.reason is None else [str(said.reason)])
            rank = _rank(said, at_ns)
            if len(recent) < SPEC.window_slices or rank is None:
                continue
            if best is None or rank > best[0]:
                best = (rank, Window(tuple(recent), said))
            elif at_ns is not None:  # from here on they only get farther away
                return _with_score(best[1])
    if at_ns is not None and at_ns > end_ns:
        raise ExplainError(f"{at_ns / NS_PER_S:g} s is past the end, {end_ns / NS_PER_S:.1f} s")
    if best is None:
        counts = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        raise ExplainError(f"no window has a score that could be explained ({counts or 'nothing in it'})")
    return _with_score(best[1])


def explain(predictor: Predictor, window: Window) -> Explanation:
    """Make all maps that the window's score has a use for.

    Raises:
        ExplainError: the window has no score.
        BackendError, ContractError: the model failed.
    """
    modality = _with_score(window).prediction.modality
    heard = modality != "video"
    return Explanation(
        window=window,
        face=face_map(predictor, window) if modality != "audio" else None,
        sound=sound_map(predictor, window) if heard else None,
        times=sound_map(predictor, window, bands=1) if heard else None,
        bands=sound_map(predictor, window, times=1) if heard else None,
    )


def face_map(predictor: Predictor, window: Window, *, places: int = FACE_PLACES) -> OcclusionMap:
    """Cover the face with a patch of its mean colour, in all pictures of the window at once.

    The face's points and the head's motion are left as they are.

    Args:
        predictor: of the model that made the score.
        window: one whose score rests on the picture.
        places: a side.

    Returns:
        ``values`` ``[places, places]``, in log-odds; ``y`` and ``x`` in px of the 128 px aligned face.

    Raises:
        ExplainError: the window has no score, or one without the picture.
        BackendError, ContractError: the model failed.
    """
    _needs(window, "video")
    middles = _middles(SPEC.face_px, places)
    pixels = np.arange(SPEC.face_px, dtype=np.float32) + np.float32(0.5)
    bumps = [_bump(pixels - middle, _FACE_CORE_PX, _FACE_FEATHER_PX) for middle in middles]
    faces = {k: f for k, f in _faces(window).items() if f.ok.any()}
    colour = np.concatenate([f.faces[f.ok] for f in faces.values()]).mean(axis=(0, 1, 2), dtype=np.float64)
    plain = colour.astype(np.float32)
    covered = (
        {k: video_tensor(_patched(face, np.outer(down, along), plain)) for k, face in faces.items()}
        for down in bumps
        for along in bumps
    )
    values = _drops(predictor, window, "video", covered)
    return OcclusionMap(values.reshape(places, places), middles, middles)


def sound_map(
    predictor: Predictor, window: Window, *, times: int = SOUND_TIMES, bands: int = SOUND_BANDS
) -> OcclusionMap:
    """Mute a stretch of time in a range of bands, down to the window's noise floor.

    The floor is each band's 5th percentile over the window.  The linear bands of the network's
    input are muted with the mel bands of the same pitch.

    Args:
        predictor: of the model that made the score.
        window: one whose score rests on the sound.
        times: places along the window; 1 to mute all of it at once.
        bands: places up the mel scale; 1 to mute all bands at once.

    Returns:
        ``values`` ``[bands, times]``, in log-odds; ``y`` in mel bands, ``x`` in s from the window's start.

    Raises:
        ExplainError: the window has no score, or one without the sound.
        BackendError, ContractError: the model failed.
    """
    _needs(window, "audio")
    spectra = {k: audio_tensor(s.audio) for k, s in enumerate(window.slices) if s.audio_ok > 0}
    floor = np.percentile(np.concatenate(list(spectra.values()), axis=2), _FLOOR_PERCENTILE, axis=2)
    along = _shares(np.arange(_WINDOW_SPECTRA) + 0.5, _WINDOW_SPECTRA, times)
    up = _shares(_mel_places(), SPEC.bands, bands)
    covered = (
        _muted(spectra, floor.astype(np.float32), bands_share, times_share)
        for bands_share in up
        for times_share in along
    )
    values = _drops(predictor, window, "audio", covered)
    seconds = _middles(_WINDOW_SPECTRA, times) * np.float32(SPEC.fft_hop / SPEC.rate_hz)
    return OcclusionMap(values.reshape(bands, times), _middles(SPEC.bands, bands), seconds)


def _rank(said: Prediction, at_ns: int | None) -> float | None:
    """What makes one window preferred to another; None for one that is out of the question."""
    return evidence(said) if at_ns is None else -abs((said.start_ns + said.end_ns) / 2 - at_ns)


def _with_score(window: Window) -> Window:
    said = window.prediction
    if evidence(said) is None:
        span = f"{said.start_ns / NS_PER_S:.2f}-{said.end_ns / NS_PER_S:.2f} s"
        raise ExplainError(f"the window {span} has no score to explain: {said.reason or 'model_nan'}")
    return window


def _needs(window: Window, modality: str) -> None:
    if _with_score(window).prediction.modality not in ("av", modality):
        raise ExplainError(f"the window's score does not rest on its {modality}")


def _faces(window: Window) -> dict[int, FaceSlice]:
    """The face the score is about, by place in the window."""
    track = window.prediction.track
    return {k: s.face for k, s in enumerate(window.slices) if s.face is not None and s.face.track == track}


def _drops(predictor: Predictor, window: Window, graph: str, covered: Iterable[Inputs]) -> Float32:
    """Return by how much each covering lowers the log-odds, float32 ``[places]``.

    Only the one encoder runs again, and only on the slices that are touched.
    """
    tokens = tuple(predictor.encode(window.slices))
    (base,) = _logits(predictor, [tokens])
    drops: list[float] = []
    for some in _batched(covered, _AT_ONCE):
        made = iter(predictor.tokens(graph, [tensor for inputs in some for tensor in inputs.values()]))
        variants = [
            tuple(_changed(t, graph, next(made)) if k in inputs else t for k, t in enumerate(tokens))
            for inputs in some
        ]
        drops += [base - logit for logit in _logits(predictor, variants)]
    return np.array(drops, np.float32)


def _logits(predictor: Predictor, windows: Sequence[tuple[SliceTokens, ...]]) -> list[float]:
    # A patch on a face is unlike anything that was trained on, and asked about all the same.
    logits = [evidence(said) for said in predictor.score(windows, however_unfamiliar=True)]
    known = [logit for logit in logits if logit is not None]
    if len(known) < len(logits):
        raise BackendError("the network returned no number for a covered window")
    return known


def _changed(tokens: SliceTokens, graph: str, new: Float32) -> SliceTokens:
    return replace(tokens, video=new) if graph == "video" else replace(tokens, audio=new)


def _batched(items: Iterable[Inputs], size: int) -> Iterator[list[Inputs]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _middles(length: int, places: int) -> Float32:
    return ((np.arange(places) + 0.5) * length / places).astype(np.float32)


def _bump(distance: np.ndarray, core: float, feather: float) -> Float32:
    """1 within ``core`` of the middle, falling along a cosine to 0 over ``feather``."""
    fade = np.clip((np.abs(distance) - core) / feather, 0, 1)
    return np.asarray((1 + np.cos(np.pi * fade)) / 2, np.float32)


def _shares(at: np.ndarray, length: int, places: int) -> Float32:
    """How far each place covers the positions ``at``, ``[places, *at.shape]``; all places add up to 1."""
    width = length / places
    feather = width * _SOUND_FEATHER
    bumps = [_bump(at - middle, (width - feather) / 2, feather) for middle in _middles(length, places)]
    return np.asarray(bumps / np.sum(bumps, axis=0), np.float32)


def _mel_places() -> np.ndarray:
    """Where the mel bands and the linear bands lie on the scale of mel bands 0…80; ``[2, 80]``."""
    mel, linear = band_middles_hz()
    own = np.arange(SPEC.bands) + 0.5
    return np.stack([own, np.interp(linear, mel, own)])


def _patched(face: FaceSlice, share: Float32, colour: Float32) -> np.ndarray:
    """Return the faces with ``share`` ``[128, 128]`` of a colour laid over them where a face is."""
    rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    part = share[box][..., None]
    faces = face.faces.copy()
    under = faces[(face.ok, *box)].astype(np.float32)
    faces[(face.ok, *box)] = np.rint(under + (colour - under) * part).astype(np.uint8)
    return faces


def _muted(
    spectra: Mapping[int, Float32], floor: Float32, bands_share: Float32, times_share: Float32
) -> dict[int, Float32]:
    """Return the touched slices' tensors, shares of bands ``[2, 80]`` and times ``[256]`` at the floor."""
    by_slice = times_share.reshape(SPEC.window_slices, SPEC.slice_spectra)
    muted: dict[int, Float32] = {}
    for k, tensor in spectra.items():
        if by_slice[k].any():
            share = bands_share[:, :, None] * by_slice[k]
            # What lies below the floor stays: muting must not make anything louder.
            muted[k] = tensor - share * np.maximum(tensor - floor[..., None], 0)
    return muted
