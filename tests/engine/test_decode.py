from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from avff.engine.decode import MAX_SIDE_PX, MediaReader, open_media, upright_rgb
from avff.engine.errors import MediaError
from avff.engine.media import NS_PER_S, AudioBlock, Float32, UInt8, VideoFrame
from tests.support.engine import TURNS, blocks_of, pictures_of, turn_track, write_sound, write_wide_pixels
from tests.support.media import truncate, write_clip

MS = 1_000_000
RED, GREY = (255, 0, 0), (110, 110, 110)


def _read(path: Path) -> tuple[list[VideoFrame], list[AudioBlock], MediaReader]:
    with open_media(path) as reader:
        items = list(reader)
    return pictures_of(items), blocks_of(items), reader


def _sound(blocks: list[AudioBlock]) -> Float32:
    return np.concatenate([b.pcm for b in blocks])


def _corner_mark(width: int, height: int) -> UInt8:
    """Grey, with a red mark in the left upper corner."""
    rgb = np.full((height, width, 3), GREY, np.uint8)
    rgb[: height // 4, : width // 4] = RED
    return rgb


def _red_corner(rgb: UInt8) -> tuple[str, str]:
    """Which corner of the picture is red; fails unless exactly one is."""
    corners = {
        (v, h): rgb[y, x] for v, y in (("upper", 4), ("lower", -5)) for h, x in (("left", 4), ("right", -5))
    }
    red = [name for name, (r, g, b) in corners.items() if int(r) - max(int(g), int(b)) > 80]
    assert len(red) == 1
    return red[0]


def _overwrite(path: Path, hit: Callable[[int], bool]) -> Path:
    """Fill the packets that ``hit`` chooses by number with 0xFF."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for k, packet in enumerate(container.demux(video=0)):
            if packet.size and packet.pos is not None and hit(k):
                start = data.index(bytes(packet), packet.pos)
                data[start : start + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    return path


def _missing(path: Path) -> Path:
    return path / "no" / "such.mp4"


def _directory(path: Path) -> Path:
    return path


def _empty(path: Path) -> Path:
    (path / "empty.mp4").touch()
    return path / "empty.mp4"


def _text(path: Path) -> Path:
    (path / "notes.mp4").write_text("This is no film.\n" * 200)
    return path / "notes.mp4"


def _headless(path: Path) -> Path:
    return truncate(write_clip(path / "cut.mp4", seconds=1), 0.6)


def _subtitles(path: Path) -> Path:
    (path / "film.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    return path / "film.srt"


def _too_long(path: Path) -> Path:
    return path / ("x" * 300 + ".mp4")


def _nul(path: Path) -> Path:
    return path / "a\0b.mp4"


def _pipe(path: Path) -> Path:
    os.mkfifo(path / "pipe.mp4")
    return path / "pipe.mp4"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_pipe, "is not a regular file"),
        (_missing, "no such file"),
        (_directory, "is a directory"),
        (_empty, "is empty"),
        (_text, "not readable as audio or video"),
        (_headless, "not readable as audio or video"),
        (_subtitles, "neither picture nor sound"),
        (_too_long, "name too long"),
        (_nul, "null"),
    ],
)
def test_no_media_is_refused_in_one_line(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    """What is no media file gets a one-line error that names the path and what is wrong."""
    path = make(tmp_path)
    with pytest.raises(MediaError) as caught:
        open_media(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_a_file_without_one_good_packet_is_refused(tmp_path: Path) -> None:
    """A header with nothing decodable behind it is an error, not an empty stream."""
    path = _overwrite(write_clip(tmp_path / "a.mp4", seconds=0.4, audio=False), lambda k: True)
    with open_media(path) as reader, pytest.raises(MediaError, match="nothing in it could be decoded"):
        list(reader)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_truncated_file_is_read_as_far_as_it_goes(suffix: str, share: float, tmp_path: Path) -> None:
    """Of a file that breaks off, what is there comes out in order, and the reader says that it broke off."""
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_clip(tmp_path / f"a{suffix}", seconds=5, options=options)
    whole, _, unharmed = _read(path)
    pictures, blocks, reader = _read(truncate(path, share))
    assert unharmed.truncated is None
    assert reader.truncated
    assert 0 < len(pictures) < len(whole)
    assert [p.pts_ns for p in pictures[:-1]] == [p.pts_ns for p in whole[: len(pictures) - 1]]
    assert blocks


def test_damaged_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    """Garbage in the middle of a file costs the packets it hits, not the rest of the file."""
    path = write_clip(tmp_path / "a.mkv", frames=10, audio=False, codec="mjpeg", pixel_format="yuvj420p")
    pictures, _, reader = _read(_overwrite(path, lambda k: k in (3, 4)))
    assert reader.damaged == 2
    assert [p.pts_ns // (40 * MS) for p in pictures] == [0, 1, 2, 5, 6, 7, 8, 9]


def test_audio_only(tmp_path: Path) -> None:
    """A file without pictures is a sound stream."""
    path = write_clip(tmp_path / "a.m4a", seconds=1, video=False)
    pictures, blocks, reader = _read(path)
    assert (reader.has_video, reader.has_audio) == (False, True)
    assert pictures == []
    assert len(_sound(blocks)) == pytest.approx(16_000, abs=2048)


def test_video_only(tmp_path: Path) -> None:
    """A file without sound is a picture stream."""
    pictures, blocks, reader = _read(write_clip(tmp_path / "a.mp4", seconds=1, audio=False))
    assert (reader.has_video, reader.has_audio) == (True, False)
    assert blocks == []
    assert [p.pts_ns for p in pictures] == [k * 40 * MS for k in range(25)]


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    """The picture on a song's cover does not make it a film."""
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=16_000, layout="mono")
        cover = container.add_stream("png", rate=1)
        assert isinstance(sound, av.AudioStream)
        assert isinstance(cover, av.VideoStream)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(_corner_mark(64, 48), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16p", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    _, blocks, reader = _read(path)
    assert (reader.has_video, reader.has_audio) == (False, True)
    assert blocks


def test_one_picture(tmp_path: Path) -> None:
    """A video of a single picture gives that picture."""
    pictures, *_ = _read(write_clip(tmp_path / "a.mp4", frames=1, audio=False))
    assert [(p.pts_ns, p.rgb.shape) for p in pictures] == [(0, (120, 160, 3))]


@pytest.mark.parametrize(
    ("codec", "pixel_format", "size"),
    [
        ("libx264", "yuv422p10le", (160, 120)),
        ("ffv1", "yuv422p10le", (160, 120)),
        ("ffv1", "yuv444p", (161, 121)),
        ("ffv1", "gray", (33, 17)),
        ("ffv1", "yuv420p", (99, 51)),
        ("libx264", "yuv444p", (65, 43)),
    ],
)
def test_any_pixel_format_and_size_becomes_rgb(
    codec: str, pixel_format: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """10-bit, 4:2:2, grey and odd-sized pictures come out as 8-bit RGB of the true size and colour."""
    width, height = size
    ramp = np.linspace(30, 220, width).astype(np.uint8)
    drawn = np.repeat(np.tile(ramp, (height, 1))[:, :, None], 3, axis=2)
    path = write_clip(
        tmp_path / "a.mkv", frames=2, audio=False, codec=codec, pixel_format=pixel_format, size=size,
        picture=lambda k: drawn,
    )  # fmt: skip
    pictures, *_ = _read(path)
    assert len(pictures) == 2
    for shown in pictures:
        assert shown.rgb.dtype == np.uint8
        assert shown.rgb.shape == (height, width, 3)
        assert np.abs(shown.rgb.astype(int) - drawn).mean() < 4


@pytest.mark.parametrize("turn", TURNS)
def test_the_display_matrix_is_applied(turn: str, tmp_path: Path) -> None:
    """A picture that was stored turned or mirrored comes out as its display matrix says."""
    a, b, c, d = TURNS[turn]
    path = write_clip(
        tmp_path / "a.mp4", frames=2, audio=False, size=(160, 96), picture=lambda k: _corner_mark(160, 96)
    )
    pictures, *_ = _read(turn_track(path, (a, b, c, d)))
    # Seen from the middle the mark lies at (-1, -1), with y down.
    x, y = -a - c, -b - d
    for shown in pictures:
        assert shown.rgb.shape == ((96, 160, 3) if a else (160, 96, 3))
        assert _red_corner(shown.rgb) == ("upper" if y < 0 else "lower", "left" if x < 0 else "right")
        assert shown.rgb.flags.c_contiguous


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(16, 11), Fraction(1, 2)])
def test_pixels_become_square(aspect: Fraction, tmp_path: Path) -> None:
    """A circle stored with wide or narrow pixels comes out as a circle."""
    height, width = 96, 80
    y, x = np.indices((height, width))
    inside = ((x - 40) * float(aspect)) ** 2 + (y - 48) ** 2 < 20**2
    rgb = np.where(inside[..., None], 230, 20).astype(np.uint8).repeat(3, axis=2)
    pictures, *_ = _read(write_wide_pixels(tmp_path / "a.mp4", rgb, aspect))
    shown = pictures[0].rgb
    assert shown.shape == (height, round(width * aspect), 3)
    bright = shown[..., 0] > 128
    across, down = bright.any(axis=0).sum(), bright.any(axis=1).sum()
    assert abs(int(across) - int(down)) <= 2


@pytest.mark.parametrize(("size", "becomes"), [((1920, 1080), (1280, 720)), ((720, 1440), (640, 1280))])
def test_large_pictures_are_scaled_down(
    size: tuple[int, int], becomes: tuple[int, int], tmp_path: Path
) -> None:
    """No side is longer than 1280 px, and the proportions stay."""
    path = write_clip(
        tmp_path / "a.mp4", frames=1, audio=False, size=size, picture=lambda k: _corner_mark(*size)
    )
    pictures, *_ = _read(path)
    assert max(becomes) == MAX_SIDE_PX
    assert pictures[0].rgb.shape == (becomes[1], becomes[0], 3)
    assert _red_corner(pictures[0].rgb) == ("upper", "left")


def _click(rate_hz: int, at_s: float, seconds: float) -> npt.NDArray[np.int16]:
    pcm = np.zeros((1, round(seconds * rate_hz)), np.int16)
    pcm[0, round(at_s * rate_hz) : round(at_s * rate_hz) + 8] = 30_000
    return pcm


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "within_s"),
    [
        ("a.wav", "pcm_s16le", 8_000, 0.0002),
        ("a.flac", "flac", 44_100, 0.0002),
        ("a.m4a", "aac", 48_000, 0.002),
        ("a.mkv", "aac", 48_000, 0.002),
        ("a.mp3", "libmp3lame", 44_100, 0.002),
        ("a.ogg", "libopus", 48_000, 0.002),
    ],
)
def test_sound_is_stamped_with_its_own_time(
    name: str, codec: str, rate_hz: int, within_s: float, tmp_path: Path
) -> None:
    """A click lies at its time whatever the codec's start-up delay: lip sync is judged by it."""
    path = write_sound(tmp_path / name, _click(rate_hz, 0.5, 1), rate_hz=rate_hz, layout="mono", codec=codec)
    _, blocks, _ = _read(path)
    assert {b.rate_hz for b in blocks} == {rate_hz}
    found = max(
        (float(np.abs(b.pcm).max()), b.pts_ns / NS_PER_S + int(np.abs(b.pcm).argmax()) / rate_hz)
        for b in blocks
    )
    assert found[0] > 0.3
    assert found[1] == pytest.approx(0.5, abs=within_s + 8 / rate_hz)


def test_8_khz_mono(tmp_path: Path) -> None:
    """Telephone sound keeps its rate, its level and its length."""
    path = write_clip(tmp_path / "a.wav", seconds=1, video=False, rate_hz=8_000)
    _, blocks, _ = _read(path)
    pcm = _sound(blocks)
    assert {b.rate_hz for b in blocks} == {8_000}
    assert len(pcm) == 8_000
    assert np.abs(pcm).max() == pytest.approx(0.3, abs=0.01)


def _channels(levels: list[float]) -> npt.NDArray[np.int16]:
    return np.repeat(np.array(levels)[:, None] * 32768, 4800, axis=1).astype(np.int16)


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "pcm_f32le", "pcm_u8"])
@pytest.mark.parametrize(
    ("layout", "levels", "mean"),
    [
        ("mono", [0.5], 0.5),
        ("stereo", [0.5, -0.25], 0.125),
        ("5.1", [0.5, 0.25, 0.25, 0.75, -0.25, 0.5], 0.25),  # FL FR FC LFE BL BR
    ],
)
def test_channels_are_averaged_without_the_low_frequency_one(
    codec: str, layout: str, levels: list[float], mean: float, tmp_path: Path
) -> None:
    """Sound of any layout and sample type becomes the mean of its full-range channels."""
    path = tmp_path / ("a.flac" if codec == "flac" else "a.wav")
    _, blocks, _ = _read(write_sound(path, _channels(levels), rate_hz=48_000, layout=layout, codec=codec))
    pcm = _sound(blocks)
    assert pcm.dtype == np.float32
    assert pcm.shape == (4800,)
    np.testing.assert_allclose(pcm, mean, atol=0.01 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_keeps_its_stamps(suffix: str, tmp_path: Path) -> None:
    """Uneven picture times come out as they were written, to the millisecond."""
    times = [0, 0.033, 0.1, 0.35, 0.36, 0.5]
    path = write_clip(tmp_path / f"a{suffix}", times_s=times, audio=False)
    pictures, *_ = _read(path)
    assert [round(p.pts_ns / MS) for p in pictures] == [round(1000 * t) for t in times]


@pytest.mark.parametrize(
    ("suffix", "codec", "audio_codec"),
    [
        (".mkv", "mpeg4", "pcm_s16le"),
        (".mp4", "mpeg4", "aac"),
        (".mp4", "libx264", "aac"),
        (".ts", "mpeg4", "mp2"),
    ],
)
@pytest.mark.parametrize(("video_s", "audio_s"), [(0.3, 0.0), (0.0, 0.3)], ids=["video late", "audio late"])
def test_the_offset_between_sound_and_picture_survives(
    suffix: str, codec: str, audio_codec: str, video_s: float, audio_s: float, tmp_path: Path
) -> None:
    """A track that starts 300 ms after the other does so in the time stamps too."""
    path = write_clip(
        tmp_path / f"a{suffix}", seconds=1, codec=codec, audio_codec=audio_codec, rate_hz=48_000,
        times_s=[video_s + k / 25 for k in range(25)], audio_start_s=audio_s,
    )  # fmt: skip
    pictures, blocks, _ = _read(path)
    offset_s = (min(p.pts_ns for p in pictures) - blocks[0].pts_ns) / NS_PER_S
    # A coder may put its start-up delay before the first sample: 1152 samples at most.
    assert offset_s == pytest.approx(video_s - audio_s, abs=0.025)


@pytest.mark.parametrize(
    ("name", "audio_codec", "start_s"),
    [("a.mkv", "pcm_s16le", 5.0), ("a.ts", "mp2", 3600.0)],
)
def test_a_container_that_starts_late_starts_at_zero(
    name: str, audio_codec: str, start_s: float, tmp_path: Path
) -> None:
    """Media time 0 is the start of the container, whatever its first stamp, for both tracks."""
    path = write_clip(
        tmp_path / name, seconds=0.6, audio_codec=audio_codec, rate_hz=48_000,
        times_s=[start_s + k / 25 for k in range(15)], audio_start_s=start_s,
    )  # fmt: skip
    with av.open(str(path)) as container:
        assert container.start_time is not None
        assert container.start_time > av.time_base  # the file does start late
    pictures, blocks, _ = _read(path)
    assert pictures[0].pts_ns == pytest.approx(0, abs=30 * MS)
    assert blocks[0].pts_ns == pytest.approx(0, abs=30 * MS)
    assert min(pictures[0].pts_ns, blocks[0].pts_ns) == pytest.approx(0, abs=MS)


def test_blocks_follow_each_other(tmp_path: Path) -> None:
    """Each block's stamp is the end of the one before, to within a sample."""
    _, blocks, _ = _read(write_clip(tmp_path / "a.mp4", seconds=1, rate_hz=44_100))
    for before, after in itertools.pairwise(blocks):
        end_ns = before.pts_ns + len(before.pcm) * NS_PER_S / before.rate_hz
        assert after.pts_ns == pytest.approx(end_ns, abs=NS_PER_S / 44_100)


def test_the_duration_is_told(tmp_path: Path) -> None:
    """A reader knows how long the file says it is."""
    *_, reader = _read(write_clip(tmp_path / "a.mp4", seconds=1.2))
    assert reader.duration_s == pytest.approx(1.2, abs=0.1)


def test_a_playlist_cannot_reach_other_hosts(tmp_path: Path) -> None:
    """A playlist that names an address is refused: reading a file opens no connection."""
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError):
        open_media(path)


def test_a_raw_stream_plays_at_the_rate_it_states(tmp_path: Path) -> None:
    """Pictures without time stamps follow one another instead of being lost."""
    source = write_clip(tmp_path / "a.mp4", seconds=1, codec="libx264", audio=False, options={"bf": "0"})
    raw = tmp_path / "a.h264"
    with av.open(str(source)) as read, av.open(str(raw), "w") as write:
        track = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                write.mux(packet)
    pictures, _, _ = _read(raw)
    assert len(pictures) == 25
    assert all(after.pts_ns > before.pts_ns for before, after in itertools.pairwise(pictures))


def test_a_guessed_length_is_no_promise(tmp_path: Path) -> None:
    """A file whose length FFmpeg guesses from the bit rate of its start is not called cut short."""
    half = 10 * 16_000
    noise = np.random.default_rng(0).integers(-9000, 9000, half, np.int16)
    sound = np.concatenate([np.zeros(half, np.int16), noise])[None]
    path = write_clip(tmp_path / "a.aac", video=False, audio_codec="aac", seconds=20, sound=sound)
    with open_media(path) as reader:
        blocks = [item for item in reader if isinstance(item, AudioBlock)]
        heard_s = sum(len(b.pcm) / b.rate_hz for b in blocks)
        assert reader.duration_s is not None
        assert reader.duration_s > heard_s + 5
        assert reader.truncated is None


def test_pictures_of_a_file_equal_those_converted_one_by_one(tmp_path: Path) -> None:
    """One conversion context for all of them changes no pixel."""
    path = write_clip(tmp_path / "a.mp4", seconds=0.4, audio=False)
    with open_media(path) as reader:
        together = [item.rgb for item in reader if isinstance(item, VideoFrame)]
    with av.open(str(path)) as container:
        alone = [upright_rgb(frame) for frame in container.decode(video=0)]
    assert len(together) == len(alone) == 10
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_picture_is_let_go_when_it_has_been_converted(tmp_path: Path) -> None:
    """Nothing keeps the decoder's memory until garbage is collected: at 720p that were hundreds of MB."""
    clip = write_clip(tmp_path / "clip.mp4", seconds=0.2, audio=False)
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            before = sys.getrefcount(frame)
            upright_rgb(frame)
            assert sys.getrefcount(frame) == before
