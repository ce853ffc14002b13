"""From the heads' logits to the log-odds that anything at all is made.

Each head has a calibration of its own (Platt scaling), which makes its logit the log-likelihood
ratio (LLR) of *its* hypothesis against a genuine window: the picture is made, the sound is made, the
face does not move as a speaker's does, the two together are not as they should be.  "Something is
made" is that one of these holds, so its likelihood ratio is their mean, weighted by how often each is
the case.  Heads are not independent, and a fake of one kind may show in several: a last scaling takes
that back.

A sum of the LLRs would be right for evidence of one and the same hypothesis, and here it is wrong:
a voice that is surely genuine would speak for a made-up face.  In the mean, a hypothesis that fails
takes away no more than its share.  Neither does one that nothing is known of: where a picture is there but
cannot be judged, sound that is surely genuine leaves the picture's share as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from avff.engine.contract import CLIP_OUTPUTS, Affine

Logits = npt.NDArray[np.floating[Any]]
HYPOTHESES = ("any", "video", "audio", "motion")
"""Heads that speak for something made; lips out of step alone are no sign of it."""


def shares_of(by: Affine) -> dict[str, float]:
    """Return how the hypotheses are weighted, those of more than nothing; they sum to 1."""
    shares = {"video": by.video, "audio": by.audio, "motion": by.motion}
    shares = {"any": 1.0 - sum(shares.values()), **shares}
    return {name: share for name, share in shares.items() if share > 1e-6}


def terms(
    by: Affine,
    parts: Mapping[str, Affine],
    logits: Logits,
    *,
    blind: Collection[str] = (),
    doubted: Collection[str] = (),
) -> dict[str, Logits]:
    """Return each hypothesis' LLR plus the logarithm of its share.

    Args:
        by: of the modality that is scored by.
        parts: calibrations of the heads of picture, sound and motion, for those that have a share.
        logits: ``[..., 5]``, in the order of ``CLIP_OUTPUTS``.
        blind: hypotheses for which there is no evidence: their LLR is 0, whatever their heads say.
        doubted: hypotheses whose evidence may come of bad time stamps: their LLR is at most 0.

    Returns:
        ``[...]`` by hypothesis, in nats.
    """
    heads = {"any": by, **parts}
    ratios = {}
    for name, share in shares_of(by).items():
        ratio = (name not in blind) * (
            heads[name].scale * logits[..., CLIP_OUTPUTS.index(name)] + heads[name].offset
        )
        ratios[name] = np.log(share) + (np.minimum(ratio, 0.0) if name in doubted else ratio)
    return ratios


def joined(by: Affine, parts: Mapping[str, Affine], logits: Logits) -> Logits:
    """Return the log-odds ``[...]`` that anything is made, for even odds beforehand; see :func:`terms`."""
    return together(by, terms(by, parts, logits))


def together(by: Affine, hypotheses: Mapping[str, Logits]) -> Logits:
    """Return the log-odds ``[...]`` that :func:`terms` make together."""
    odds = np.logaddexp.reduce(list(hypotheses.values()), axis=0)
    return np.asarray(by.gain * odds + by.shift)
