"""avff-b: AVFF at the paper's size, to compare the streaming network with.

After Oorloff et al., CVPR 2024 (arXiv:2406.02951): two ViT-B (Dosovitskiy et al., ICLR 2021,
arXiv:2010.11929) that attend over the whole window, eight temporal slices, audio-to-visual and
visual-to-audio prediction per slice, and a head on tokens and predictions side by side.  Where
the paper and this project's windows differ:

- A window is 2.56 s and not 3.2 s, so it has 640 spectra and not 768: 40 sound tokens a slice.
- Its 16 pictures are every fourth of the 25 fps grid (6.25 fps), two a slice.
- Faces are upsampled from the aligned crop of 128 px to the 224 px of the ViT: it has the paper's
  cost, not the paper's resolution.
- It starts from random weights: MARLIN's and AudioMAE's are not part of this project.

Letters beside the package's: P tokens of a slice, 196 of picture and 40 of sound; L = S * P.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torchaudio.functional as taf
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from avff.engine.spec import SPEC
from avff.trainer.model.avff import AvffConfig
from avff.trainer.model.fusion import CrossPredictor, FusionOut, TokenHeads, without_cross
from avff.trainer.model.layers import Block

_S, _F = SPEC.window_slices, SPEC.slice_frames
_PATCH, _FACE_PX = 16, 224
_SEEN = slice(2, None, 4)
"""Pictures 2 and 6 of each slice of 8: one tubelet, and even steps over the window."""
_PAIR = 2
_SPECTRUM, _HOP, _FFT, _BANDS = 256, 64, 1024, 128
"""16 ms every 4 ms, in samples; padded to 1024, or the lowest of 128 mel bands would hold no bin."""
_SPREAD = 4
_BANK = taf.melscale_fbanks(_FFT // 2 + 1, 0.0, SPEC.rate_hz / 2, _BANDS, SPEC.rate_hz)
"""Triangles spaced evenly in mel, ``[513, 128]``."""
PICTURE_TOKENS = (_FACE_PX // _PATCH) ** 2
SOUND_TOKENS = SPEC.slice_samples // _HOP // _PATCH * (_BANDS // _PATCH)


class PictureTubes(nn.Module):
    """Tubelets of 2 pictures x 16 x 16 px: ``[N, 8, 8, 3, 128, 128]`` (0…1) to ``[N, 8, 196, D]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Both pictures of a tubelet as six channels: the same sums as a 3-D convolution's.
        self.patches = nn.Conv2d(_PAIR * 3, width, _PATCH, stride=_PATCH)

    def forward(self, video: Tensor) -> Tensor:
        """Cut a batch of windows."""
        x = (video[:, :, _SEEN].flatten(0, 2) - 0.5) * 4.0  # [N * S * 2, 3, 128, 128]
        x = functional.interpolate(x, size=(_FACE_PX, _FACE_PX), mode="bilinear")
        x = self.patches(x.reshape(-1, _PAIR * 3, _FACE_PX, _FACE_PX))  # [N * S, D, 14, 14]
        return x.flatten(2).transpose(1, 2).unflatten(0, (-1, _S))  # [N, S, 196, D]


class MelSpectra(nn.Module):
    """Log-mel spectra of 16 ms every 4 ms: ``[N, 352 + 40960]`` at 16 kHz to ``[N, 640, 128]``, -4…4.

    The last spectrum of a slice ends with it; the first reaches 12 ms before it, as far as the
    sound's left context allows, and none sees what comes after.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bank: Tensor
        self.window: Tensor
        self.register_buffer("bank", _BANK / _BANK.sum(dim=0), persistent=False)
        self.register_buffer("window", torch.hann_window(_SPECTRUM), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Transform a batch of windows."""
        frames = sound[:, SPEC.context_samples - (_SPECTRUM - _HOP) :].unfold(1, _SPECTRUM, _HOP)
        # Powers span ten orders of magnitude: they stay in 32 bits.
        with torch.autocast(sound.device.type, enabled=False):
            power = torch.fft.rfft(frames.float() * self.window, n=_FFT).abs().square()
            # Shifted and scaled as the streaming network's spectra are (engine/features.py).
            return (((power @ self.bank + 1e-6).log() + 4.0) / 5.0).clamp(-4.0, 4.0)


class SoundPatches(nn.Module):
    """Patches of 16 spectra x 16 bands: ``[N, 352 + 40960]`` samples to ``[N, 8, 40, D]``.

    Time is the outer axis of the tokens, so a slice's 40 are the 320 ms of that slice.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spectra = MelSpectra()
        self.patches = nn.Conv2d(1, width, _PATCH, stride=_PATCH)

    def forward(self, sound: Tensor) -> Tensor:
        """Cut a batch of windows."""
        x = self.patches(self.spectra(sound).unsqueeze(1))  # [N, D, 40 in time, 8 bands]
        return x.flatten(2).transpose(1, 2).unflatten(1, (_S, SOUND_TOKENS))  # [N, S, 40, D]


class Transformer(nn.Module):
    """A ViT's body: learned positions, blocks that attend over the whole window, a norm.

    Args:
        config: width, heads, depth, dropout, recompute.
        tokens: in a slice.
    """

    def __init__(self, config: AvffConfig, tokens: int) -> None:
        super().__init__()
        length = _S * tokens
        self.position = nn.Parameter(torch.randn(length, config.width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, length, dropout=config.dropout, spread=_SPREAD)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.recompute = config.recompute

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[N, L, D]``."""
        x = x + self.position
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)
        return self.norm(x)


class AvffB(nn.Module):
    """AVFF with two ViT and the head of its second stage.

    The paper's head answers one question; for the four of this project any and desync rest on
    both modalities, and video and audio on their own tokens alone.
    """

    def __init__(self, config: AvffConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pooling = config.frame_pool()
        self.tubes, self.patches = PictureTubes(width), SoundPatches(width)
        self.unseen = nn.Parameter(torch.zeros(width))
        self.unheard = nn.Parameter(torch.zeros(width))
        self.video, self.audio = Transformer(config, PICTURE_TOKENS), Transformer(config, SOUND_TOKENS)
        self.a2v = self._predictor(SOUND_TOKENS, PICTURE_TOKENS)
        self.v2a = self._predictor(PICTURE_TOKENS, SOUND_TOKENS)
        self.join_v, self.join_a = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.tokens = TokenHeads(width)
        self.slice_any = nn.Linear(2 * width, 1)
        self.joint = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, 2),
        )

    def forward(self, video: Tensor, sound: Tensor, video_ok: Tensor, audio_ok: Tensor) -> FusionOut:
        """Score windows.

        Args:
            video: ``[N, 8, 8, 3, 128, 128]``, 0…1.
            sound: ``[N, 352 + 40960]`` at 16 kHz.
            video_ok, audio_ok: ``[N, 64]``, 1 where there is evidence.
        """
        # A tubelet is seen if both of its pictures are, the sound of a slice heard if all of it is.
        seen = video_ok.reshape(-1, _S, _F)[..., _SEEN].amin(dim=-1, keepdim=True)  # [N, S, 1]
        heard = audio_ok.reshape(-1, _S, _F).amin(dim=-1, keepdim=True)
        v = self.video(_masked(self.tubes(video), seen, self.unseen))  # [N, S * 196, D]
        a = self.audio(_masked(self.patches(sound), heard, self.unheard))  # [N, S * 40, D]
        from_a, from_v = self.a2v(a), self.v2a(v)
        f_v = _reduced(self.join_v(torch.cat([v, from_a], dim=-1)))
        f_a = _reduced(self.join_a(torch.cat([a, from_v], dim=-1)))
        both = torch.cat([f_v, f_a], dim=-1)  # [N, S, 2 D]
        picture = self.tokens.video(_slice_means(v))  # [N, S, 1]
        voice = self.tokens.audio(_slice_means(a))
        any_logit, desync = self.joint(both.mean(dim=1)).split(1, dim=-1)
        slice_any = self.slice_any(both)
        any_logit = self.pooling.with_frames(any_logit, slice_any, seen, heard)
        parts = [self.pooling(picture, seen), self.pooling(voice, heard)]
        clip = torch.cat([any_logit, *parts, desync], dim=-1)
        frames = torch.cat([slice_any, picture, voice], dim=-1)  # [N, S, 3]
        out = without_cross(clip, frames.repeat_interleave(_F, dim=1), self.config.width)
        return replace(out, predicted=((from_a, v), (from_v, a)))

    def _predictor(self, given: int, wanted: int) -> CrossPredictor:
        size = self.config
        return CrossPredictor(
            size.width, size.heads, dropout=size.dropout, given=given, wanted=wanted, spread=_SPREAD
        )


def _masked(tokens: Tensor, there: Tensor, missing: Tensor) -> Tensor:
    """Put ``missing`` (``[D]``) where a slice has no evidence: ``[N, S, P, D]`` to ``[N, L, D]``."""
    there = there.unsqueeze(-1)  # [N, S, 1, 1]
    return (tokens * there + missing * (1 - there)).flatten(1, 2)


def _slice_means(tokens: Tensor) -> Tensor:
    """Mean over the tokens of each slice, never over their width: ``[N, L, D]`` to ``[N, S, D]``."""
    return tokens.reshape(len(tokens), _S, -1, tokens.shape[-1]).mean(dim=2)


def _reduced(tokens: Tensor) -> Tensor:
    """The paper's patch reduction, ``[N, L, D]`` to ``[N, S, D]``."""
    return _slice_means(functional.gelu(tokens, approximate="tanh"))
