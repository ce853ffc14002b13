"""The networks this one is compared with for speed, at their full size and with random weights.

Written anew from what their code and papers say of layers and shapes; what costs nothing (dropout, how
weights begin) is left out, and attention is torch's fused one where theirs is not, which flatters them.

- *OpenAVFF* (JoeLeelyf/OpenAVFF, its network after fine-tuning): two ViT-B without biases in q, k and v, on
  1568 tubelets of 2 x 16 x 16 px from 16 pictures, and on 512 patches of a spectrogram of 1024 x 128; a
  linear layer over all tokens and a block each way between them; a head on the mean over the features.
- *the seed's* (mnoori/avff-deepfake-detector): ViT-B/16 on 8 pictures of 224 px, one by one, and
  wav2vec 2.0 base on the window's sound; the means of both into a small head.  It hears only the first
  second of a clip; here it is given all 2.56 s of a window, as a stream would have to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from avff.engine.spec import SPEC

_WIDTH, _DEPTH, _HEADS, _PATCH = 768, 12, 12, 16
_TUBES, _PATCHES = 8 * 14 * 14, 64 * 8


class VitBlock(nn.Module):
    """A pre-norm block of a ViT-B: ``[N, L, 768]`` to the same."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=bias)
        self.out = nn.Linear(_WIDTH, _WIDTH)
        self.feed = nn.Sequential(
            nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all tokens."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        made: Tensor = x + self.feed(self.norm_2(x))
        return made


def _vit(*, bias: bool) -> nn.Sequential:
    return nn.Sequential(*(VitBlock(bias=bias) for _ in range(_DEPTH)), nn.LayerNorm(_WIDTH))


class CrossBlock(nn.Module):
    """OpenAVFF's way from one modality's tokens to the other's: ``[N, given, 768]`` to ``[N, wanted, 768]``.

    Its attention takes the batch for the sequence, as theirs does: for one window it costs nearly nothing.
    """

    def __init__(self, given: int, wanted: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(given, wanted)
        self.attention = nn.MultiheadAttention(_WIDTH, _HEADS)
        self.feed = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH))
        self.norm_1, self.norm_2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the other modality."""
        x = self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm_1(x + self.attention(x, x, x, need_weights=False)[0])
        made: Tensor = self.norm_2(x + self.feed(x))
        return made


class OpenAvff(nn.Module):
    """Pictures ``[N, 3, 16, 224, 224]`` and spectrograms ``[N, 1, 128, 1024]`` to ``[N, 2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.tubes = nn.Conv3d(3, _WIDTH, (2, _PATCH, _PATCH), stride=(2, _PATCH, _PATCH))
        self.patches = nn.Conv2d(1, _WIDTH, _PATCH, stride=_PATCH)
        self.place_v = nn.Parameter(torch.zeros(_TUBES, _WIDTH))
        self.place_a = nn.Parameter(torch.zeros(_PATCHES, _WIDTH))
        self.video, self.audio = _vit(bias=False), _vit(bias=False)
        self.a2v, self.v2a = CrossBlock(_PATCHES, _TUBES), CrossBlock(_TUBES, _PATCHES)
        self.head_v, self.head_a = nn.Linear(_TUBES, 1024), nn.Linear(_PATCHES, 1024)
        self.head = nn.Sequential(
            nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2)
        )  # fmt: skip

    def forward(self, pictures: Tensor, spectrogram: Tensor) -> Tensor:
        """Score windows."""
        v = self.video(self.tubes(pictures).flatten(2).transpose(1, 2) + self.place_v)
        a = self.audio(self.patches(spectrogram).flatten(2).transpose(1, 2) + self.place_a)
        both_v = torch.cat([self.a2v(a), v], dim=-1).mean(dim=-1)  # [N, 1568]
        both_a = torch.cat([self.v2a(v), a], dim=-1).mean(dim=-1)  # [N, 512]
        made: Tensor = self.head(torch.cat([self.head_v(both_v), self.head_a(both_a)], dim=-1))
        return made


class Seed(nn.Module):
    """Pictures ``[N, 8, 3, 224, 224]`` and sound ``[N, 40960]`` at 16 kHz to ``[N, 2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, _PATCH, stride=_PATCH)
        self.first = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.place = nn.Parameter(torch.zeros(14 * 14 + 1, _WIDTH))
        self.vit = _vit(bias=True)
        self.sound = torchaudio.models.wav2vec2_base()
        self.see, self.hear = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.head = nn.Sequential(
            nn.Linear(2 * _WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.GELU(),
            nn.Linear(_WIDTH, _WIDTH // 2), nn.LayerNorm(_WIDTH // 2), nn.GELU(), nn.Linear(_WIDTH // 2, 2),
        )  # fmt: skip

    def forward(self, pictures: Tensor, sound: Tensor) -> Tensor:
        """Score windows."""
        x = self.patches(pictures.flatten(0, 1)).flatten(2).transpose(1, 2)  # [N * 8, 196, D]
        x = self.vit(torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.place)
        seen = x[:, 0].unflatten(0, pictures.shape[:2]).mean(dim=1)
        heard = self.sound(sound)[0].mean(dim=1)
        made: Tensor = self.head(torch.cat([self.hear(heard), self.see(seen)], dim=-1))
        return made


def windows_of(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Return one window for a rival."""
    if isinstance(net, OpenAvff):
        return torch.randn(1, 3, 16, 224, 224), torch.randn(1, 1, 128, 1024)
    return torch.randn(1, 8, 3, 224, 224), torch.randn(1, SPEC.window_slices * SPEC.slice_samples)


def pass_of(net: nn.Module, threads: int) -> Callable[[], object]:
    """Return the pass of a rival over one window, which is what a score costs it: it keeps nothing."""
    window = windows_of(net.eval())

    def run() -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            net(*window)

    return run
