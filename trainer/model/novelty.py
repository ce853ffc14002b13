"""How far a window lies from what the network was trained on, by the statistics of its tokens.

The squared Mahalanobis distance of a window's mean tokens from those of training windows, by modality
and divided by the number of dimensions (Lee et al., NeurIPS 2018, arXiv:1807.03888, with one class).
Below 1 on average for windows like those it was fitted on: directions that they hardly use are shrunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avff.trainer.model.pooling import masked_mean

_SHRINKAGE = 0.1
"""Part of the mean variance in every direction: a direction that training hardly used must not decide."""


class Novelty(nn.Module):
    """Mean tokens of a window to distances ``[N, 2]``: picture and sound; zeros until it is fitted.

    Args:
        width: token width D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.means: Tensor
        self.whitening: Tensor
        self.register_buffer("means", torch.zeros(2, width))
        self.register_buffer("whitening", torch.zeros(2, width, width))

    def forward(self, video: Tensor, audio: Tensor, video_ok: Tensor, audio_ok: Tensor) -> Tensor:
        """Measure a batch of windows.

        Args:
            video, audio: tokens ``[N, 64, D or more]``; what is carried beyond D is ignored.
            video_ok, audio_ok: ``[N, 64]``, 1 where there is evidence; a modality without any is at 0.
        """
        parts = []
        for place, (tokens, there) in enumerate(((video, video_ok), (audio, audio_ok))):
            mean = masked_mean(tokens[..., : self.width], there.unsqueeze(-1))  # [N, D]
            away = (mean - self.means[place]) @ self.whitening[place]
            parts.append(away.square().mean(dim=1) * there.amax(dim=1))
        return torch.stack(parts, dim=1)

    def fit(self, video: Tensor, audio: Tensor) -> None:
        """Take the statistics of training windows.

        Args:
            video, audio: mean tokens ``[n, D]`` of windows with that modality throughout, n > 1.
        """
        for place, means in enumerate((video.double(), audio.double())):
            centre = means.mean(dim=0)
            covariance = (means - centre).T @ (means - centre) / (len(means) - 1)
            mean_variance = covariance.diagonal().mean().clamp(min=1e-12)
            shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * mean_variance * torch.eye(self.width)
            values, vectors = torch.linalg.eigh(shrunk)
            self.means[place] = centre
            self.whitening[place] = vectors / values.sqrt()
