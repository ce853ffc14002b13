"""What a window is labelled, and how it becomes tensors."""

from __future__ import annotations

import numpy as np
import pytest

from avff.engine.features import audio_tensor, landmark_tensor, video_tensor
from avff.engine.spec import SPEC
from avff.trainer.data.manifest import Clip
from avff.trainer.data.windows import clip_labels, to_batch, without
from tests.support.samples import make_sample
from tests.support.training import make_clip

NAN = float("nan")
FACE = make_clip("f.mp4", label=1, generator="F", label_video=1, label_audio=0)
UNSURE = make_clip("g.mp4", label=1, generator="G", label_video=1)
VOICE = make_clip("h.mp4", label=1, generator="H", label_video=0, label_audio=1)


@pytest.mark.parametrize(
    ("clip", "labels"),
    [
        (make_clip("a.mp4"), [0, 0, 0, 0]),
        (FACE, [1, 1, 0, NAN]),
        (UNSURE, [1, 1, NAN, NAN]),
        (VOICE, [1, 0, 1, NAN]),
    ],
    ids=["genuine", "face", "unknown-voice", "voice"],
)
def test_labels_follow_the_manifest(clip: Clip, labels: list[float]) -> None:
    """Order any, video, audio, desync; 1 is fake; unknown is NaN, and a fake's synchrony is unknown."""
    np.testing.assert_array_equal(clip_labels(clip), labels)


@pytest.mark.parametrize(
    ("labels", "drop", "left"),
    [
        ([1, 1, 0, 0], "", [1, 1, 0, 0]),
        ([1, 1, 0, 0], "video", [0, NAN, 0, NAN]),
        ([1, 1, 0, 0], "audio", [1, 1, NAN, NAN]),
        ([1, 0, 1, 1], "video", [1, NAN, 1, NAN]),
        ([1, 0, 1, 1], "audio", [0, 0, NAN, NAN]),
        ([1, NAN, NAN, 1], "video", [NAN, NAN, NAN, NAN]),
        ([0, 0, 0, 1], "audio", [0, 0, NAN, NAN]),
    ],
)
def test_withheld_modality_is_not_asked_for(labels: list[float], drop: str, left: list[float]) -> None:
    """What is left decides whether anything is fake; what is gone, and synchrony, are unknown."""
    sample = make_sample(0)
    sample.labels[:], sample.frame_labels[:] = labels, labels[:3]
    clip, frames = without(sample, drop)
    np.testing.assert_array_equal(clip, left)
    np.testing.assert_array_equal(frames, np.tile(np.array(left[:3], np.float32), (len(frames), 1)))
    np.testing.assert_array_equal(sample.labels, labels)


@pytest.mark.parametrize(("drop", "seen", "heard"), [("", 1, 1), ("video", 0, 1), ("audio", 1, 0)])
def test_withheld_modality_is_masked(drop: str, seen: int, heard: int) -> None:
    """The masks tell the network what to look away from; a picture without a face is masked as well."""
    sample = make_sample(0)
    sample.ok[3] = False
    batch = to_batch(sample, group=2, drop=drop)
    assert batch.video_ok.tolist() == [seen * (t != 3) for t in range(SPEC.window_frames)]
    assert batch.audio_ok.tolist() == [heard] * SPEC.window_frames
    assert int(batch.group) == 2


def test_slice_k_of_a_window_is_its_own_320_ms() -> None:
    """Pictures, landmarks and sound are cut alike, and by the engine's own feature code."""
    sample = make_sample(2)
    batch = to_batch(sample, group=0, drop="")
    for k in range(SPEC.window_slices):
        pictures = slice(k * SPEC.slice_frames, (k + 1) * SPEC.slice_frames)
        start = k * SPEC.slice_samples
        sound = sample.audio[start : start + SPEC.context_samples + SPEC.slice_samples]
        points = landmark_tensor(sample.landmarks[pictures], sample.motion[pictures])
        assert np.array_equal(batch.video[k].numpy(), video_tensor(sample.faces[pictures]))
        assert np.array_equal(batch.audio[k].numpy(), audio_tensor(sound))
        assert np.array_equal(batch.landmarks[k].numpy(), points)
