"""The slice-local encoders: 320 ms of picture, sound or landmarks into 8 tokens."""

from __future__ import annotations

from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.layers import ConvNorm, ShiftBlock

_F = SPEC.slice_frames


class VideoEncoder(nn.Module):
    """Aligned faces ``[N, 8, 3, 128, 128]`` (0…1) to tokens ``[N, 8, D]``, 30 MFLOP a picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ConvNorm(3, 24, size=4, stride=4),  # 32 x 32
            ConvNorm(24, 32),
            ConvNorm(32, 48, stride=2),  # 16 x 16
            ShiftBlock(_F, 48, 16),
            ConvNorm(48, 96, stride=2),  # 8 x 8
            ShiftBlock(_F, 96, 8),
            ConvNorm(96, 128, stride=2),  # 4 x 4
        )
        self.head = nn.Linear(128, width)
        self.width = width

    def forward(self, video: Tensor) -> Tensor:
        """Encode a batch of slices."""
        side = SPEC.input_px
        x = (video.reshape(-1, 3, side, side) - 0.5) * 4.0  # [N * 8, 3, 128, 128]
        x = self.net(x).mean(dim=(2, 3))  # [N * 8, 128]
        return self.head(x).reshape(-1, _F, self.width)  # [N, 8, D]


class AudioEncoder(nn.Module):
    """Spectra ``[N, 2, 80, 32]`` to tokens ``[N, 8, D]``, one token per 40 ms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ConvNorm(2, 24, stride=(2, 1)),  # 40 x 32
            ConvNorm(24, 32, stride=2),  # 20 x 16
            ConvNorm(32, 48, stride=2),  # 10 x 8
            ConvNorm(48, 48),
            ConvNorm(48, 64, stride=(2, 1)),  # 5 x 8
        )
        self.head = nn.Linear(5 * 64, width)

    def forward(self, audio: Tensor) -> Tensor:
        """Encode a batch of slices."""
        x = self.net(audio)  # [N, 64, 5, 8]
        x = x.permute(0, 3, 1, 2).reshape(-1, _F, 5 * 64)  # [N, 8, 320]
        return self.head(x)


class LandmarkEncoder(nn.Module):
    """Face points and head motion ``[N, 8, 184]`` to tokens ``[N, 8, D]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(SPEC.landmark_values, width), nn.GELU(approximate="tanh"))
        # As 2-D convolutions along the pictures of a slice: every runtime has those.
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
            nn.GELU(approximate="tanh"),
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
        )
        self.width = width

    def forward(self, landmarks: Tensor) -> Tensor:
        """Encode a batch of slices."""
        x = self.lift(landmarks).transpose(1, 2).reshape(-1, self.width, _F, 1)  # [N, D, 8, 1]
        x = x + self.mix(x)
        return x.reshape(-1, self.width, _F).transpose(1, 2)  # [N, 8, D]
