"""Judge an exported model on whole clips, through the engine that serves the daemon."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.model import load_model
from avff.engine.offline import predictions_of_file
from avff.engine.predictor import Predictor
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of


@dataclass(frozen=True)
class ClipScore:
    """What the model says of one clip.

    Attributes:
        uid, label, kind, generator, paired_real: as in the manifest.
        group: clips of one group share a person or footage.
        logit: mean calibrated log-odds of its scored windows (the declared pooling), or None.
        windows: scored windows.
        abstained: windows without a score, by reason.
    """

    uid: str
    label: int
    kind: str
    generator: str
    paired_real: str
    group: str
    logit: float | None
    windows: int
    abstained: dict[str, int]

    @property
    def probability(self) -> float | None:
        """Probability of fake, 0…1, or None."""
        return None if self.logit is None else float(1 / (1 + np.exp(-np.clip(self.logit, -60, 60))))


def judge(clips: Sequence[Clip], root: Path, model: Path, *, workers: int) -> list[ClipScore]:
    """Score clips with an exported model, several at a time.

    Args:
        clips: what to score.
        root: directory their paths are relative to.
        model: directory of the model.
        workers: processes.
    """
    groups = group_of(clips)
    work = partial(_judge_one, root=root, model=model, groups=groups)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(tqdm(pool.map(work, clips), total=len(clips), desc="judge", unit="clip"))


def save_scores(scores: Sequence[ClipScore], path: Path) -> None:
    """Write one JSON line per clip, so that anyone can compute the figures again."""
    rows = (json.dumps(asdict(s), allow_nan=False) for s in scores)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


_worker: tuple[Path, FaceModels, Predictor] | None = None


def _judge_one(clip: Clip, *, root: Path, model: Path, groups: dict[str, str]) -> ClipScore:
    global _worker
    if _worker is None or _worker[0] != model:
        _worker = (model, load_face_models(), Predictor(load_model(model, threads=1)))
    _, faces, predictor = _worker
    try:
        predictions = predictions_of_file(root / clip.uid, faces, predictor)
    except MediaError as error:
        return _clip_score(clip, groups, [], Counter({str(error): 1}))
    logits = [p.logit for p in predictions if p.logit is not None]
    return _clip_score(clip, groups, logits, Counter(str(p.reason) for p in predictions if p.reason))


def _clip_score(
    clip: Clip, groups: dict[str, str], logits: list[float], abstained: Counter[str]
) -> ClipScore:
    return ClipScore(
        clip.uid, clip.label, clip.kind, clip.generator, clip.paired_real, groups[clip.uid],
        float(np.mean(logits)) if logits else None, len(logits), dict(abstained),
    )  # fmt: skip
