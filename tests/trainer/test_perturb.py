"""Perturbations of a stream: each does what its name says, at its severity, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import soxr

from avff.engine.decode import open_media
from avff.engine.errors import SettingsError
from avff.engine.media import NS_PER_S, AudioBlock, Float32, MediaItem, UInt8, VideoFrame
from avff.trainer.perturb import KINDS, Perturbation, generator_of, perturbations
from tests.support.engine import blocks_of, demo_items, pictures_of
from tests.support.media import write_clip

SECONDS = 2.0
RATE_HZ = 48_000
BLOCK = 1024
PICTURE_KINDS = (
    "saturation", "contrast", "blocks", "picture-noise", "blur", "pixelation", "h264-crf", "h264", "vp8",
    "resize", "frame-rate",
)  # fmt: skip
SOUND_KINDS = ("av-offset", "opus", "sound-noise", "reverb", "gain")


def cell(name: str, severity: float) -> Perturbation:
    return Perturbation(name, severity, KINDS[name].unit)


def applied(name: str, severity: float, items: Iterable[MediaItem], seed: int = 0) -> list[MediaItem]:
    return list(cell(name, severity).apply(items, np.random.default_rng(seed)))


def still(size: tuple[int, int], *, seconds: float = SECONDS, fps: float = 25.0) -> list[MediaItem]:
    """Pictures of width x height: noise smoothed to look like a photograph, that moves a little."""
    rng = np.random.default_rng(0)
    width, height = size
    base = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 3)
    base = cv2.normalize(base, None, 20, 235, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    frames = range(round(seconds * fps))
    return [
        VideoFrame(round(k / fps * NS_PER_S), np.ascontiguousarray(np.roll(base, 2 * k, axis=1)), k)
        for k in frames
    ]


def voiced(pcm: Float32, rate_hz: int = RATE_HZ, block: int = BLOCK, start_ns: int = 0) -> list[MediaItem]:
    """Sound in blocks of the size that AAC has."""
    return [
        AudioBlock(start_ns + at * NS_PER_S // rate_hz, pcm[at : at + block], rate_hz, at)
        for at in range(0, len(pcm), block)
    ]


def chirp(seconds: float = SECONDS, rate_hz: int = RATE_HZ) -> Float32:
    """A sweep from 200 to 3000 Hz: it has one place only where it fits itself."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * (200 * time_s + 1400 * time_s**2 / seconds)
    return (0.3 * np.sin(phase)).astype(np.float32)


def joined(items: Iterable[MediaItem]) -> Float32:
    return np.concatenate([b.pcm for b in blocks_of(items)])


def first_picture(items: Iterable[MediaItem]) -> UInt8:
    return pictures_of(items)[0].rgb


def psnr_db(one: Iterable[MediaItem], other: Iterable[MediaItem]) -> float:
    pairs = zip(pictures_of(one), pictures_of(other), strict=True)
    error = np.mean([np.square(a.rgb.astype(float) - b.rgb).mean() for a, b in pairs])
    return float(10 * np.log10(255**2 / error))


def rms(pcm: Float32) -> float:
    return float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))))


@pytest.mark.parametrize("name", KINDS)
def test_severe_level_keeps_the_stream_a_stream(name: str) -> None:
    """Items are of the right types, in bounds and in order, and repeat bit by bit with the seed."""
    items = [i for i in demo_items(1.0)]
    severe = KINDS[name].severities[-1]
    once, again = (applied(name, severe, items, seed=3) for _ in range(2))
    assert {type(i) for i in once} == {VideoFrame, AudioBlock}
    for kind in (pictures_of, blocks_of):
        stamps = [i.pts_ns for i in kind(once)]
        assert stamps == sorted(stamps)
    for block in blocks_of(once):
        assert block.pcm.dtype == np.float32
        assert np.abs(block.pcm).max() <= 1
    for one, other in zip(once, again, strict=True):
        assert one.pts_ns == other.pts_ns
        if isinstance(one, VideoFrame) and isinstance(other, VideoFrame):
            assert one.rgb.dtype == np.uint8
            np.testing.assert_array_equal(one.rgb, other.rgb)
        elif isinstance(one, AudioBlock) and isinstance(other, AudioBlock):
            np.testing.assert_array_equal(one.pcm, other.pcm)
    pickle.loads(pickle.dumps(cell(name, severe)))


@pytest.mark.parametrize("name", KINDS)
def test_items_come_out_while_others_go_in(name: str) -> None:
    """No more than a few seconds are held, however long the stream."""
    taken = 0

    def counted() -> Iterator[MediaItem]:
        nonlocal taken
        for second in range(8):
            for item in still((64, 48), seconds=1.0, fps=10):
                taken += 1
                yield VideoFrame(item.pts_ns + second * NS_PER_S, first_picture([item]), 0)
            yield from voiced(np.zeros(16_000, np.float32), 16_000, 16_000, second * NS_PER_S)

    out = cell(name, KINDS[name].severities[0]).apply(counted(), np.random.default_rng(0))
    heard = next(item for item in out if isinstance(item, AudioBlock))
    assert heard.pts_ns < NS_PER_S
    assert taken <= 50


@pytest.mark.parametrize("name", KINDS)
def test_other_modality_is_left_alone(name: str) -> None:
    """Picture perturbations touch no sample, sound perturbations no pixel."""
    items = demo_items(0.4)
    made = applied(name, KINDS[name].severities[-1], items)
    if name in PICTURE_KINDS:
        np.testing.assert_array_equal(joined(made), joined(items))
    if name in SOUND_KINDS:
        for one, other in zip(pictures_of(made), pictures_of(items), strict=True):
            assert (one.pts_ns, one.rgb is other.rgb) == (other.pts_ns, True)
    assert name in (*PICTURE_KINDS, *SOUND_KINDS, "loss", "loss-silence")


@pytest.mark.parametrize("name", PICTURE_KINDS[:-2])
def test_pictures_get_worse_with_the_level(name: str) -> None:
    """From the first severity to the last the pictures move away from what was sent."""
    items = still((320, 256), seconds=0.4)
    mild, severe = (applied(name, KINDS[name].severities[k], items) for k in (0, -1))
    assert psnr_db(items, severe) < psnr_db(items, mild) - 1
    assert [p.pts_ns for p in pictures_of(severe)] == [p.pts_ns for p in pictures_of(items)]


def test_saturation_zero_is_grey_of_the_same_luma() -> None:
    """What is left is the luma of ITU-R BT.601 in all three channels."""
    items = still((64, 48), seconds=0.04)
    grey = first_picture(applied("saturation", 0, items)).astype(int)
    expected = first_picture(items) @ np.array([0.299, 0.587, 0.114])
    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey[..., 0] - expected).max() <= 1


def test_contrast_multiplies() -> None:
    """Half the contrast is half of each value."""
    items = still((64, 48), seconds=0.04)
    halved = first_picture(applied("contrast", 0.5, items))
    np.testing.assert_array_equal(halved, first_picture(items) // 2)


@pytest.mark.parametrize(("size", "blocks"), [((320, 240), 0), ((320, 256), 16), ((1024, 512), 32)])
def test_blocks_are_counted_by_the_shorter_side(size: tuple[int, int], blocks: int) -> None:
    """Sixteen for each 256 px of it, of 8 x 8 grey pixels; new places in every picture."""
    items: list[MediaItem] = [VideoFrame(k, np.zeros((size[1], size[0], 3), np.uint8), 0) for k in range(2)]
    masks = [p.rgb[..., 0] == 128 for p in pictures_of(applied("blocks", 16, items))]
    assert masks[0].sum() <= blocks * 64
    assert masks[0].sum() >= blocks * 64 * 0.8  # some overlap
    assert blocks == 0 or (masks[0] != masks[1]).any()


def test_picture_noise_has_its_variance() -> None:
    """On mid grey the luma's deviation is the root of the variance, and two pictures differ."""
    grey: list[MediaItem] = [VideoFrame(k, np.full((128, 128, 3), 128, np.uint8), 0) for k in range(2)]
    noisy = [p.rgb for p in pictures_of(applied("picture-noise", 0.002, grey))]
    luma = cv2.cvtColor(noisy[0], cv2.COLOR_RGB2YCrCb)[..., 0]
    assert luma.std() == pytest.approx(255 * np.sqrt(0.002), rel=0.05)
    assert (noisy[0] != noisy[1]).mean() > 0.9


def test_resize_makes_smaller_and_never_larger() -> None:
    """A picture of 360 lines becomes one of 180 with its shape kept; one of 120 stays."""
    assert first_picture(applied("resize", 180, still((640, 360), seconds=0.04))).shape == (180, 320, 3)
    assert first_picture(applied("resize", 180, still((160, 120), seconds=0.04))).shape == (120, 160, 3)


@pytest.mark.parametrize("name", ["h264", "vp8", "h264-crf"])
def test_video_codec_keeps_odd_sizes_and_uneven_times(name: str) -> None:
    """One picture out for each picture in, with its own time, size and content."""
    pictures = pictures_of(still((161, 121), seconds=0.24))
    stamps_ns = tuple(k * 1_000_000 for k in (0, 33, 99, 1_000, 9_000, 9_000))
    items: list[MediaItem] = [
        VideoFrame(pts_ns, p.rgb, 0) for p, pts_ns in zip(pictures, stamps_ns, strict=True)
    ]
    made = applied(name, KINDS[name].severities[0], items)
    assert [p.pts_ns for p in pictures_of(made)] == [i.pts_ns for i in items]
    for k, one in enumerate(pictures_of(made)[:5]):
        errors = [np.square(one.rgb.astype(float) - p.rgb).mean() for p in pictures_of(items)]
        assert np.argmin(errors) == k


def test_video_codec_follows_a_change_of_size() -> None:
    """A sender that changes its resolution in mid-stream is followed."""
    items = [*still((64, 48), seconds=0.12), *still((96, 64), seconds=0.12)]
    shapes = [p.rgb.shape for p in pictures_of(applied("h264", 500, items))]
    assert shapes == [(48, 64, 3)] * 3 + [(64, 96, 3)] * 3


@pytest.mark.parametrize(("fps", "kept"), [(30, 50), (20, 40), (15, 30), (10, 20), (7, 14)])
def test_frame_rate_is_that_of_the_level(fps: int, kept: int) -> None:
    """Of two seconds at 25 pictures a second so many are left, give or take one, evenly spread."""
    made = pictures_of(applied("frame-rate", fps, still((16, 16))))
    assert abs(len(made) - kept) <= 1
    assert np.diff([p.pts_ns for p in made]).max() <= (1 / fps + 0.04) * NS_PER_S


def test_frame_rate_forgives_rounded_stamps() -> None:
    """Thirty pictures a second whose stamps are whole milliseconds all stay at level 30."""
    items: list[MediaItem] = [
        VideoFrame(round(k * 1000 / 30) * 1_000_000, np.zeros((2, 2, 3), np.uint8), 0) for k in range(90)
    ]
    assert len(applied("frame-rate", 30, items)) == 90


@pytest.mark.parametrize("offset_ms", [40, -320])
def test_offset_moves_the_sound_alone(offset_ms: int) -> None:
    """Every block's stamp moves by as much, and no sample changes."""
    items = voiced(chirp(0.5))
    made = applied("av-offset", offset_ms, items)
    moves = {b.pts_ns - i.pts_ns for b, i in zip(made, items, strict=True)}
    assert moves == {offset_ms * 1_000_000}
    np.testing.assert_array_equal(joined(made), joined(items))


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_opus_is_in_step_and_of_the_same_length(rate_hz: int) -> None:
    """The codec's delay is taken out: speech fits best where it was, to a tenth of a millisecond."""
    sent = soxr.resample(joined(demo_items(2.0)), RATE_HZ, rate_hz)
    made = applied("opus", 32, voiced(sent, rate_hz))
    heard, reference = joined(made), soxr.resample(sent, rate_hz, 48_000)
    assert {b.rate_hz for b in blocks_of(made)} == {48_000}
    assert abs(len(heard) - len(reference)) < 48
    part = slice(20_000, 80_000)
    fits = {lag: float(np.dot(heard[part], np.roll(reference, lag)[part])) for lag in range(-60, 61)}
    best = max(fits.items(), key=lambda fit: fit[1])[0]
    assert abs(best) <= 5
    stamps = [b.pts_ns for b in blocks_of(made)]
    lengths = np.cumsum([0, *(len(b.pcm) for b in blocks_of(made))])[:-1]
    np.testing.assert_allclose(stamps, lengths / 48_000 * NS_PER_S, atol=2)


def test_opus_begins_anew_after_a_gap() -> None:
    """Sound from both sides of a pause keeps its place; nothing fills the pause."""
    items = [*voiced(chirp(0.5)), *voiced(chirp(0.5), start_ns=2 * NS_PER_S)]
    made = blocks_of(applied("opus", 32, items))
    late = [b for b in made if b.pts_ns >= 2 * NS_PER_S]
    assert abs(late[0].pts_ns - 2 * NS_PER_S) < 1_000_000
    assert max(b.pts_ns + len(b.pcm) * NS_PER_S // b.rate_hz for b in made if b not in late) < 0.51 * NS_PER_S


def test_opus_gets_worse_with_fewer_bits() -> None:
    """At 6 kbit/s more of a voice is lost than at 32."""
    items = [i for i in demo_items(1.0) if isinstance(i, AudioBlock)]
    heard = [joined(applied("opus", kbps, items)) for kbps in (32, 12, 6)]
    length = min(map(len, heard))
    errors = [rms(h[:length] - joined(applied("opus", 128, items))[:length]) for h in heard]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("snr_db", [20, 0])
def test_noise_stands_below_the_speech(snr_db: int) -> None:
    """Measured against the sound above silence; a pause in the speech is as noisy as the rest."""
    speech = chirp(1.5)
    pcm = np.concatenate([np.zeros(RATE_HZ, np.float32), speech, np.zeros(RATE_HZ, np.float32)])
    noise = joined(applied("sound-noise", snr_db, voiced(pcm))) - pcm
    assert 20 * np.log10(rms(speech) / rms(noise)) == pytest.approx(snr_db, abs=0.7)
    assert rms(noise[:RATE_HZ]) == pytest.approx(rms(noise[-RATE_HZ:]), rel=0.05)


def test_silence_gets_no_noise() -> None:
    """Where nothing is heard for long there is no level to be below of."""
    pcm = np.zeros(3 * RATE_HZ, np.float32)
    assert not joined(applied("sound-noise", 0, voiced(pcm))).any()


@pytest.mark.parametrize("t60_s", [0.2, 1.0])
def test_reverb_decays_by_60_db(t60_s: float) -> None:
    """A click's echo falls by 30 dB in half of T60, across block borders; the click stays first."""
    pcm = np.zeros(2 * RATE_HZ, np.float32)
    pcm[100] = 1
    wet = joined(applied("reverb", t60_s, voiced(pcm)))[100:]
    assert np.argmax(np.abs(wet)) == 0
    half, span = int(t60_s / 2 * RATE_HZ), int(t60_s / 20 * RATE_HZ)
    fall_db = 20 * np.log10(rms(wet[10 : 10 + span]) / rms(wet[10 + half : 10 + half + span]))
    assert fall_db == pytest.approx(30, abs=2)
    assert rms(wet) == pytest.approx(rms(pcm[100:]), rel=0.01)


def test_reverb_does_not_depend_on_the_blocks() -> None:
    """The same sound in blocks of another size rings alike."""
    small, large = (applied("reverb", 0.4, voiced(chirp(0.5), block=n)) for n in (480, 4096))
    np.testing.assert_allclose(joined(small), joined(large), atol=1e-5)


def test_gain_is_clipped() -> None:
    """Ten dB less is a third; what would pass full scale stays at it."""
    pcm = chirp(0.1)
    np.testing.assert_allclose(joined(applied("gain", -10, voiced(pcm))), pcm * 10**-0.5, rtol=1e-6)
    assert np.abs(joined(applied("gain", 20, voiced(pcm)))).max() == 1


def test_lost_pictures_freeze() -> None:
    """About a fifth repeat the one before, each at its own time; the first is always there."""
    items = still((32, 24), seconds=20)
    made = pictures_of(applied("loss", 20, items))
    assert [p.pts_ns for p in made] == [i.pts_ns for i in items]
    frozen = [k for k in range(1, len(made)) if made[k].rgb is made[k - 1].rgb]
    assert len(frozen) / len(made) == pytest.approx(0.2, abs=0.05)
    assert all(made[k].rgb is p.rgb for k, p in enumerate(pictures_of(items)) if k not in frozen)


def test_lost_sound_is_silent_or_concealed() -> None:
    """The same 20 ms packets are lost; one way they are zeros, the other way the last one fades on."""
    pcm = np.full(10 * RATE_HZ, 0.5, np.float32)
    silent, concealed = (joined(applied(n, 10, voiced(pcm))) for n in ("loss-silence", "loss"))
    packets = silent.reshape(-1, RATE_HZ // 50)
    lost = packets[:, 0] == 0
    assert (packets[lost] == 0).all()
    assert (packets[~lost] == 0.5).all()
    assert lost.mean() == pytest.approx(0.1, abs=0.04)
    alone = [k for k in np.flatnonzero(lost) if k > 0 and not lost[k - 1]]
    np.testing.assert_array_equal(concealed.reshape(-1, RATE_HZ // 50)[alone], 0.25)
    np.testing.assert_array_equal(concealed.reshape(-1, RATE_HZ // 50)[~lost], 0.5)


def test_losses_of_a_level_are_among_those_of_the_next() -> None:
    """Cells differ by severity, not by luck: what 5 % loses, 20 % loses too."""
    pcm = np.full(10 * RATE_HZ, 0.5, np.float32)
    few, many = (
        joined(cell("loss-silence", p).apply(voiced(pcm), generator_of("clip", 7))) == 0 for p in (5, 20)
    )
    assert few.any()
    assert not (few & ~many).any()


def test_sound_is_lost_whatever_the_file_interleaves() -> None:
    """Pictures in between change nothing for the sound."""
    sound, both = voiced(chirp()), sorted([*voiced(chirp()), *still((16, 16))], key=lambda i: i.pts_ns)
    np.testing.assert_array_equal(joined(applied("loss", 20, sound)), joined(applied("loss", 20, both)))


def test_clips_and_seeds_have_their_own_chance() -> None:
    """Another clip or another seed draws other numbers; the same draws the same."""
    draws = [generator_of(uid, seed).random() for uid, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_file_passes_through(tmp_path: Path) -> None:
    """A decoded file goes through a codec and out again, picture for picture."""
    path = write_clip(tmp_path / "a.mkv", seconds=1.0, codec="ffv1", size=(160, 120))
    with open_media(path) as reader:
        made = list(cell("vp8", 300).apply(reader, np.random.default_rng(0)))
    assert len(pictures_of(made)) == 25
    assert sum(len(b.pcm) for b in blocks_of(made)) == 16_000


def test_cells_are_chosen_by_name_and_level() -> None:
    """All of them, those of some kinds, or some levels of each; a kind without a level has no such cell."""
    assert len(perturbations()) == sum(len(k.severities) for k in KINDS.values())
    assert [str(p) for p in perturbations(["gain", "resize"], [1, 5])] == [
        "gain -10 dB", "gain -30 dB", "resize 480 lines",
    ]  # fmt: skip


def test_single_cells_are_chosen_by_their_severity() -> None:
    """Whatever the levels say, in the order given, and once even when a kind holds them too."""
    assert [str(p) for p in perturbations(["opus@12", "h264@300", "gain", "gain@-10"], [1])] == [
        "opus 12 kbit/s", "h264 300 kbit/s", "gain -10 dB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "levels", "message"),
    [
        (["h265"], [], "unknown perturbation 'h265'; did you mean 'h264'?"),
        (["zzz"], [], "unknown perturbation 'zzz'; known: saturation, contrast"),
        (["gain"], [6], "no severity level 6; there are 1 to 5"),
        (["h265@300"], [], "unknown perturbation 'h265'; did you mean 'h264'?"),
        (["opus@13"], [], "no severity '13' of opus; there are 32, 24, 16, 12, 6"),
    ],
    ids=["near", "far", "level", "cell of no kind", "cell of no severity"],
)
def test_unknown_cell_is_refused(names: list[str], levels: list[int], message: str) -> None:
    """One line names it and the way out."""
    with pytest.raises(SettingsError) as caught:
        perturbations(names, levels)
    assert str(caught.value).startswith(message)
