"""Near-duplicates: copies in another encoding and size are found, other clips of a person are not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avff.engine.offline import slices_of_file
from avff.engine.spec import SPEC
from avff.trainer.data.duplicates import LIMIT, Signature, near_duplicates, signature
from tests.support.engine import face_models
from tests.support.training import talking_clip

SECONDS = 2.56


def copy(source: Path, target: Path, *, side_px: int, crf: int, audio_codec: str, rate_hz: int) -> Path:
    """Write a clip again, in another size and quality, with other codecs and twice the channels."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = writer.add_stream("libx264", rate=Fraction(25), options={"crf": str(crf)})
        audio = writer.add_stream(audio_codec, rate=rate_hz, layout="stereo")
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width = video.height = side_px
        video.pix_fmt, audio.bit_rate = "yuv420p", 32_000
        size = audio.codec_context.frame_size or 1024
        resampler = av.AudioResampler(audio.codec_context.format, "stereo", rate_hz, frame_size=size)
        for frame in reader.decode():
            if isinstance(frame, av.VideoFrame):
                frame.pict_type = av.video.frame.PictureType.NONE
                writer.mux(video.encode(frame.reformat(side_px, side_px, "yuv420p")))
            elif isinstance(frame, av.AudioFrame):
                for piece in resampler.resample(frame):
                    writer.mux(audio.encode(piece))
        for piece in resampler.resample(None):
            writer.mux(audio.encode(piece))
        writer.mux(video.encode(None))
        writer.mux(audio.encode(None))
    return target


@pytest.fixture(scope="module")
def signatures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Signature]:
    """Three clips of one person, two copies of the first, prepared as the daemon prepares them."""
    folder = tmp_path_factory.mktemp("clips")
    paths = {
        name: talking_clip(folder / f"{name}.mp4", seconds=SECONDS, start_s=start_s)
        for name, start_s in (("one", 0.0), ("two", 4.0), ("three", 8.0))
    }
    paths["small"] = copy(
        paths["one"], folder / "small.mp4", side_px=160, crf=34, audio_codec="aac", rate_hz=44_100
    )
    paths["large"] = copy(
        paths["one"], folder / "large.mkv", side_px=480, crf=28, audio_codec="libopus", rate_hz=48_000
    )
    return {name: signature_of(path) for name, path in paths.items()}


def signature_of(path: Path) -> Signature:
    """The signature of a file whose face is there throughout."""
    slices = slices_of_file(path, face_models())
    sound = [s.audio[SPEC.context_samples :] for s in slices]
    return signature(np.concatenate([s.face.faces for s in slices if s.face]), np.concatenate(sound))


def apart(signatures: dict[str, Signature]) -> dict[str, str]:
    """Every clip in a group of its own."""
    return {name: name for name in signatures}


def test_copies_are_found_and_other_clips_of_the_person_are_not(signatures: dict[str, Signature]) -> None:
    """Across the split, and nearer than the limit by a margin."""
    sides = dict.fromkeys(signatures, "train") | {
        "small": "validation",
        "large": "validation",
        "two": "validation",
    }
    found = near_duplicates(signatures, sides, apart(signatures))
    assert {pair[:2] for pair in found} == {("one", "small"), ("one", "large")}
    assert all(distance < 0.9 * LIMIT for *_, distance in found)
    assert [pair[2] for pair in found] == sorted(pair[2] for pair in found)


def test_other_clips_are_far_beyond_the_limit(signatures: dict[str, Signature]) -> None:
    """The same face in the same picture: what is said tells them apart."""
    sides = {"one": "train", "two": "validation", "three": "test"}
    chosen = {name: signatures[name] for name in sides}
    found = near_duplicates(chosen, sides, apart(chosen), limit=1.0)
    assert len(found) == 3
    assert min(distance for *_, distance in found) > 1.5 * LIMIT


def test_pairs_of_one_side_or_one_group_are_not_reported(signatures: dict[str, Signature]) -> None:
    """Copies within training do no harm, and a fake resembles its footage by nature."""
    chosen = {name: signatures[name] for name in ("one", "small", "large")}
    sides = {"one": "train", "small": "train", "large": "validation"}
    groups = {"one": "g", "small": "h", "large": "g"}
    assert [pair[:2] for pair in near_duplicates(chosen, sides, groups)] == [("small", "large")]


def test_silent_copies_are_told_by_their_pictures(signatures: dict[str, Signature]) -> None:
    """A modality that one of the clips lacks says nothing; with none in common there is no pair."""
    one, small = signatures["one"], signatures["small"]
    sides = {"a": "train", "b": "validation"}
    silent = {"a": Signature(one.pictures, None), "b": small}
    assert [pair[:2] for pair in near_duplicates(silent, sides, apart(silent))] == [("a", "b")]
    unseen = {"a": Signature(None, one.sound), "b": small}
    assert [pair[:2] for pair in near_duplicates(unseen, sides, apart(unseen))] == [("a", "b")]
    nothing = {"a": Signature(one.pictures, None), "b": Signature(None, small.sound)}
    assert near_duplicates(nothing, sides, apart(nothing), limit=1.0) == []


def test_blank_pictures_and_silence_have_no_signature() -> None:
    """Else all clips without a face, and all silent ones, would be copies of each other."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 128, 128, 3)).astype(np.uint8)
    sound = rng.standard_normal(16_000).astype(np.float32)
    half = noise.copy()
    half[:10] = 0
    assert signature(half, sound).pictures is None
    assert signature(noise, sound).pictures is not None
    assert signature(noise, np.zeros(16_000, np.float32)).sound is None
    assert signature(noise, sound[:1000]).sound is None
    assert signature(noise, sound).sound is not None


def test_loudness_does_not_matter(signatures: dict[str, Signature]) -> None:
    """A copy played at half the volume has the same bits."""
    rng = np.random.default_rng(1)
    faces = np.zeros((8, 128, 128, 3), np.uint8)
    sound = (rng.standard_normal(32_000) * np.linspace(0.1, 1, 32_000)).astype(np.float32)
    full, soft = signature(faces, sound).sound, signature(faces, sound * np.float32(0.5)).sound
    assert full is not None
    assert soft is not None
    assert np.bitwise_count(full ^ soft).sum() <= 4
