"""The whole network, and its size as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from avff.engine.spec import SPEC
from avff.trainer.model.encoders import AudioEncoder, LandmarkEncoder, VideoEncoder
from avff.trainer.model.fusion import Fusion, FusionOut


@dataclass(frozen=True)
class AvffConfig:
    """Size of the network.

    Attributes:
        width: token width D.
        heads: attention heads; must divide the width.
        depth: transformer blocks per modality.
        dropout: in the fusion graph.
    """

    width: int = 128
    heads: int = 4
    depth: int = 2
    dropout: float = 0.2


class Avff(nn.Module):
    """Encoders and fusion as one module for training; they export as four graphs."""

    def __init__(self, config: AvffConfig) -> None:
        super().__init__()
        self.config = config
        self.video = VideoEncoder(config.width)
        self.audio = AudioEncoder(config.width)
        self.landmarks = LandmarkEncoder(config.width)
        self.fusion = Fusion(
            width=config.width, heads=config.heads, depth=config.depth, dropout=config.dropout
        )

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Score windows; slices are folded into the batch, so this is the streaming path too.

        Args:
            video: ``[N, 8, 8, 3, 96, 96]``, 0…1.
            audio: ``[N, 8, 2, 80, 32]``.
            landmarks: ``[N, 8, 8, 184]``.
            video_ok, audio_ok: ``[N, 64]``, 1 where there is evidence.
        """
        shape = (-1, SPEC.window_frames, self.config.width)
        return self.fusion(
            self.video(video.flatten(0, 1)).reshape(shape),
            self.audio(audio.flatten(0, 1)).reshape(shape),
            self.landmarks(landmarks.flatten(0, 1)).reshape(shape),
            video_ok,
            audio_ok,
        )
