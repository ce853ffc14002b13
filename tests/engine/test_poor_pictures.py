"""The demo clip's face and voice, spoilt, through the front-end and the predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from avff.engine.contract import Affine
from avff.engine.frontend import Frontend
from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, UInt8, VideoFrame
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Reason, Slice
from tests.support.engine import blocks_of, demo_items, demo_pictures, face_models, run, scripted_model

SECONDS = 2.88
"""Nine slices: two full windows."""
AS_IS = Affine(1.0, 0.0)
ALL, AV_ONLY = {"av": AS_IS, "video": AS_IS, "audio": AS_IS}, {"av": AS_IS}
Draw = Callable[[float], UInt8]


@cache
def _pictures() -> list[UInt8]:
    return demo_pictures(round(SECONDS * 25))


def _live(time_s: float) -> UInt8:
    """The demo clip's picture at this time."""
    return _pictures()[min(round(time_s * 25), len(_pictures()) - 1)]


def _photograph(time_s: float) -> UInt8:
    """The same picture at any time, each a new one in memory."""
    return _live(0).copy()


def _noisy_photograph(time_s: float) -> UInt8:
    """A camera before a photograph: its noise, of one grey level, is new in every picture."""
    noise = np.random.default_rng(round(time_s * 1000)).normal(0, 1, _live(0).shape)
    return np.clip(_live(0) + noise, 0, 255).astype(np.uint8)


def _freezing(at_s: float) -> Draw:
    return lambda time_s: _live(min(time_s, at_s)).copy()


def _each_twice(time_s: float) -> UInt8:
    """A file of 12.5 pictures a second that was written again at 25."""
    return _live(int(time_s * 12.5 + 1e-6) / 12.5).copy()


def _dimmed(gain: float) -> Draw:
    return lambda time_s: (_live(time_s) * gain).astype(np.uint8)


def _hazy(time_s: float) -> UInt8:
    """So bright that little of the face is left."""
    return (255 - (255 - _live(time_s).astype(np.float32)) * 0.1).astype(np.uint8)


def _voice(gain: float) -> list[AudioBlock]:
    blocks = blocks_of(demo_items(SECONDS))
    return [
        AudioBlock(b.pts_ns, np.clip(b.pcm * np.float32(gain), -1, 1), b.rate_hz, b.captured_ns)
        for b in blocks
    ]


def _shown(draw: Draw, fps: float = 25) -> list[VideoFrame]:
    times = [k / fps for k in range(round(SECONDS * fps))]
    return [VideoFrame(round(t * NS_PER_S), draw(t), 0) for t in times]


def _sliced(pictures: Sequence[VideoFrame]) -> list[Slice]:
    return run(Frontend(face_models(), has_video=True, has_audio=False), pictures)


def _predicted(
    draw: Draw, *, fps: float = 25, gain: float = 1, scored: dict[str, Affine] = AV_ONLY
) -> list[Prediction]:
    """The full windows of these pictures and the demo clip's voice."""
    items: list[MediaItem] = [*_shown(draw, fps), *_voice(gain)]
    items.sort(key=lambda item: item.pts_ns)
    slices = run(Frontend(face_models(), has_video=True, has_audio=True), items)
    predictor, state = Predictor(scripted_model(scored=scored).model), StreamState()
    made = [p for s in slices for _, p in predictor.predict([(state, s)])]
    assert len(made) == 9
    return made[7:]


def _reasons(made: Sequence[Prediction]) -> set[Reason | None]:
    return {p.reason for p in made}


def test_a_standstill_goes_on_across_slices() -> None:
    """Only the first picture of all has none before it."""
    still = np.concatenate([s.still for s in _sliced(_shown(_photograph))])
    assert still.tolist() == [False] + [True] * (len(still) - 1)
    assert not any(s.still.any() for s in _sliced(_shown(_noisy_photograph)))


def test_repeated_pictures_stand_still() -> None:
    """What the grid shows twice is the same, with a face or without."""
    for draw in (_live, lambda time_s: np.full((64, 64, 3), round(time_s * 80), np.uint8)):
        for piece in _sliced(_shown(draw, 12.5)):
            np.testing.assert_array_equal(piece.still, piece.repeated)
            assert piece.repeated.sum() == 4


def test_light_is_that_of_the_face_or_of_the_picture() -> None:
    """A face tells its own light, a picture without one its whole, a gap none."""
    face = _sliced(_shown(_live))[0]
    assert (np.abs(face.light - [148, 61]) < 5).all()
    in_the_dark = _sliced(_shown(lambda time_s: np.full((64, 64, 3), 7, np.uint8))[:16:8])
    assert in_the_dark[0].picture_ok.tolist() == [True] * 4 + [False] + [True] * 3
    np.testing.assert_allclose(in_the_dark[0].light[:, 0], [7, 7, 7, 7, np.nan, 7, 7, 7])


@pytest.mark.parametrize("fps", [30, 25, 15, 12.5, 10])
def test_usual_rates_are_scored(fps: float) -> None:
    """A grid that repeats pictures is neither frozen nor slow."""
    assert _reasons(_predicted(_live, fps=fps)) == {None}


def test_pictures_written_twice_are_scored() -> None:
    """Pairs of equal pictures at 25 a second are 12.5 pictures a second, and no standstill."""
    assert _reasons(_predicted(_each_twice)) == {None}


@pytest.mark.parametrize("fps", [6, 4, 3, 2])
def test_a_low_rate_is_named(fps: float) -> None:
    """Fewer than 8 pictures a second do not show the lips, also when the grid is left with gaps."""
    assert _reasons(_predicted(_live, fps=fps)) == {Reason.LOW_FPS}


@pytest.mark.parametrize("fps", [30, 25, 12.5])
def test_a_voice_over_a_photograph(fps: float) -> None:
    """A photograph is no evidence: the voice is scored, or the picture is called frozen."""
    assert _reasons(_predicted(_photograph, fps=fps)) == {Reason.FROZEN}
    for made in _predicted(_photograph, fps=fps, scored=ALL):
        assert (made.reason, made.modality, set(made.parts)) == (None, "audio", {"audio"})
        assert made.track is None


def test_a_camera_before_a_photograph_is_not_frozen() -> None:
    """Its noise goes on; that nobody is alive before it is for the network to find out."""
    assert _reasons(_predicted(_noisy_photograph)) == {None}


@pytest.mark.parametrize(("seconds", "reasons"), [(0.6, {None}), (1.2, {Reason.FROZEN})])
def test_a_picture_that_freezes(seconds: float, reasons: set[Reason | None]) -> None:
    """For a moment it does not matter; for 1.2 of the last 2.56 s it does."""
    assert _reasons(_predicted(_freezing(SECONDS - seconds))[-1:]) == reasons


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (_dimmed(0.3), None),
        (_dimmed(0.1), Reason.BAD_EXPOSURE),
        (_dimmed(0), Reason.BAD_EXPOSURE),
        (_hazy, Reason.BAD_EXPOSURE),
        (lambda time_s: np.full((480, 480, 3), 120, np.uint8), Reason.NO_FACE),
    ],
    ids=["dim", "dark", "black", "bright", "grey"],
)
def test_light_is_needed(draw: Draw, reason: Reason | None) -> None:
    """A dim face is scored; one that drowns in dark or bright is not, and black is not called faceless."""
    assert _reasons(_predicted(draw)) == {reason}


def test_an_overdriven_voice() -> None:
    """At eight times the level the picture alone is left; at the level as it is, nothing clips."""
    assert _reasons(_predicted(_live, gain=8)) == {Reason.CLIPPING}
    for made in _predicted(_live, gain=8, scored=ALL):
        assert (made.reason, made.modality) == (None, "video")
    assert _reasons(_predicted(_live, gain=1)) == {None}


def test_nothing_left() -> None:
    """With both spoilt, the picture's fault is told."""
    made = _predicted(_photograph, gain=8, scored=ALL)
    assert {(p.modality, p.reason) for p in made} == {("", Reason.FROZEN)}
