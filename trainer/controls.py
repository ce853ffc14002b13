"""Controls: what a result must survive before it is believed.

- A generator that training never saw: what is left of the figure without it.
- Labels that were shuffled (see :mod:`avff.trainer.label_shuffle`): nothing can be learnt from them, so an
  AUC away from 0.5 means that validation's labels reach training, or that the figure is computed wrongly.
- What is known of a clip without looking at a face or listening to a word: a figure above chance
  says how much of any other the clips' origin may have given away.
- Copies of one clip on two sides (see :mod:`avff.trainer.copies`), which no list of people or footage
  tells of.
- A network that has learnt nothing (see :mod:`avff.trainer.random_encoder`).

The first two train runs of their own (see :mod:`avff.trainer.control_runs`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from avff.engine.settings import Override, load_settings
from avff.trainer.config import RunSettings
from avff.trainer.control_runs import FUSION, generated_aucs
from avff.trainer.copies import copies_page, near_copies, with_judges
from avff.trainer.data.splits import SplitError, split_clips
from avff.trainer.facts import facts_control
from avff.trainer.label_shuffle import label_shuffle, shuffled_page
from avff.trainer.paths import RunPaths
from avff.trainer.random_encoder import random_encoders, random_page
from avff.trainer.run import check_settings
from avff.trainer.run_data import RunData, load_data


@dataclass(frozen=True)
class Unseen:
    """What a network makes of a generator that it was not trained on.

    Attributes:
        generator: its name.
        clips: how many of it there are.
        auc: of its windows against those of genuine validation people; NaN where there is none.
        obstacle: why there is none, or empty.
    """

    generator: str
    clips: int
    auc: float
    obstacle: str = ""


def run_control(config: Path, overrides: Sequence[Override], kind: str) -> int:
    """Carry out a control and write ``control-<kind>.md`` among the run's outputs.

    Args:
        config: the recipe.
        overrides: settings that take precedence.
        kind: ``leave-one-out``, ``label-shuffle``, ``metadata``, ``near-copies`` or ``random-encoder``.

    Raises:
        SettingsError, ManifestError, SplitError, ShardError: before anything is trained.
        TrainingError, CheckpointError: training cannot go on.
        Stopped: a signal came.
    """
    settings = load_settings(config, RunSettings, overrides)
    check_settings(settings)
    data = load_data(settings)
    page = RunPaths(settings.output, settings.name).outputs / f"control-{kind}.md"
    if kind == "leave-one-out":
        text = _unseen_page(leave_one_generator_out(settings, data))
    elif kind == "label-shuffle":
        text = shuffled_page(label_shuffle(settings, data))
    elif kind == "near-copies":
        text = copies_page(near_copies(with_judges(settings, data)))
    elif kind == "random-encoder":
        draws = random_encoders(settings, data, page.with_suffix(""))
        text = random_page(draws, len(data.judges))
    else:
        text = (
            "# Metadata\n\nValidation AUC of a random forest on container, codecs, file size, bit rate, "
            f"leading silence and loudness: {facts_control(data)}. It should be near 0.5.\n"
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    sys.stderr.write(f"avff-train: control in {page}\n")
    return 0


def leave_one_generator_out(settings: RunSettings, data: RunData) -> list[Unseen]:
    """Train without each generator in turn, and validate on it.

    Args:
        settings: of the run; its own split and held-out generators do not matter here.
        data: its training and validation clips are pooled, its judges have no part.

    Returns:
        a row for each generator, by name.
    """
    pool = [*data.split.train, *data.split.validation]
    counts = {g: sum(c.generator == g for c in pool) for g in sorted({c.generator for c in pool if c.label})}
    rows = []
    for generator, clips in counts.items():
        try:
            split = split_clips(
                pool, share=settings.data.validation_share, held_out=[generator], seed=settings.train.seed
            )
            auc = generated_aucs(settings, replace(data, split=split), f"without-{generator}")[FUSION]
        except SplitError as error:  # the only generator, or one whose people are all there are
            rows.append(Unseen(generator, clips, math.nan, str(error)))
        else:
            rows.append(Unseen(generator, clips, auc))
    return rows


def _unseen_page(rows: Sequence[Unseen]) -> str:
    lines = [
        "# Leave one generator out",
        "",
        "A run without each generator; AUC of its windows against those of genuine validation people, after",
        "the last epoch.",
        "",
        "| generator | clips | AUC | remark |",
        "|---|---:|---:|---|",
        *(
            f"| {r.generator} | {r.clips} | {'–' if r.obstacle else f'{r.auc:.3f}'} | {r.obstacle} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"
