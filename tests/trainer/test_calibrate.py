"""Calibration: probabilities that are meant, modalities that are withheld, a threshold that is frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from avff.engine.calibration import joined
from avff.engine.contract import CLIP_OUTPUTS, Affine, Calibration
from avff.engine.media import Float32
from avff.trainer import metrics
from avff.trainer.calibrate import (
    BY_MODALITY,
    BY_PART,
    HEADS,
    MOTION_FAKES,
    PICTURE_FAKES,
    SOUND_FAKES,
    Float64,
    Rows,
    _unseen,
    calibrate,
    freeze_threshold,
    validation_logits,
    with_threshold,
)
from avff.trainer.data.windows import Batch
from avff.trainer.pseudo import RECIPES
from tests.support.training import SMALL, random_windows, seeded_net

NAMES = ["real", "generated", *sorted(RECIPES)]
EACH = 150
PEOPLE = [str(i % EACH) for i in range(EACH * (2 + len(RECIPES)))]
"""Item ``k`` of every group is the same person."""


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 200)


def make_logits(*, shift: float = 2.0, scale: float = 1.0, chance: str = "") -> dict[str, Float32]:
    """Logits whose true log-odds are ``shift * x - shift² / 2`` with x about 0 genuine, ``shift`` fake.

    Args:
        shift: between genuine and fake, in standard deviations.
        scale: factor of the logits.
        chance: modality that knows nothing.
    """
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(len(NAMES)), EACH).astype(np.float32)
    fake = (group > 0)[:, None]
    made = {}
    for modality in BY_MODALITY:
        distance = 0.0 if modality == chance else shift
        made[modality] = (
            scale * (rng.normal(0, 1, (len(group), len(CLIP_OUTPUTS))) + distance * fake)
        ).astype(np.float32)
    return made | {"group": group}


def each_alone() -> list[str]:
    """Every window of another person."""
    return [f"person {k}" for k in range(EACH * len(NAMES))]


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_platt_recovers_a_known_scaling(scale: float) -> None:
    """Normals one distance apart have exact log-odds: slope distance, and even odds half-way between."""
    shift = 2.0
    by_modality, by_part, _ = calibrate(make_logits(shift=shift, scale=scale), NAMES, each_alone())
    assert (set(by_modality), set(by_part)) == (set(BY_MODALITY), set(BY_PART))
    for fitted in by_part.values():
        assert fitted.scale == pytest.approx(shift / scale, rel=0.25)
        assert -fitted.offset / fitted.scale == pytest.approx(scale * shift / 2, rel=0.15)


def of_one_head(head: str, fakes: Sequence[str]) -> dict[str, Float32]:
    """Logits of which only one column knows some kinds of fakes."""
    logits = make_logits(shift=0.0)
    known = np.isin(np.array(NAMES)[logits["group"].astype(int)], fakes)
    for modality in BY_MODALITY:
        logits[modality][known, CLIP_OUTPUTS.index(head)] += 4.0
    return logits


@pytest.mark.parametrize(
    ("head", "fakes"), [("video", PICTURE_FAKES), ("audio", SOUND_FAKES), ("motion", MOTION_FAKES)]
)
def test_shares_are_those_of_the_fakes(head: str, fakes: Sequence[str]) -> None:
    """The head that knows its kinds gets their share of all fakes, that of the whole the rest."""
    logits = of_one_head(head, fakes)
    rest = np.isin(
        np.array(NAMES)[logits["group"].astype(int)], [k for k in BY_MODALITY["av"] if k not in fakes]
    )
    logits["av"][rest, 0] += 4.0
    by_modality, by_part, _ = calibrate(logits, NAMES, each_alone())
    assert set(by_part) == {head}
    share = {part: getattr(by_modality["av"], part) for part in HEADS["av"]}
    assert share.pop(head) == pytest.approx(len(fakes) / len(BY_MODALITY["av"]), abs=0.1)
    assert list(share.values()) == [0.0, 0.0]


def test_a_head_that_knows_nothing_of_the_whole_has_no_say() -> None:
    """The shares are the parts' alone, and still make up the whole."""
    logits = of_one_head("video", PICTURE_FAKES)
    for modality in BY_MODALITY:
        logits[modality][:, 0] = -logits[modality][:, 1]
    joint = calibrate(logits, NAMES, each_alone())[0]["av"]
    assert (joint.scale, joint.video + joint.audio) == (0.0, 1.0)


def test_parts_without_the_head_of_the_whole_leave_nothing_over() -> None:
    """Two heads of their own kinds of fakes: both have a share, and together they are the whole."""
    logits = of_one_head("video", ("self_blend",))
    known = np.isin(np.array(NAMES)[logits["group"].astype(int)], MOTION_FAKES)
    for modality in BY_MODALITY:
        logits[modality][known, CLIP_OUTPUTS.index("motion")] += 4.0
        logits[modality][:, 0] = -logits[modality][:, [1, 4]].max(axis=1)
    joint = calibrate(logits, NAMES, each_alone())[0]["video"]
    assert (joint.scale, joint.audio) == (0.0, 0.0)
    assert joint.video == pytest.approx(0.25, abs=0.1)
    assert joint.video + joint.motion == pytest.approx(1.0, abs=1e-9)


def test_calibrated_probabilities_are_for_even_odds() -> None:
    """Seven fake groups beside one genuine one do not make a score of one half lean to fake."""
    logits = make_logits(shift=1.0)
    by_modality, by_part, _ = calibrate(logits, NAMES, each_alone())
    made = joined(by_modality["av"], by_part, logits["av"].astype(np.float64))
    group = logits["group"]
    false_alarms = float((made[group == 0] > 0).mean())
    missed = float((made[group == 1] <= 0).mean())
    assert false_alarms == pytest.approx(missed, abs=0.1)


@pytest.mark.parametrize("chance", list(BY_MODALITY))
def test_modality_at_chance_is_not_offered(chance: str) -> None:
    """No scaling means no score; the other modalities keep theirs."""
    by_modality, by_part, figures = calibrate(make_logits(chance=chance), NAMES, each_alone())
    assert set(by_modality) == set(BY_MODALITY) - {chance}
    assert set(by_part) == (set() if chance == "av" else set(BY_PART))
    assert figures[f"any, {chance}"].low <= 0.5
    assert all(figures[f"any, {m}"].low > 0.5 for m in by_modality)


def test_scores_are_never_turned_upside_down() -> None:
    """What is worse than chance is not offered, and not inverted either."""
    by_modality, by_part, figures = calibrate(make_logits(shift=-2.0), NAMES, each_alone())
    assert (by_modality, by_part) == ({}, {})
    assert all(figure.value <= 0.5 for figure in figures.values())


def test_one_group_alone_gives_no_figure_and_no_score() -> None:
    """Where no other group is there to fit on, the figure is undefined, not one half; nothing is offered."""
    by_modality, by_part, figures = calibrate(make_logits(), NAMES, ["one"] * (EACH * len(NAMES)))
    assert (by_modality, by_part) == ({}, {})
    assert all(np.isnan(figure.value) for figure in figures.values())


def test_people_and_not_windows_are_resampled() -> None:
    """Fakes that show on one person of four: surer when every window stands alone than they are."""
    logits = make_logits(shift=0.0)
    person = np.arange(EACH * len(NAMES)) % 4
    for modality in BY_MODALITY:
        logits[modality][(person == 0) & (logits["group"] > 0)] += 3.0
    _, by_windows, _ = calibrate(logits, NAMES, each_alone())
    _, by_people, _ = calibrate(logits, NAMES, [f"person {k}" for k in person])
    assert set(by_people) < set(by_windows) == set(BY_PART)


def test_benign_desync_is_no_fake() -> None:
    """Late sound alone and frozen pictures are never held against the fake score."""
    assert all("desync" not in fakes and "freeze" not in fakes for fakes in BY_MODALITY.values())
    assert "desync" in BY_PART["desync"]
    assert set().union(*BY_MODALITY.values(), *BY_PART.values()) <= set(NAMES)


def test_threshold_lets_one_genuine_clip_in_a_hundred_pass() -> None:
    """Where there are a hundred or more, the 99th percentile of the genuine probabilities."""
    genuine = np.linspace(0.0, 0.8, 101)
    threshold = freeze_threshold(genuine.tolist())
    assert threshold == pytest.approx(0.792)
    assert (genuine > np.float64(threshold)).sum() == 1


@pytest.mark.parametrize("count", [3, 8, 30])
def test_threshold_on_few_clips_holds_for_the_next_one(count: int) -> None:
    """A new clip of normal log-odds lies above it once in a hundred, however few clips it was frozen on."""
    rng = np.random.default_rng(count)
    above = []
    for _ in range(4000):
        *seen, new = (1 / (1 + math.exp(-x)) for x in rng.normal(1.0, 0.2, count + 1))
        threshold = freeze_threshold(seen)
        assert threshold is not None
        above.append(new > threshold)
    assert 0.005 < np.mean(above) < 0.015


def test_threshold_is_a_prediction_bound() -> None:
    """By hand, of log-odds about 0.2, 0.1 apart: Student's t with 2 degrees of freedom 6.9646."""
    genuine = [1 / (1 + math.exp(-x)) for x in (0.1, 0.2, 0.3)]
    bound = 0.2 + 0.1 * 6.964557 * math.sqrt(1 + 1 / 3)
    assert freeze_threshold(genuine) == pytest.approx(1 / (1 + math.exp(-bound)), abs=1e-6)


@pytest.mark.parametrize("count", [3, 99, 100])
@pytest.mark.parametrize(("genuine", "threshold"), [(0.1, 0.5), (1.0, 0.99)], ids=["low", "high"])
def test_threshold_stays_within_reason(genuine: float, threshold: float, count: int) -> None:
    """Never below even odds, never out of a fake's reach."""
    assert freeze_threshold([genuine] * count) == pytest.approx(threshold)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_threshold_is_not_frozen_on_nothing(count: int) -> None:
    """Of fewer than three genuine clips nobody knows how far apart such clips lie."""
    assert freeze_threshold([0.3] * count) is None


def test_a_fit_is_judged_on_groups_it_was_not_fitted_to() -> None:
    """Siblings, fakes of one footage among them, never stand on both sides of a fold."""
    fits: list[Rows] = []

    def noting(fitted: Rows, logits: Float64) -> Float64:
        fits.append(fitted)
        return np.zeros(len(logits))

    groups = np.arange(40) // 4
    names = np.array([f"group {g}" for g in groups])
    made = _unseen(Rows(np.zeros((40, 5)), np.arange(40) % 2, names, names), noting)
    assert np.isfinite(made).all()
    assert len(fits) == 5
    for fitted in fits:
        assert len(fitted.who) == 4 * len(set(fitted.who)), "a group is in a fit as a whole or not at all"


def test_with_threshold_keeps_the_scalings() -> None:
    """Only the threshold is replaced."""
    before = Calibration({"av": Affine(1.0, 2.0)}, {"video": Affine(3.0, 4.0)}, 0.5, {"video": 2.5})
    assert with_threshold(before, 0.7) == Calibration(before.any, before.parts, 0.7, {"video": 2.5})


class Windows(Dataset[Batch]):
    """Three random windows, the last without a face."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Batch:
        video, audio, landmarks, seen, heard = (x[index] for x in random_windows(3))
        if index == 2:
            seen = torch.zeros_like(seen)
        empty = torch.zeros(64, 3)
        return Batch(video, audio, landmarks, seen, heard, torch.zeros(4), empty, torch.tensor(index))


def test_validation_logits_withhold_one_modality_at_a_time() -> None:
    """``video`` is scored deaf, ``audio`` blind; a window without a face is the same seen or blind."""
    net = seeded_net(config=SMALL)
    logits = validation_logits(net, Windows(), workers=0)  # type: ignore[arg-type]
    assert logits["group"].tolist() == [0, 1, 2]
    video, audio, landmarks, seen, heard = random_windows(3)
    seen[2] = 0
    with torch.no_grad():
        expected = {
            "av": net(video, audio, landmarks, seen, heard).all_heads(),
            "video": net(video, audio, landmarks, seen, 0 * heard).all_heads(),
            "audio": net(video, audio, landmarks, 0 * seen, heard).all_heads(),
        }
    for modality, wanted in expected.items():
        np.testing.assert_allclose(logits[modality], wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(logits["av"][2], logits["audio"][2], atol=1e-5)
    assert np.abs(logits["av"][:2] - logits["audio"][:2]).max() > 1e-3


def test_a_head_of_the_whole_that_does_not_help_is_not_joined() -> None:
    """It knows one kind of fakes and ranks another below genuine windows."""
    logits = of_one_head("video", PICTURE_FAKES)
    kinds = np.array(NAMES)[logits["group"].astype(int)]
    for modality in BY_MODALITY:
        logits[modality][:, 0] = np.where(kinds == "vocoder", 3.0, np.where(kinds == "lip_swap", -6.0, 0.0))
    joint = calibrate(logits, NAMES, each_alone())[0]["video"]
    assert (joint.scale, joint.video) == (0.0, 1.0)
