"""Shortcut controls: what twins take away, what containers tell, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from avff.trainer import metrics
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.perturb import REENCODED, TRIMMED, Perturbation
from avff.trainer.report import control
from avff.trainer.report.control import container_facts, facts_across, facts_within_pairs
from avff.trainer.report.shortcuts import shortcut_section, verdicts
from avff.trainer.shortcuts import Shortcuts, Teller, model_within_pairs, pairs_of, shortcuts
from tests.support.training import make_clip
from tests.trainer.scored_clips import make_score


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here, nor forests dense."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 200)
    monkeypatch.setattr(control, "TREES", 30)


def footage(count: int = 24, *, collection_px: int = 240, generator_px: int | None = None) -> list[Clip]:
    """Pairs of one footage, and as many generated clips of another collection.

    Args:
        count: of each.
        collection_px: width of the clips without a genuine twin.
        generator_px: width of the generated clip of a pair; that of its footage unless given.
    """
    clips = []
    lengths_s = np.random.default_rng(3).uniform(3, 9, (count, 3)).tolist()
    for k in range(count):
        genuine = make_clip(f"r{k}", identity=f"p{k}", duration_s=lengths_s[k][0])
        paired = make_clip(f"f{k}", label=1, generator="A", paired_real=f"r{k}", duration_s=lengths_s[k][1])
        paired = dataclasses.replace(paired, width=generator_px or genuine.width)
        alone = make_clip(f"x{k}", label=1, generator="B", duration_s=lengths_s[k][2])
        clips += [genuine, paired, dataclasses.replace(alone, width=collection_px)]
    return clips


def _width(clip: Clip) -> list[float]:
    return [clip.width]


def write_files(root: Path, clips: Sequence[Clip]) -> None:
    for clip in clips:
        (root / clip.path).write_bytes(bytes(1000))


def scored(clips: Sequence[Clip], seed: int = 0, shift: float = 2.0) -> list[ClipScore]:
    """A model that knows something of forgery, and nothing of containers."""
    rng, groups = np.random.default_rng(seed), group_of(clips)
    return [
        dataclasses.replace(
            make_score(c.uid, int(c.is_fake), float(rng.normal(shift * c.is_fake, 1))), group=groups[c.uid]
        )
        for c in clips
    ]


def test_pairs_are_of_the_same_footage() -> None:
    """A generated clip without its genuine twin among the judged ones is in no pair."""
    clips = footage(3)
    assert [(a.uid, b.uid) for a, b in pairs_of(clips)] == [("f0", "r0"), ("f1", "r1"), ("f2", "r2")]
    assert pairs_of([c for c in clips if c.uid != "r1"]) == pairs_of(clips)[::2]


def test_facts_of_a_collection_tell_across_clips_and_not_within_pairs() -> None:
    """Clips of another collection are wider: half of the generated ones stand out, no pair does."""
    clips = footage(collection_px=512)
    groups = group_of(clips)
    assert facts_across(clips, groups, _width).value > 0.7
    assert facts_within_pairs(pairs_of(clips), groups, _width).value == 0.5


def test_facts_of_a_generator_tell_within_pairs() -> None:
    """A generator that always writes wider clips than its footage is found by that, on unseen footage."""
    clips = footage(generator_px=256)
    assert facts_within_pairs(pairs_of(clips), group_of(clips), container_facts).value > 0.95


def test_facts_that_mean_nothing_stay_near_chance() -> None:
    """Lengths drawn by lot: the forest is judged on groups that it was not fitted to."""
    clips = footage(60)
    groups = group_of(clips)
    genuine_and_paired = [c for c in clips if c.uid[0] != "x"]
    across = facts_across(genuine_and_paired, groups, container_facts)
    within = facts_within_pairs(pairs_of(clips), groups, container_facts)
    assert abs(across.value - 0.5) < 0.15
    assert abs(within.value - 0.5) < 0.15


def test_no_pairs_have_no_figure() -> None:
    """Nor do pairs of a single footage, whose forest would have nothing else to be fitted to."""
    assert math.isnan(facts_within_pairs([], {}, container_facts).value)
    (one, *_) = pairs_of(footage(1))
    groups = group_of(one)
    assert math.isnan(facts_within_pairs([one], groups, container_facts).value)


def test_model_is_measured_on_the_same_pairs() -> None:
    """The share of generated clips above their own footage; a tie is half, silence is no pair."""
    clips = footage(4)
    logits = {"r0": 0.0, "f0": 1.0, "r1": 0.0, "f1": -1.0, "r2": 0.5, "f2": 0.5, "r3": None, "f3": 1.0}
    scores = [make_score(uid, int(uid[0] == "f"), value) for uid, value in logits.items()]
    assert model_within_pairs(pairs_of(clips), scores).value == 0.5
    assert model_within_pairs(pairs_of(clips), scores[:2]).value == 1.0


def test_every_control_is_carried_out(tmp_path: Path) -> None:
    """Both twins of all clips, paired with the clean scores; JSON has every figure, and nothing undefined."""
    clips = footage(collection_px=512)
    write_files(tmp_path, clips)
    clean = scored(clips)
    asked: list[tuple[str, int]] = []

    def twin(some: Sequence[Clip], perturbation: Perturbation) -> list[ClipScore]:
        asked.append((perturbation.name, len(some)))
        # The silence gave all of it away; re-encoding changes nothing.
        return scored(some, seed=9, shift=0.0) if perturbation.name == TRIMMED else list(clean)

    made = shortcuts(clips, clean, twin, tmp_path)
    assert asked == [(TRIMMED, 72), (REENCODED, 72)]
    trimmed, reencoded = made.twins
    auc = roc_auc_score([s.label for s in clean], [s.logit for s in clean])
    assert trimmed.clean.value == pytest.approx(auc)
    assert trimmed.drop.value == pytest.approx(auc - trimmed.auc.value)
    assert trimmed.drop.low > 0
    assert reencoded.drop == Interval(0, 0, 0)
    assert made.model.across == reencoded.clean
    document = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert [t["name"] for t in document["tellers"]] == ["container facts", "length alone", "the model"]
    assert document["pairs"] == 24
    said = verdicts(made)
    assert said[0].startswith("**A shortcut**: leading silence cut off, the AUC falls by")
    assert said[1].startswith("No shortcut seen: every clip encoded anew, alike")
    assert said[2].startswith("The model tells generated clips from genuine ones of the same footage too")
    assert f"its AUC is {reencoded.auc}" in said[3]
    assert said[4].startswith("length alone: ")
    section = "\n".join(shortcut_section(made))
    assert "| told by | AUC across clips | in order within 24 pairs |" in section
    assert (
        f"| leading silence cut off | 72 of 72 | {trimmed.clean} | {trimmed.auc} | {trimmed.drop} |"
        in section
    )


@pytest.mark.parametrize(
    ("across", "within", "near"),
    [(0.6, 0.4, (True, True)), (0.61, 0.5, (False, True)), (0.5, 0.39, (True, False))],
)
def test_near_chance_is_a_tenth_either_way(across: float, within: float, near: tuple[bool, bool]) -> None:
    """Below counts as much as above: a classifier that is always wrong knows the answer."""
    teller = Teller("x", Interval(across, 0, 1), Interval(within, 0, 1))
    assert teller.near_chance == near


def about(model: tuple[Interval, Interval], facts: tuple[Interval, Interval] | None = None) -> str:
    """What is said of a model, and of container facts."""
    told = () if facts is None else (Teller("container facts", *facts),)
    return "\n".join(verdicts(Shortcuts((), told, Teller("the model", *model), 9)))


GOOD, CHANCE, BAD = Interval(0.8, 0.7, 0.9), Interval(0.5, 0.4, 0.6), Interval(0.2, 0.1, 0.3)
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("across", "within", "words"),
    [
        (GOOD, GOOD, "of the same footage too"),
        (GOOD, CHANCE, "Not shown on the same footage"),
        (GOOD, BAD, "**A shortcut**: AUC 0.800 [0.700, 0.900] across clips, 0.200 [0.100, 0.300] of pairs"),
        (CHANCE, BAD, ""),
        (GOOD, UNKNOWN, ""),
    ],
)
def test_model_must_hold_on_the_same_footage(across: Interval, within: Interval, words: str) -> None:
    """An AUC across clips that turns round within pairs rests on the collections."""
    said = about((across, within))
    assert words in said
    assert bool(words) == bool(said)


@pytest.mark.parametrize(
    ("across", "within", "words"),
    [
        (CHANCE, CHANCE, "near chance both ways"),
        (GOOD, CHANCE, "it goes where both clips are of the same footage"),
        (CHANCE, GOOD, "The generators' containers differ from those of their footage"),
        (GOOD, GOOD, "from the collections, and from the generators' containers too"),
        (BAD, UNKNOWN, "there are no pairs to tell whether"),
    ],
)
def test_deviation_of_facts_is_explained(across: Interval, within: Interval, words: str) -> None:
    """By where it goes and where it stays."""
    assert words in about((CHANCE, CHANCE), (across, within))
