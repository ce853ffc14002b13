"""avff-b: its tokens are time slices, its spectra look at no later sound, its blocks can be recomputed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avff.engine.spec import SPEC
from avff.trainer.model.registry import answer, build
from avff.trainer.model.vit import AvffB, MelSpectra, PictureTubes, SoundPatches
from tests.trainer.model.networks import WINDOW_SAMPLES, random_batch, small_config, small_net

CONTEXT, SLICE = SPEC.context_samples, SPEC.slice_samples
WIDTH = 16


def net() -> AvffB:
    made = small_net("avff-b")
    assert isinstance(made, AvffB)
    return made


def moved(before: Tensor, after: Tensor) -> list[int]:
    """Slices whose tokens differ, of ``[1, 8, P, D]``."""
    return (after - before).abs().amax(dim=(0, 2, 3)).nonzero().flatten().tolist()


@torch.no_grad()
@pytest.mark.parametrize("k", [0, 3, 7])
def test_picture_tokens_are_time_slices(k: int) -> None:
    """Pictures of slice k are in the 196 tokens of slice k and nowhere else."""
    tubes, video = PictureTubes(WIDTH), random_batch(1).video
    changed = video.clone()
    changed[:, k] = 0.0
    before = tubes(video)
    assert before.shape == (1, 8, 196, WIDTH)
    assert moved(before, tubes(changed)) == [k]


def test_sixteen_pictures_in_even_steps_are_looked_at() -> None:
    """Pictures 2 and 6 of each slice, four apart over the whole window."""
    video = random_batch(1).video.requires_grad_()
    torch.autograd.backward(PictureTubes(WIDTH)(video).square().sum())
    assert video.grad is not None
    reach = video.grad.abs().sum(dim=(3, 4, 5)).flatten()  # by picture
    assert reach.nonzero().flatten().tolist() == list(range(2, 64, 4))


@torch.no_grad()
def test_picture_tokens_run_in_rows_over_the_face() -> None:
    """A spot low on the left is in a token of a late row and an early column."""
    tubes, video = PictureTubes(WIDTH), torch.zeros(1, 8, 8, 3, 128, 128)
    spot = video.clone()
    spot[..., 120:125, 3:6] = 1.0
    touched = (tubes(spot) - tubes(video)).abs().amax(dim=(0, 1, 3)).reshape(14, 14)
    assert touched.argmax() == 13 * 14
    assert not touched[:12].any()
    assert not touched[:, 2:].any()


@torch.no_grad()
@pytest.mark.parametrize("k", [0, 4, 7])
def test_sound_tokens_are_time_slices_and_no_bands(k: int) -> None:
    """A click in slice k is in the 40 tokens of slice k, whatever its frequencies, and nowhere else."""
    patches, silence = SoundPatches(WIDTH), torch.zeros(1, WINDOW_SAMPLES)
    click = silence.clone()
    click[:, CONTEXT + k * SLICE + SLICE // 2] = 1.0
    before = patches(silence)
    assert before.shape == (1, 8, 40, WIDTH)
    assert moved(before, patches(click)) == [k]


@torch.no_grad()
def test_a_tone_is_in_the_band_of_its_pitch_all_the_time() -> None:
    """1 kHz peaks in the mel band around 1000 mel, in every one of the 640 spectra."""
    time = torch.arange(WINDOW_SAMPLES) / SPEC.rate_hz
    spectra = MelSpectra()(torch.sin(2 * torch.pi * 1000 * time)[None])
    assert spectra.shape == (1, 640, 128)
    top = 2595 * np.log10(1 + 8000 / 700)
    expected = 1000 / top * 129 - 1  # 128 centres between 0 and the top; 1 kHz is 1000 mel
    peaks = spectra[0].argmax(dim=-1)
    assert (peaks - expected).abs().max() <= 1
    assert float(spectra.max()) < 4.0


@torch.no_grad()
def test_spectra_see_no_later_sound() -> None:
    """Spectrum k ends with sample 64 (k + 1) of the window: what follows does not change it."""
    spectra, sound = MelSpectra(), random_batch(1).sound
    for k in (0, 79, 80, 639):
        end = CONTEXT + 64 * (k + 1)
        changed = sound.clone()
        changed[:, end:] = 0.0
        changed[:, : end - 256] = 0.0
        torch.testing.assert_close(spectra(changed)[:, k], spectra(sound)[:, k], rtol=0, atol=1e-5)
        changed[:, end - 128] += 1.0
        assert (spectra(changed)[:, k] - spectra(sound)[:, k]).abs().max() > 0.01


def test_every_mel_band_holds_a_bin() -> None:
    """No band is empty: their weights are finite and sum to one."""
    bank = MelSpectra().bank
    torch.testing.assert_close(bank.sum(dim=0), torch.ones(128))


@torch.no_grad()
def test_prediction_stays_in_its_slice() -> None:
    """A2V of slice k depends on the sound tokens of slice k alone, and gives as many as the picture has."""
    made, x = net(), torch.randn(1, 8 * 40, WIDTH)
    changed = x.clone()
    changed[:, 3 * 40 : 4 * 40] += 1.0
    before, after = (made.a2v(t).reshape(1, 8, 196, WIDTH) for t in (x, changed))
    assert moved(before, after) == [3]


@torch.no_grad()
@pytest.mark.parametrize("mask", ["video_ok", "audio_ok"])
def test_a_slice_without_evidence_is_not_seen(mask: str) -> None:
    """One missing picture of a tubelet, or a gap in a slice's sound, takes that slice out."""
    made, batch = net(), random_batch(1)
    getattr(batch, mask)[:, 3 * 8 + 6] = 0.0
    changed = batch._replace(video=batch.video.clone(), sound=batch.sound.clone())
    if mask == "video_ok":
        changed.video[:, 3] = 0.0
    else:
        # Not the last 12 ms: the next slice's first spectra reach back to them.
        changed.sound[:, CONTEXT + 3 * SLICE : CONTEXT + 4 * SLICE - 192] = 0.0
    one, other = answer(made, batch), answer(made, changed)
    assert torch.equal(one.clip, other.clip)
    assert (answer(made, random_batch(1)).clip - one.clip).abs().max() > 1e-4


@torch.no_grad()
def test_frame_answers_are_their_slices() -> None:
    """The 8 pictures of a slice share its answer, and the slices differ."""
    frames = answer(net(), random_batch(1)).frames.reshape(1, 8, 8, 3)
    assert torch.equal(frames, frames[:, :, :1].expand_as(frames))
    assert (frames[:, 0] - frames[:, 1]).abs().max() > 1e-4


def test_recomputed_blocks_learn_the_same() -> None:
    """Gradients are those of a network that keeps everything, and less is kept for them."""
    batch, grads, kept = random_batch(1), [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        made = build(small_config("avff-b", recompute=recompute)).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(_counted(sizes), lambda x: x):
            out = answer(made, batch)
        torch.autograd.backward(out.clip.sum())
        grads.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
        kept.append(sum(sizes))
    assert grads[0].keys() == grads[1].keys()
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, rtol=0, atol=1e-6, msg=name)
    # The attention of one block alone is 2 heads x 1568 x 1568 numbers.
    assert kept[0] - kept[1] > 2 * 1568**2


def _counted(sizes: list[int]) -> Callable[[Tensor], Tensor]:
    """A hook that notes how many numbers are kept for the way back."""

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    return keep
