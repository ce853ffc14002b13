"""What stage 1 rebuilds, and the layers that do it; none of them outlive the stage.

The picture's target is the aligned face in grey at 32 x 32, the sound's the mel spectrum
of the token's 40 ms.  Both are fixed functions of the input, where features of an averaged
teacher would need a second network and a guard against collapse, and a loss on them could
not be compared from one run to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from avff.engine.spec import SPEC
from avff.trainer.model.layers import Block

_S, _F, _T = SPEC.window_slices, SPEC.slice_frames, SPEC.window_frames
_SHRINK = 4
_SPECTRA = SPEC.slice_spectra // SPEC.slice_frames
FACE_VALUES = (SPEC.input_px // _SHRINK) ** 2
"""Values of a picture's target: 32 x 32."""
SOUND_VALUES = SPEC.bands * _SPECTRA
"""Values of a sound's target: 80 mel bands of 4 spectra."""
_GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""
_CONTRAST_WIDTH = 64


class WindowDecoder(nn.Module):
    """Tokens of a whole window to what they stand for: ``[N, 64, D]`` to ``[N, 64, values]``.

    One transformer block looks across the window, because what does not change, such as whose
    face it is, can only come from the visible slices.  It is kept shallow, so that the work is
    left to the layers that stay.
    """

    def __init__(self, width: int, heads: int, values: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(_T, width) * 0.02)
        self.block = Block(width, heads, _T, dropout=0.0)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))

    def forward(self, tokens: Tensor) -> Tensor:
        """Rebuild every token's picture or sound."""
        return self.out(self.block(tokens + self.position))


class SliceContrast(nn.Module):
    """One unit vector per slice and modality from the encoders' tokens.

    Its projections are its own: what belongs to a person must not get into the sync curve.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.see, self.hear = nn.Linear(2 * width, _CONTRAST_WIDTH), nn.Linear(width, _CONTRAST_WIDTH)

    def forward(self, video: Tensor, audio: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
        """Return picture and sound, ``[N, 8, 64]`` each, from tokens ``[N, 64, D]``."""
        return _slice_mean(self.see(torch.cat([video, landmarks], dim=-1))), _slice_mean(self.hear(audio))


def face_targets(video: Tensor) -> Tensor:
    """Return the faces in grey at 32 x 32, each with mean 0 and variance 1.

    Standardised as in masked autoencoders (He et al., CVPR 2022, arXiv:2111.06377): the light of
    a room is not worth predicting.

    Args:
        video: ``[N, 8, 8, 3, 128, 128]``, 0…1.

    Returns:
        ``[N, 64, 576]``, a row per picture; zeros for a picture of one colour.
    """
    grey = (video.flatten(0, 2) * video.new_tensor(_GREY)[:, None, None]).sum(1)  # [N * 64, 128, 128]
    small = functional.avg_pool2d(grey, _SHRINK).flatten(1)  # [N * 64, 576]
    spread = small.std(dim=1, keepdim=True, correction=0)
    return ((small - small.mean(dim=1, keepdim=True)) / (spread + 1e-3)).reshape(-1, _T, FACE_VALUES)


def sound_targets(audio: Tensor) -> Tensor:
    """Return the mel spectra of every token's own 40 ms.

    Args:
        audio: ``[N, 8, 2, 80, 32]``: slices, mel and linear, bands, spectra.

    Returns:
        ``[N, 64, 320]``: token 8 s + f holds spectra 4 f…4 f + 3 of slice s, 80 bands each.
    """
    mel = audio[:, :, 0].transpose(2, 3)  # [N, 8, 32, 80]
    return mel.reshape(-1, _T, SOUND_VALUES)


def _slice_mean(x: Tensor) -> Tensor:
    """Mean over each slice's tokens, scaled to length 1: ``[N, 64, K]`` to ``[N, 8, K]``."""
    return functional.normalize(x.reshape(-1, _S, _F, _CONTRAST_WIDTH).mean(dim=2), dim=-1)
