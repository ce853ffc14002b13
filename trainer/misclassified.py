"""A page of the worst errors: what the model saw, heard and said of the clips it got most wrong.

The page and its pictures show footage of real people that is not ours to pass on: they are
written into a run's folder, which is never committed, and belong nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avff.engine.errors import MediaError
from avff.engine.faces.models import FaceModels
from avff.engine.features import audio_tensor
from avff.engine.media import NS_PER_S, UInt8
from avff.engine.offline import slices_of_file
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Prediction, Slice
from avff.engine.spec import SPEC
from avff.trainer.evaluate import ClipScore
from avff.trainer.report.figures import probabilities_of
from avff.trainer.report.style import BLACK, BLUE, GREY, ORANGE, save, styled
from avff.trainer.report.tables import number, table

PAGE_FILE = "misclassified.md"
COUNT = 12
FACES = 12
"""Aligned faces in a strip."""
_LINEAR = 1
"""Channel of the audio tensor with bands of equal width in Hz."""


def worst_errors(scores: Sequence[ClipScore], threshold: float, count: int = COUNT) -> list[ClipScore]:
    """Return the clips on the wrong side of the threshold, farthest from it in log-odds first.

    Args:
        scores: of all clips; those without a score are no errors.
        threshold: probability 0…1 from which a clip is called fake.
        count: most that are returned.
    """
    border = math.log(threshold / (1 - threshold))
    wrong = [
        (abs(s.logit - border), s)
        for s in scores
        if s.logit is not None and s.probability is not None and (s.probability >= threshold) != s.label
    ]
    return [s for _, s in sorted(wrong, key=lambda pair: (-pair[0], pair[1].uid))[:count]]


def write_page(
    directory: Path,
    scores: Sequence[ClipScore],
    find: Callable[[str], Path],
    faces: FaceModels,
    predictor: Predictor,
    *,
    threshold: float,
    count: int = COUNT,
) -> Path:
    """Write ``misclassified.md`` and its pictures, ``assets/misclassified-NN.png``.

    Args:
        directory: a run's folder.
        scores: of the clips that judge.
        find: gives the file of a clip by uid.
        faces: face models of the engine.
        predictor: of the model that made the scores.
        threshold: probability 0…1 from which a clip is called fake.
        count: most clips on the page.

    Returns:
        the path of the page.

    Raises:
        BackendError, ContractError: the model failed.
        OSError: the folder cannot be written.
    """
    assets = directory / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    for old in assets.glob("misclassified-*.png"):
        old.unlink()
    worst = worst_errors(scores, threshold, count)
    sections = [
        "# Worst errors",
        "For people with access to the clips only: the pictures show third-party footage. Each clip has its "
        "aligned faces, its sound, and the probability of fake of every window at the window's end; grey is "
        "where no window had a score.",
    ]
    if not worst:
        sections.append(f"No clip is on the wrong side of the threshold, {threshold:.3f}.")
    for place, score in enumerate(worst, start=1):
        name = f"misclassified-{place:02d}.png"
        sections += [f"## {place}. `{score.uid}`", facts_table(score)]
        try:
            slices = slices_of_file(find(score.uid), faces)
        except MediaError as error:
            sections.append(f"Cannot be shown: {error}")
            continue
        if not slices:
            sections.append("Cannot be shown: the file is shorter now than half a slice")
            continue
        state = StreamState()
        said = [p for s in slices for _, p in predictor.predict([(state, s)])]
        save(portrait(slices, said, threshold), assets / name)
        sections.append(f"![faces, sound and scores of clip {place}](assets/{name})")
    page = directory / PAGE_FILE
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return page


def facts_table(score: ClipScore) -> str:
    """What is known of a clip, and what the model says of it, as a table of one row."""
    kind = " · ".join(filter(None, [score.kind, score.generator]))
    silent = ", ".join(f"{reason} {n}" for reason, n in sorted(score.abstained.items()))
    probability = math.nan if score.probability is None else score.probability
    return table(
        ["truth", "kind", "probability of fake", "windows scored", "windows without a score"],
        [["generated" if score.label else "genuine", kind, number(probability), str(score.windows), silent]],
    )


@styled
def portrait(slices: Sequence[Slice], said: Sequence[Prediction], threshold: float) -> Figure:
    """Draw a clip's faces, sound and scores above each other, on one axis of time in s.

    Args:
        slices: of the whole clip, in order.
        said: of its windows, in order.
        threshold: probability 0…1 from which a clip is called fake.
    """
    end_s = len(slices) * SPEC.slice_ns / NS_PER_S
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    strip, sound, line = figure.subplots(3, 1, sharex=True, height_ratios=[1.25, 2, 2])
    _draw_faces(strip, slices, end_s)
    _draw_sound(sound, slices, end_s)
    ends_s = [p.end_ns / NS_PER_S for p in said]
    draw_scores(line, ends_s, [p.logit for p in said], threshold)
    line.set(xlabel="time, s", xlim=(0, end_s))
    figure.legend(*line.get_legend_handles_labels(), loc="outside lower right", ncols=4)
    return figure


def face_strip(slices: Sequence[Slice], count: int = FACES) -> list[UInt8 | None]:
    """Return ``count`` aligned faces, uint8 ``[128, 128, 3]``, from the middles of equal parts of a clip.

    None stands where the picture in the middle of the part shows no face.
    """
    total = len(slices) * SPEC.slice_frames
    strip: list[UInt8 | None] = []
    for part in range(count):
        at = (2 * part + 1) * total // (2 * count)
        face = slices[at // SPEC.slice_frames].face
        picture = at % SPEC.slice_frames
        strip.append(face.faces[picture] if face is not None and face.ok[picture] else None)
    return strip


def _draw_faces(axes: Axes, slices: Sequence[Slice], end_s: float) -> None:
    width_s = end_s / FACES
    for part, face in enumerate(face_strip(slices)):
        if face is not None:
            axes.imshow(face, extent=(part * width_s, (part + 1) * width_s, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), ylabel="face")
    axes.set_yticks([])
    axes.grid(False)


def _draw_sound(axes: Axes, slices: Sequence[Slice], end_s: float) -> None:
    bands = np.concatenate([audio_tensor(s.audio)[_LINEAR] for s in slices], axis=1)
    top_khz = SPEC.rate_hz / 2 / 1000
    axes.imshow(bands, extent=(0, end_s, 0, top_khz), origin="lower", aspect="auto", cmap="magma")
    axes.set_ylabel("sound, kHz")
    axes.grid(False)


def draw_scores(
    axes: Axes, ends_s: Sequence[float], logits: Sequence[float | None], threshold: float
) -> None:
    """Draw the probability of fake of a clip's windows, each at its end in s; grey where there is none."""
    slice_s = SPEC.slice_ns / NS_PER_S
    silent_s = [(s - slice_s, slice_s) for s, logit in zip(ends_s, logits, strict=True) if logit is None]
    known = np.array([math.nan if logit is None else logit for logit in logits])
    axes.broken_barh(silent_s, (-0.08, 1.16), color=GREY, alpha=0.25, linewidth=0, label="no score")
    axes.plot(ends_s, probabilities_of(known), "o-", ms=4, color=BLUE, label="windows")
    axes.axhline(threshold, ls="--", color=BLACK, linewidth=1.4, label=f"threshold {threshold:.3f}")
    axes.axhspan(threshold, 1.08, color=ORANGE, alpha=0.1, linewidth=0, label="called fake")
    axes.set(ylim=(-0.08, 1.08), ylabel="probability\nof fake, 0…1")
