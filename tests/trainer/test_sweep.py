"""The sweep: fair choices of clips, fair comparisons with the clean run, and a rule for lag."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.evaluate import ClipScore
from avff.trainer.perturb import Perturbation, perturbations
from avff.trainer.sweep import cell_table, compare, kind_table, stratified, sweep, sweep_summary
from tests.support.training import make_clip

GAIN = perturbations(["gain"])


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 100)


def make_clips() -> list[Clip]:
    """Forty genuine clips of two collections and sixty of three generators."""
    genuine = [make_clip(f"r{k}", identity=f"p{k // 2}") for k in range(40)]
    genuine = [dataclasses.replace(c, collection="AB"[k % 4 == 0]) for k, c in enumerate(genuine)]
    generators = ["X"] * 30 + ["Y"] * 20 + ["Z"] * 10
    return [*genuine, *(make_clip(f"f{k}", label=1, generator=g) for k, g in enumerate(generators))]


def score(clip: Clip, logit: float | None, group: str = "") -> ClipScore:
    windows = 0 if logit is None else 3
    return ClipScore(clip.uid, int(clip.is_fake), "", "", "", group or clip.uid, logit, windows, {})


def clean_scores(clips: Sequence[Clip]) -> list[ClipScore]:
    rng = np.random.default_rng(0)
    return [score(c, float(rng.normal(2 * c.is_fake - 1, 1))) for c in clips]


def moved(by: dict[str, float], scores: Sequence[ClipScore]) -> list[ClipScore]:
    """The same scores, those of some clips moved in log-odds."""
    return [dataclasses.replace(s, logit=s.logit + by.get(s.uid, 0.0)) for s in scores if s.logit is not None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [6, 20, 50])
def test_choice_is_stratified(count: int, seed: int) -> None:
    """Half are genuine, and each generator and collection has its share, give or take one."""
    chosen = stratified(make_clips(), count, seed=seed)
    assert len({c.uid for c in chosen}) == count
    strata = Counter(c.generator or c.collection for c in chosen)
    shares = {"A": 0.75, "B": 0.25, "X": 1 / 2, "Y": 1 / 3, "Z": 1 / 6}
    for name, share in shares.items():
        assert abs(strata[name] - share * count / 2) <= 1, (name, strata)


def test_choice_repeats_with_its_seed_alone() -> None:
    """The order of the manifest does not matter; another seed chooses other clips."""
    clips = make_clips()
    uids = [
        {c.uid for c in stratified(given, 20, seed=s)}
        for given, s in ((clips, 1), (clips[::-1], 1), (clips, 2))
    ]
    assert uids[0] == uids[1]
    assert uids[0] != uids[2]


@pytest.mark.parametrize(
    ("count", "genuine", "generated"), [(99, 40, 59), (100, 40, 60), (500, 40, 60), (1, 1, 0)]
)
def test_choice_fills_up_with_the_other_class(count: int, genuine: int, generated: int) -> None:
    """Where one class has too few clips the other gives more."""
    labels = Counter(c.label for c in stratified(make_clips(), count, seed=0))
    assert (labels[0], labels[1]) == (genuine, generated)


def test_unchanged_scores_are_no_drop() -> None:
    """Drop and change are exactly 0, and so are their intervals."""
    clean = clean_scores(make_clips())
    cell = compare(GAIN[0], clean, clean)
    assert (cell.drop.value, cell.drop.low, cell.drop.high) == (0, 0, 0)
    assert (cell.rise.value, cell.rise_genuine) == (0, 0)
    assert (cell.clips, cell.scored) == (100, 100)


def test_drop_is_of_clips_scored_both_times() -> None:
    """Who has no score in one of the runs is in neither AUC, but is counted."""
    clips = make_clips()
    clean = clean_scores(clips)
    clean[0] = score(clips[0], None)
    perturbed = [score(c, None if k % 3 == 1 else math.sin(k)) for k, c in enumerate(clips)]
    kept = [k for k in range(len(clips)) if k and k % 3 != 1]
    labels = [int(clips[k].is_fake) for k in kept]
    after = roc_auc_score(labels, [perturbed[k].logit for k in kept])
    before = roc_auc_score(labels, [clean[k].logit for k in kept])
    cell = compare(GAIN[0], clean, perturbed)
    assert (cell.clips, cell.scored) == (100, len(kept))
    assert cell.auc.value == pytest.approx(after, abs=1e-9)
    assert cell.drop.value == pytest.approx(before - after, abs=1e-9)
    assert cell.drop.low < cell.drop.value < cell.drop.high


def test_change_is_of_probabilities() -> None:
    """The mean over all clips, and over genuine ones alone."""
    clips = [make_clip("a"), make_clip("b", label=1)]
    cell = compare(
        GAIN[0], [score(c, 0.0) for c in clips], [score(clips[0], math.log(3)), score(clips[1], 0.0)]
    )
    assert cell.rise.value == pytest.approx(0.25 / 2)
    assert cell.rise_genuine == pytest.approx(0.25)


def test_nothing_scored_is_no_figure() -> None:
    """A cell in which every clip abstains has dashes, is no worst cell, and breaks no rule."""
    clips = make_clips()
    offsets = perturbations(["av-offset"], [2])
    made = sweep(clips, clean_scores(clips), [*GAIN[:1], *offsets], lambda c, _: [score(x, None) for x in c])
    assert [math.isnan(c.drop.value) and c.scored == 0 for c in made.cells] == [True, True]
    assert made.worst is None
    assert math.isnan(made.mean_drop)
    assert "it does not" in sweep_summary(made)
    assert "| gain -10 dB | 0 of 100 | – | – | – | – |" in cell_table(made)
    assert "| gain | dB | – | – |" in kind_table(made)


def test_sweep_finds_the_worst_cell() -> None:
    """Every cell gets the same clips; the mean drop is over the cells."""
    clips = make_clips()
    clean = clean_scores(clips)
    given: list[tuple[Perturbation, list[str]]] = []

    def run(chosen: Sequence[Clip], cell: Perturbation) -> list[ClipScore]:
        given.append((cell, [c.uid for c in chosen]))
        taken = {c.uid: 0.5 * (len(given) == 3) * (2 * (c.uid[0] == "r") - 1) for c in chosen}
        return moved({u: 4 * v for u, v in taken.items()}, [s for s in clean if s.uid in taken])

    made = sweep(clips, clean, GAIN, run, count=30, seed=4)
    assert [cell for cell, _ in given] == GAIN
    assert all(uids == given[0][1] and len(uids) == 30 for _, uids in given)
    assert made.worst is not None
    assert made.worst.perturbation == GAIN[2]
    assert made.mean_drop == pytest.approx(made.worst.drop.value / len(GAIN))
    assert made.worst.drop.value > 0.2
    summary = sweep_summary(made)
    assert summary.startswith("30 of 100 clips, the same in every cell, chosen with seed 4.")
    assert f"worst cell: gain -20 dB, {made.worst.drop.value:.3f}." in summary
    assert "out of step" not in summary
    assert f"{made.worst.drop.value:.3f} at -20 |" in kind_table(made)


@pytest.mark.parametrize(("lift", "verdict"), [(0.5, "it does at 320 ms."), (-0.5, "it does not.")])
def test_lag_must_not_raise_the_score(lift: float, verdict: str) -> None:
    """An offset that moves the probabilities up is named; one that moves them down is not."""
    clips = make_clips()
    clean = clean_scores(clips)

    def run(chosen: Sequence[Clip], cell: Perturbation) -> list[ClipScore]:
        return moved({c.uid: lift * (cell.severity == 320) for c in chosen}, clean)

    made = sweep(clips, clean, perturbations(["av-offset", "gain"]), run)
    assert verdict in sweep_summary(made)
    assert [c.perturbation.severity for c in made.cells if c.breaks_offset_rule] == [320.0] * (lift > 0)


def test_groups_are_those_of_the_clean_run() -> None:
    """A choice of clips lacks the ties through the others: with all clips one group, no interval is left."""
    clips = make_clips()
    clean = [dataclasses.replace(s, group="all") for s in clean_scores(clips)]
    cell = compare(GAIN[0], clean, [score(c, math.cos(k)) for k, c in enumerate(clips)])
    assert cell.auc.low == cell.auc.value == cell.auc.high
