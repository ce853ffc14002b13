"""Twins of a clip: its leading silence gone from both modalities, or its container like all others'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from avff.engine.media import NS_PER_S, AudioBlock, MediaItem, VideoFrame
from avff.engine.spec import SPEC
from avff.trainer.perturb import CONTROLS, KINDS, REENCODED, TRIMMED, control, perturbations
from avff.trainer.perturb.twins import TWIN_PX, letterboxed
from tests.support.engine import blocks_of, demo_items, pictures_of

FRAME_NS = NS_PER_S // 25


def made(name: str, items: Iterable[MediaItem]) -> list[MediaItem]:
    return list(control(name).apply(items, np.random.default_rng(0)))


def clip(silent: int, *, seconds: float = 2.0, rate_hz: int = 16_000, fps: float = 25.0) -> list[MediaItem]:
    """Numbered pictures and sound whose first ``silent`` samples are zero, interleaved by time."""
    pcm = np.full(round(seconds * rate_hz), 0.25, np.float32)
    pcm[:silent] = 0
    block = rate_hz // 50
    sound: list[MediaItem] = [
        AudioBlock(at * NS_PER_S // rate_hz, pcm[at : at + block], rate_hz, 0)
        for at in range(0, len(pcm), block)
    ]
    pictures: list[MediaItem] = [
        VideoFrame(round(k * NS_PER_S / fps), np.full((4, 4, 3), k % 256, np.uint8), 0)
        for k in range(round(seconds * fps))
    ]
    return sorted([*sound, *pictures], key=lambda item: item.pts_ns)


@pytest.mark.parametrize(("silent", "dropped"), [(0, 1), (639, 1), (640, 2), (8_000, 13)])
def test_silence_goes_with_its_pictures(silent: int, dropped: int) -> None:
    """Of s seconds ``int(s * 25) + 1`` pictures go and as much sound; what is left starts at 0, in step."""
    left = made(TRIMMED, clip(silent))
    pictures = pictures_of(left)
    assert [int(p.rgb[0, 0, 0]) for p in pictures] == list(range(dropped, 50))
    assert [p.pts_ns for p in pictures] == [k * FRAME_NS for k in range(50 - dropped)]
    sound = np.concatenate([b.pcm for b in blocks_of(left)])
    assert len(sound) == 32_000 - dropped * 640
    assert sound.min() == 0.25, "the onset lies in the last of the dropped pictures"
    stamps = np.array([b.pts_ns for b in blocks_of(left)])
    lengths = np.cumsum([0, *(len(b.pcm) for b in blocks_of(left))])[:-1]
    np.testing.assert_allclose(stamps, lengths / 16_000 * NS_PER_S, atol=2)


def test_threshold_is_that_of_the_rule() -> None:
    """A hum of 4e-4 of full scale is silence, one of 6e-4 is not."""
    for level, dropped in ((4e-4, 26), (6e-4, 1)):
        items = clip(0)
        hum = [
            AudioBlock(i.pts_ns, np.full_like(i.pcm, level), i.rate_hz, 0)
            if isinstance(i, AudioBlock) and i.pts_ns < NS_PER_S
            else i
            for i in items
        ]
        assert 50 - len(pictures_of(made(TRIMMED, hum))) == dropped


def test_sound_of_another_rate_is_judged_at_16_khz() -> None:
    """Half a second of silence at 44.1 kHz is cut at the same picture, give or take the filter's ringing."""
    left = made(TRIMMED, clip(22_050, rate_hz=44_100))
    assert len(pictures_of(left)) in (37, 38)


def test_silent_clip_has_nothing_left_and_clip_without_sound_stays() -> None:
    """There is no onset in the one, and no silence to speak of in the other."""
    assert made(TRIMMED, clip(32_000)) == []
    mute = [i for i in clip(0) if isinstance(i, VideoFrame)]
    assert made(TRIMMED, mute) == mute
    long = [VideoFrame(k * FRAME_NS, mute[0].rgb, 0) for k in range(500)]
    assert made(TRIMMED, long) == long


def test_silence_is_not_held() -> None:
    """However long it lasts, only what is ahead of the sound waits: pictures go as soon as they must."""
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[MediaItem]:
        nonlocal alive, most
        for item in clip(16_000 * 39, seconds=40.0):
            if isinstance(item, VideoFrame):
                alive += 1
                most = max(most, alive)
                yield VideoFrame(item.pts_ns, item.rgb.copy().view(Counted), 0)
            else:
                yield item

    assert len(pictures_of(made(TRIMMED, stream()))) == 40 * 25 - 39 * 25 - 1
    assert most < 40


@pytest.mark.parametrize(("fps", "size"), [(25.0, (256, 256)), (30.0, (1280, 720)), (12.5, (180, 320))])
def test_reencoded_clips_are_alike(fps: float, size: tuple[int, int]) -> None:
    """Whatever it was, a clip comes out with 25 pictures a second, of one size, and sound at 48 kHz."""
    items = [
        VideoFrame(i.pts_ns, np.full((size[1], size[0], 3), 90, np.uint8), 0)
        if isinstance(i, VideoFrame)
        else i
        for i in clip(0, seconds=1.0, fps=fps)
    ]
    left = made(REENCODED, items)
    stamps = [p.pts_ns for p in pictures_of(left)]
    assert np.diff(stamps).tolist() == [SPEC.frame_ns] * (len(stamps) - 1)
    assert 0 <= 25 - len(stamps) <= 25 / fps, "nothing follows the last picture"
    assert {p.rgb.shape for p in pictures_of(left)} == {(TWIN_PX[1], TWIN_PX[0], 3)}
    assert {b.rate_hz for b in blocks_of(left)} == {48_000}
    assert sum(len(b.pcm) for b in blocks_of(left)) == pytest.approx(48_000, abs=48)


def test_reencoded_clip_still_shows_and_says_the_same() -> None:
    """It is worse, not another: pictures keep their places, and sound its energy."""
    items = demo_items(1.0)
    left = made(REENCODED, items)
    originals = {p.pts_ns: letterboxed(p.rgb) for p in pictures_of(items)}
    errors = [np.abs(p.rgb.astype(int) - originals[p.pts_ns]).mean() for p in pictures_of(left)]
    assert 0 < np.mean(errors) < 6
    power = [np.mean(np.square(np.concatenate([b.pcm for b in blocks_of(x)]))) for x in (items, left)]
    assert power[1] == pytest.approx(power[0], rel=0.2)


def test_picture_is_fitted_with_its_shape_kept() -> None:
    """Black bars at the sides of a square, above and below a wide one; small ones are enlarged."""
    white = np.full((100, 100, 3), 255, np.uint8)
    framed = letterboxed(white)
    columns = np.flatnonzero(framed[180, :, 0])
    assert (columns[0], columns[-1]) == (140, 499)
    assert framed[0, 320, 0] == framed[359, 320, 0] == 255
    wide = np.flatnonzero(letterboxed(np.full((100, 400, 3), 255, np.uint8))[:, 320, 0])
    assert (wide[0], wide[-1]) == (100, 259)


def test_twins_are_no_cells_of_the_sweep() -> None:
    """A sweep over everything leaves them out."""
    assert not {p.name for p in perturbations()} & set(CONTROLS)
    assert not set(KINDS) & set(CONTROLS)
