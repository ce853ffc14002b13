"""Pseudo-fakes: manipulations of genuine windows that need no generator and no weights.

Each recipe takes a genuine :class:`~avff.trainer.data.sample.Sample`, may change it in
place, sets ``labels`` and ``frame_labels`` and returns it.  Compression, noise and gain are
*not* part of a recipe: they come afterwards from ``trainer.data.postchain``, alike for
genuine and manipulated windows, so that "was re-encoded" says nothing about the label.

A new pseudo-fake is one function of type ``Recipe`` and one entry in ``RECIPES``.
"""

from __future__ import annotations

import numpy as np

from avff.trainer.data.sample import Donors, Recipe, Sample
from avff.trainer.pseudo.audio import audio_swap, desync, local_desync, splice
from avff.trainer.pseudo.lipswap import lip_swap
from avff.trainer.pseudo.portrait import talking_photo
from avff.trainer.pseudo.selfblend import self_blend
from avff.trainer.pseudo.temporal import freeze
from avff.trainer.pseudo.vocoder import copy_synthesis

__all__ = ["RECIPES", "apply_recipe"]

RECIPES: dict[str, Recipe] = {
    "self_blend": self_blend,
    "lip_swap": lip_swap,
    "talking_photo": talking_photo,
    "vocoder": copy_synthesis,
    "splice": splice,
    "audio_swap": audio_swap,
    "desync": desync,
    "local_desync": local_desync,
    "freeze": freeze,
}
"""Every pseudo-fake by the name that ``Sample.recipe`` and the training configuration use."""


def apply_recipe(name: str, sample: Sample, rng: np.random.Generator, donors: Donors) -> Sample:
    """Make a pseudo-fake of a genuine window.

    Args:
        name: key of ``RECIPES``.
        sample: genuine window; its arrays may be changed.
        rng: source of every random draw.
        donors: where other material comes from.

    Returns:
        The labelled window, ``recipe`` set to ``name``.

    Raises:
        ValueError: if there is no such recipe.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ValueError(f"no pseudo-fake named {name!r}; there are {', '.join(RECIPES)}")
    made = recipe(sample, rng, donors)
    made.recipe = name
    return made
