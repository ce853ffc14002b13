"""What a finished fold has found, kept so that a cross-validation that goes on need not judge it again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from avff.trainer.config import RunSettings
from avff.trainer.durable import write_durably
from avff.trainer.evaluate import ClipScore
from avff.trainer.paths import RunPaths
from avff.trainer.pipeline import Outcome, recipe_of
from avff.trainer.run_data import RunData

FOLD_FILE = "fold.json"
"""In a fold's outputs once its clips are judged: scores, threshold, and hashes of what they rest on."""


def keep(settings: RunSettings, data: RunData, outcome: Outcome) -> None:
    """Note that a fold is finished.

    Args:
        settings: of the fold's run.
        data: of the fold's run.
        outcome: what it has found.

    Raises:
        OSError: it cannot be written.
    """
    outputs = RunPaths(settings.output, settings.name).outputs
    outputs.mkdir(parents=True, exist_ok=True)
    found = {"threshold": outcome.threshold, "scores": [asdict(score) for score in outcome.scores]}
    text = json.dumps(_rests_on(settings, data) | found, indent=1) + "\n"
    write_durably(outputs / FOLD_FILE, lambda file: file.write(text.encode()))


def read_back(settings: RunSettings, data: RunData) -> Outcome | None:
    """Return what a fold has found; None unless it is finished, by these settings and on these clips.

    Args:
        settings: of the fold's run.
        data: of the fold's run.
    """
    outputs = RunPaths(settings.output, settings.name).outputs
    try:
        kept = json.loads((outputs / FOLD_FILE).read_text(encoding="utf-8"))
        outcome = Outcome(float(kept["threshold"]), [ClipScore(**score) for score in kept["scores"]])
        same = all(kept[key] == value for key, value in _rests_on(settings, data).items())
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: the fold is judged again
        return None
    return outcome if same else None


def _rests_on(settings: RunSettings, data: RunData) -> dict[str, str]:
    """Return hashes of the recipe and of all that the manifest says of the clips of each side."""
    sides = (data.split.train, data.split.validation, data.judges)
    return {
        "settings_sha256": _sha256(recipe_of(settings)),
        "clips_sha256": _sha256([[asdict(clip) for clip in side] for side in sides]),
    }


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
