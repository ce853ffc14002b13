"""Judge an exported model on whole clips and their windows, through the engine that serves the daemon."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avff.engine.decode import open_media
from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.frontend import Frontend
from avff.engine.media import NS_PER_S
from avff.engine.model import load_model
from avff.engine.offline import predictions_of_file
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Slice
from avff.engine.threads import stay_in_caller
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.perturb import Perturbation, generator_of

UNREADABLE = "unreadable"
"""In place of a reason: the file itself could not be read."""


@dataclass(frozen=True)
class ClipScore:
    """What the model says of one clip.

    Attributes:
        uid, label, kind, generator, source_uid: as in the manifest.
        group: clips of one group share a person or footage.
        logit: mean calibrated log-odds of its scored windows (the declared pooling), or None.
        windows: scored windows.
        abstained: windows without a score, by reason; ``unreadable`` once for a file that is.
        problem: why the file could not be read, or empty.
    """

    uid: str
    label: int
    kind: str
    generator: str
    source_uid: str
    group: str
    logit: float | None
    windows: int
    abstained: dict[str, int]
    problem: str = ""

    @property
    def probability(self) -> float | None:
        """Probability of fake, 0…1, or None."""
        return None if self.logit is None else float(1 / (1 + np.exp(-np.clip(self.logit, -60, 60))))


@dataclass(frozen=True)
class WindowScore:
    """What the model says of one window.

    Attributes:
        uid: of the clip.
        label: 1 when something in the window is generated, 0 when nothing is, None unknown.
        start_s, end_s: what it covers, in s from the start of the clip.
        logit: calibrated log-odds of fake, or None.
        reason: why there is none, or empty.
        modality: ``av``, ``video`` or ``audio``: what the score rests on; empty without a score.
        track: face it is about, or None.
    """

    uid: str
    label: int | None
    start_s: float
    end_s: float
    logit: float | None
    reason: str
    modality: str
    track: int | None


@dataclass(frozen=True)
class Judged:
    """A clip's score and those of its windows, in time order."""

    clip: ClipScore
    windows: tuple[WindowScore, ...]


def judge(clips: Sequence[Clip], root: Path, model: Path, *, workers: int) -> list[ClipScore]:
    """Score clips with an exported model, several at a time.

    Args:
        clips: what to score, all with a label.
        root: directory their paths are relative to.
        model: directory of the model.
        workers: processes.
    """
    with judging_pool(workers) as pool:
        return [judged.clip for judged in judge_windows(clips, root, model, pool)]


def judging_pool(workers: int) -> ProcessPoolExecutor:
    """Return processes to judge clips in; none starts before there is something to judge."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=stay_in_caller)


def judge_windows(
    clips: Sequence[Clip],
    root: Path,
    model: Path | None,
    pool: ProcessPoolExecutor,
    *,
    perturbation: Perturbation | None = None,
    seed: int = 0,
) -> list[Judged]:
    """Score clips and their windows, as they are or perturbed on their way into the engine.

    Args:
        clips: what to score, all with a label.
        root: directory their paths are relative to.
        model: directory of the model; None for the embedded default.
        pool: processes that do it, from :func:`judging_pool`.
        perturbation: done to every clip; None for none.
        seed: of the perturbation.

    Returns:
        one for each clip, in order; a file that cannot be read has no score, but its problem.
    """
    work = partial(
        _judge_one, root=root, model=model, groups=group_of(clips), perturbation=perturbation, seed=seed
    )
    name = "judge" if perturbation is None else str(perturbation)
    return list(tqdm(pool.map(work, clips), total=len(clips), desc=name, unit="clip"))


def save_scores(scores: Iterable[ClipScore | WindowScore], path: Path) -> None:
    """Write one JSON line per clip or window, so that anyone can compute the figures again."""
    rows = (json.dumps(asdict(s), allow_nan=False) for s in scores)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


_worker: tuple[Path | None, FaceModels, Predictor] | None = None


def _judge_one(
    clip: Clip,
    *,
    root: Path,
    model: Path | None,
    groups: Mapping[str, str],
    perturbation: Perturbation | None,
    seed: int,
) -> Judged:
    global _worker
    if _worker is None or _worker[0] != model:
        _worker = (model, load_face_models(), Predictor(load_model(model, threads=1)))
    _, faces, predictor = _worker
    path = root / clip.path
    try:
        if perturbation is None:
            predictions = predictions_of_file(path, faces, predictor)
        else:
            rng = generator_of(clip.uid, seed)
            predictions = _predictions_perturbed(path, faces, predictor, perturbation, rng)
    except MediaError as error:
        return Judged(_clip_score(clip, groups, [], str(error).removeprefix(f"{path}: ")), ())
    return Judged(_clip_score(clip, groups, predictions), tuple(_window_score(clip, p) for p in predictions))


def _predictions_perturbed(
    path: Path,
    faces: FaceModels,
    predictor: Predictor,
    perturbation: Perturbation,
    rng: np.random.Generator,
) -> list[Prediction]:
    """Score a file as ``predictions_of_file`` does, with a perturbation between decoder and front-end."""
    slices: list[Slice] = []
    with open_media(path) as reader:
        frontend = Frontend(faces, has_video=reader.has_video, has_audio=reader.has_audio)
        for item in perturbation.apply(reader, rng):
            try:
                slices += frontend.push(item)
            except MediaError:  # its time stamps leap: cut there, as the daemon does
                break
    state = StreamState()
    return [p for s in slices + frontend.flush() for _, p in predictor.predict([(state, s)])]


def _clip_score(
    clip: Clip, groups: Mapping[str, str], predictions: Sequence[Prediction], problem: str = ""
) -> ClipScore:
    logits = [p.logit for p in predictions if p.logit is not None]
    reasons = [str(p.reason) for p in predictions if p.reason] + ([UNREADABLE] if problem else [])
    return ClipScore(
        clip.uid, int(clip.is_fake), clip.kind, clip.generator, clip.source_uid, groups[clip.uid],
        float(np.mean(logits)) if logits else None, len(logits), dict(Counter(reasons)), problem,
    )  # fmt: skip


def _window_score(clip: Clip, prediction: Prediction) -> WindowScore:
    start_s, end_s = prediction.start_ns / NS_PER_S, prediction.end_ns / NS_PER_S
    return WindowScore(
        clip.uid, label_of_window(clip, start_s, end_s), start_s, end_s, prediction.logit,
        str(prediction.reason or ""), "" if prediction.logit is None else prediction.modality,
        prediction.track,
    )  # fmt: skip


def label_of_window(clip: Clip, start_s: float, end_s: float) -> int | None:
    """Return whether anything in a part of a clip is generated.

    A clip whose generated passages nobody listed counts as generated throughout.

    Returns:
        1, 0, or None when the listed passages are of one modality and nobody knows the other's.
    """
    if not clip.is_fake:
        return 0
    listed = [
        passages
        for label, passages in ((clip.label_video, clip.fake_video), (clip.label_audio, clip.fake_audio))
        if label != 0
    ]
    known = [passages for passages in listed if passages is not None]
    if not known or any(a < end_s and start_s < b for passages in known for a, b in passages):
        return 1
    return 0 if len(known) == len(listed) else None
