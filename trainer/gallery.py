"""A gallery of failures that may be passed on: the worst errors by name, score and timeline.

:mod:`avff.trainer.misclassified` shows the same clips with their faces and sound, for those who have
access to the clips.  Here nothing is shown that was cut out of a clip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from avff.trainer.evaluate import ClipScore, WindowScore
from avff.trainer.misclassified import draw_scores, facts_table, worst_errors
from avff.trainer.report.style import save, styled

PAGE_FILE, PICTURES = "failures.md", "failures"
COUNT = 12
_INTRO = """\
The clips on the wrong side of the threshold, {threshold:.3f}, farthest from it in log-odds first: {shown} of
{wrong}. Each with the probability of fake of its windows, drawn at the window's end; grey is where no window
had a score. No picture of a person is shown: the clips are not ours to pass on. Whoever has them gets the
same page with faces and sound from `avff-train` (`misclassified.md`)."""


def write_gallery(
    directory: Path,
    scores: Sequence[ClipScore],
    windows: Sequence[WindowScore],
    *,
    threshold: float,
    count: int = COUNT,
) -> Path:
    """Write ``failures.md`` and its plots, ``failures/NN.png``.

    Args:
        directory: where the page goes.
        scores: of the clips that judge.
        windows: of the same clips, each clip's in time order.
        threshold: probability 0…1 from which a clip is called fake.
        count: most clips on the page.

    Returns:
        the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    pictures = directory / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.png"):
        old.unlink()
    every = worst_errors(scores, threshold, len(scores))
    shown = every[:count]
    sections = ["# Failures", _INTRO.format(threshold=threshold, shown=len(shown), wrong=len(every))]
    for place, score in enumerate(shown, start=1):
        own = [w for w in windows if w.uid == score.uid]
        name = f"{place:02d}.png"
        save(timeline(own, threshold), pictures / name)
        sections += [f"## {place}. `{score.uid}`", facts_table(score), _rests_on(own)]
        sections.append(f"![scores of clip {place} over time]({PICTURES}/{name})")
    page = directory / PAGE_FILE
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return page


@styled
def timeline(windows: Sequence[WindowScore], threshold: float) -> Figure:
    """Draw the probability of fake of a clip's windows over time in s."""
    figure = Figure(figsize=(8.0, 2.6), layout="constrained")
    axes = figure.subplots()
    ends_s = [w.end_s for w in windows]
    draw_scores(axes, ends_s, [w.logit for w in windows], threshold)
    axes.set(xlabel="time, s", xlim=(0, max(ends_s, default=1.0) + 0.1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _rests_on(windows: Sequence[WindowScore]) -> str:
    """Say what the scores rest on: both modalities, or the one that had evidence."""
    words = {"av": "picture and sound", "video": "picture alone", "audio": "sound alone"}
    counts = Counter(w.modality for w in windows if w.logit is not None)
    return "Scores rest on " + ", ".join(f"{words[m]} ({n} windows)" for m, n in counts.most_common()) + "."
