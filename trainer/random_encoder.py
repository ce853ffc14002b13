"""The random-encoder control: what a network that has learnt nothing makes of the clips that judge.

Weights are drawn and never trained; the calibration, which joins the heads' logits by logistic regression
on validation windows, is fitted as ever.  Random features still differ between a sharp and a soft
picture, or a wide and a narrow band of sound: an AUC away from 0.5 says how far the look and sound of the
collections alone get, and a trained model's figure is to be read as what it adds to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avff.engine.contract import Affine, Calibration
from avff.trainer import metrics
from avff.trainer.calibrate import BY_MODALITY, DEFAULT_THRESHOLD, calibrate, validation_logits
from avff.trainer.config import RunSettings
from avff.trainer.distributed import say
from avff.trainer.evaluate import judge
from avff.trainer.export import export_model
from avff.trainer.metrics import Interval
from avff.trainer.model.registry import build
from avff.trainer.report.figures import Scored
from avff.trainer.report.tables import number, shown, table
from avff.trainer.run import validation_windows
from avff.trainer.run_data import RunData, check_places
from avff.trainer.shortcuts import CHANCE, MARGIN

DRAWS = 3
"""Networks: a single one may fall on either side of chance by luck."""
_AS_IT_IS = Affine(1.0, 0.0)


@dataclass(frozen=True)
class Draw:
    """One network that was never trained.

    Attributes:
        seed: of its weights.
        validation: AUC of its heads on validation windows.
        offered: modalities that the calibration would let it answer for; those it would not answer all
            the same here, by their raw logit, or there would be no figure.
        auc: of the clips that judge.
        scored: how many of them have a score.
    """

    seed: int
    validation: Mapping[str, Interval]
    offered: tuple[str, ...]
    auc: Interval
    scored: int


def random_encoders(settings: RunSettings, data: RunData, folder: Path) -> list[Draw]:
    """Draw networks, calibrate them, and let them judge.

    Args:
        settings: of the run.
        data: of the run; what trains has no part.
        folder: where the exported networks go, one after another.

    Raises:
        DatasetError: a clip that is to be judged is not in the data root.
        ExportError: the architecture cannot be exported.
    """
    check_places(data)
    torch.set_num_threads(settings.train.threads)
    return [_draw(settings, data, folder, settings.train.seed + k) for k in range(DRAWS)]


def _draw(settings: RunSettings, data: RunData, folder: Path, seed: int) -> Draw:
    say(f"network of seed {seed}, untrained")
    torch.manual_seed(seed)
    net = build(settings.model).eval()
    windows = validation_windows(settings, data)
    logits = validation_logits(net, windows, workers=settings.data.workers)
    by_modality, by_part, figures = calibrate(logits, windows.groups, windows.clusters())
    answering = {modality: by_modality.get(modality, _AS_IT_IS) for modality in BY_MODALITY}
    export_model(
        net, folder, name=f"random-{seed}", calibration=Calibration(answering, by_part, DEFAULT_THRESHOLD),
        provenance={"seed": str(seed), "trained": "no"},
    )  # fmt: skip
    scores = judge(data.judges, data.root, folder, workers=max(1, settings.data.workers))
    scored = Scored.of(scores)
    return Draw(seed, figures, tuple(by_modality), scored.interval(metrics.auc), len(scored.labels))


def random_page(draws: Sequence[Draw], clips: int) -> str:
    """Return the networks' figures as Markdown."""
    rows = [
        [
            str(d.seed),
            shown(d.auc),
            f"{d.scored} of {clips}",
            _best_head(d),
            ", ".join(d.offered) or "nothing",
        ]
        for d in draws
    ]
    mean = float(np.mean([d.auc.value for d in draws]))
    head = ["seed", "AUC of clips", "scored", "best head on validation windows", "offered"]
    verdict = _NEAR if abs(mean - CHANCE) <= MARGIN else _FAR
    said = f"Mean AUC {number(mean)}, {verdict.format(level=f'{CHANCE} ± {MARGIN}')}"
    return "\n\n".join(["# Random encoder", _HOW, table(head, rows), said]) + "\n"


_HOW = """\
Networks with random weights; only the calibration was fitted, on validation windows, as it is for a trained
one. Their AUC on the clips that judge should be near 0.5. *Offered* are the modalities that the calibration
would have let them answer for, surely above chance on validation windows; others answered by their raw
logit."""
_NEAR = "within {level}. What a trained model gets beyond that, it has learnt."
_FAR = """\
**not** within {level}. The collections differ so much in look or sound that features which nobody trained
tell them apart, or put them the wrong way round. Judge on clips that were all encoded alike (`avff-evaluate
--controls`), and count only what a trained model adds."""


def _best_head(draw: Draw) -> str:
    known = {name: i for name, i in draw.validation.items() if np.isfinite(i.value)}
    if not known:
        return "–"
    name = max(known, key=lambda n: known[n].value)
    return f"{name}: {shown(known[name])}"
