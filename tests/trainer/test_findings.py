"""Signs of overfitting and recommendations: each has its rule, and nothing is said without its number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from avff.trainer import metrics
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.report.figures import Judgement
from avff.trainer.report.findings import Sign, recommendations, signs_of_overfitting
from avff.trainer.report.history import Epoch
from tests.support.training import make_clip
from tests.trainer.scored_clips import make_history, make_score

CONTROL = Interval(0.5, 0.4, 0.6)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be exact here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 50)


def epochs(train: Sequence[float], validation: Sequence[float]) -> list[Epoch]:
    pairs = enumerate(zip(train, validation, strict=True))
    return [Epoch("whole", n, {"train/loss": t, "val/loss": v}) for n, (t, v) in pairs]


def sign(history: Sequence[Epoch], words: str) -> Sign:
    (found,) = (s for s in signs_of_overfitting(history, math.nan, math.nan) if words in s.rule)
    return found


@pytest.mark.parametrize(
    ("train", "validation", "seen"),
    [
        ([0.6, 0.5, 0.4, 0.3], [0.6, 0.5, 0.55, 0.6], True),
        ([0.6, 0.5, 0.4], [0.6, 0.5, 0.55], False),  # one epoch may be an accident
        ([0.6, 0.5, 0.5, 0.5], [0.6, 0.5, 0.55, 0.6], False),  # the training loss does not fall either
        ([0.6, 0.5, 0.4, 0.3], [0.6, 0.5, 0.5, 0.5005], False),  # it has not moved
    ],
)
def test_rising_validation_loss_counts_while_training_loss_falls(
    train: list[float], validation: list[float], seen: bool
) -> None:
    """Two epochs or more after its lowest, by more than nothing."""
    assert sign(epochs(train, validation), "after its lowest").seen is seen


def test_sign_holds_its_numbers() -> None:
    """Lowest loss, its epoch, how long ago, and where both losses are now."""
    found = sign(epochs([0.6, 0.5, 0.4, 0.3], [0.6, 0.5, 0.55, 0.6]), "after its lowest")
    assert found.figures == (
        "lowest validation loss 0.500 in epoch 2, 2 epochs later 0.600; training loss 0.500 → 0.300"
    )


@pytest.mark.parametrize(("train", "validation", "seen"), [(0.4, 0.61, True), (0.4, 0.59, False)])
def test_gap_of_losses_is_a_ratio(train: float, validation: float, seen: bool) -> None:
    """One and a half times the training loss at the end."""
    assert sign(epochs([train], [validation]), "times the training loss").seen is seen


def test_ratio_is_not_taken_of_a_loss_below_zero() -> None:
    """An adversarial loss may be negative: then there is no such sign to look for."""
    signs = signs_of_overfitting(epochs([-0.1], [0.3]), math.nan, math.nan)
    assert not [s for s in signs if "times the training loss" in s.rule]


def test_falling_auc_counts_from_its_best_epoch() -> None:
    """By two hundredths; what a stage does not measure is not looked for."""
    history = [Epoch("whole", n, {"val/auc": value}) for n, value in enumerate((0.6, 0.7, 0.69, 0.67))]
    assert sign(history, "AUC has fallen").seen is True
    assert sign(history[:3], "AUC has fallen").seen is False
    assert len(signs_of_overfitting(history, math.nan, math.nan)) == 2


@pytest.mark.parametrize(
    ("validation", "judged", "seen"), [(0.8, 0.65, True), (0.7, 0.65, False), (math.nan, 0.65, None)]
)
def test_gap_between_validation_and_judging_clips(
    validation: float, judged: float, seen: bool | None
) -> None:
    """A tenth counts; without validation clips nobody knows."""
    found = signs_of_overfitting([], validation, judged)
    assert [s.seen for s in found] == [seen]
    assert ("not measured" in found[0].figures) == (seen is None)


def good_scores() -> list[ClipScore]:
    """Clips well told apart; normals of mean ±4 and variance 8 have the log-odds that they are given."""
    rng = np.random.default_rng(1)
    return [make_score(f"{k}", k % 2, float(rng.normal(8 * (k % 2) - 4, 8**0.5))) for k in range(120)]


def advice(
    scores: Sequence[ClipScore],
    *,
    threshold: float = 0.5,
    metadata: Interval = CONTROL,
    history: Sequence[Epoch] = (),
) -> list[str]:
    judged = Judgement.of(scores, threshold, metadata)
    return recommendations(judged, history, signs_of_overfitting(history, math.nan, math.nan), {})


def test_good_model_is_left_alone() -> None:
    """No rule triggers, nothing is recommended."""
    assert advice(good_scores()) == []


def guessing() -> list[ClipScore]:
    rng = np.random.default_rng(2)
    return [make_score(f"{k}", int(k % 5 > 0), float(rng.normal(1, 1))) for k in range(60)]


@pytest.mark.parametrize(
    "words",
    [
        "Do not deploy this model: its AUC, ",
        "Distrust the collections: container facts alone reach an AUC of 0.900",
        "Judge on more people or footage: the interval of the AUC is ",
        "always giving the more frequent answer gets 0.800. Quote AUC and balanced accuracy",
        "Set the threshold on footage like that of the judging clips: ",
        "Train on fakes like these, whose AUC is below 0.6: A ",
    ],
)
def test_guessing_is_called_by_its_name(words: str) -> None:
    """A model that knows nothing of clips that are mostly fake is found out by every rule about it."""
    (found,) = [a for a in advice(guessing(), metadata=Interval(0.9, 0.8, 1.0)) if words in a]
    assert any(c.isdigit() for c in found)


def test_one_answer_for_everything_is_noticed() -> None:
    """All called fake, or none."""
    assert [a for a in advice(good_scores(), threshold=1e-9) if "all 120 clips are called fake" in a]
    assert [a for a in advice(good_scores(), threshold=1 - 1e-9) if "all 120 clips are called not fake" in a]


def test_overconfidence_is_noticed() -> None:
    """Clips in good order whose log-odds are far too large."""
    rng = np.random.default_rng(3)
    scores = [make_score(f"{k}", k % 2, float(rng.normal(k % 2 - 0.5, 0.8) * 20)) for k in range(120)]
    assert [a for a in advice(scores) if a.startswith("Do not read the score as a probability")]


def test_few_clips_of_a_generator_say_nothing_of_it() -> None:
    """Four clips that are missed are no ground for a recommendation; five are."""
    missed = [make_score(f"m{k}", 1, -99.0, generator="Rare") for k in range(5)]
    assert not [a for a in advice([*good_scores(), *missed[:4]]) if "Rare" in a]
    assert [a for a in advice([*good_scores(), *missed]) if "below 0.6: Rare 0.000" in a]


def test_windows_without_a_score_are_noticed_by_class() -> None:
    """A clip's first windows are too short by nature and count on no side."""
    silent = {"no_face": 2, "too_short": 90}
    scores = [make_score(s.uid, s.label, s.logit, abstained=silent if s.label else {}) for s in good_scores()]
    assert [a.split(":")[0] for a in advice(scores)] == ["Look at the generated clips without a score"]
    assert advice([make_score(s.uid, s.label, s.logit, abstained={"too_short": 90}) for s in scores]) == []


def test_loss_that_still_falls_asks_for_more_epochs() -> None:
    """Lowest in the last epoch by more than nothing; each stage for itself."""
    found = [a for a in advice(good_scores(), history=make_history()) if "for longer" in a]
    assert found == ["Train `encoders` for longer: its validation loss was lowest in the last epoch, "
                     "1.600 after 1.700."]  # fmt: skip


def test_signs_become_recommendations() -> None:
    """Each sign that was seen comes with its remedy and its figures."""
    found = advice(good_scores(), history=make_history())
    assert [a.split(".")[0] for a in found if "Sign:" in a] == [
        "Stop earlier",
        "Regularise more, or train on more people",
        "Stop earlier",
    ]
    assert "lowest validation loss 0.550 in epoch 2, 3 epochs later 0.800" in found[0]


def test_best_f1_of_calling_everything_fake_is_no_success() -> None:
    """On 65 fakes of 80 an F1 of 0.897 is what the constant answer gets; 0.95 is more."""
    for f1, count in ((0.897, 1), (0.95, 0)):
        history = [Epoch("whole", 0, {"val/f1": f1, "val/prior": 65 / 80})]
        assert len([a for a in advice(good_scores(), history=history) if "gets 0.897" in a]) == count


def test_leak_names_both_clips() -> None:
    """A person on two sides is the first thing to mend."""
    sides = {"train": [make_clip("t", identity="p")], "dev": [make_clip("d", identity="p"), make_clip("e")]}
    judged = Judgement.of(good_scores(), 0.5, CONTROL)
    (found,) = recommendations(judged, [], [], sides)
    assert found == ("Split again: shared groups 1, not 0; `t` (train) and `d` (dev) are of one group.")
    assert recommendations(judged, [], [], {**sides, "train": [make_clip("t", identity="q")]}) == []


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_asks_for_nothing_it_cannot_know(label: int) -> None:
    """Without both classes no figure of the ranking or the threshold is defined, and none is quoted."""
    assert advice([make_score(f"{k}", label, 1.0) for k in range(20)]) == []
