"""``avff-train --folds``: who judges where, and what the folds amount to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from avff.trainer import cross_validation, metrics
from avff.trainer.cli import main
from avff.trainer.config import RunSettings
from avff.trainer.cross_fold import FOLD_FILE, read_back
from avff.trainer.cross_summary import AT_THRESHOLD, CrossFigures, write_summary
from avff.trainer.data.folder import finish_folder
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import group_of
from avff.trainer.pipeline import Outcome
from avff.trainer.report.figures import DEFINITIONS
from avff.trainer.run_data import RunData
from tests.support.training import fill_cache, make_clip
from tests.trainer.scored_clips import make_score

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "selfmade.yaml"
TINY = {
    "name": "cross", "data.split": "groups", "data.workers": "0", "data.validation_share": "0.5",
    "data.held_out_generators": "[]", "model.width": "16", "model.heads": "2", "model.depth": "1",
    "encoders.epochs": "1", "encoders.slices_per_epoch": "4", "encoders.batch": "4", "train.epochs": "1",
    "train.windows_per_epoch": "4", "train.batch": "4", "train.validation_windows": "1",
    "motion.windows_per_epoch": "4", "motion.batch": "4",
}  # fmt: skip


@dataclass
class RecordedRuns:
    """Stands in for the runs of the folds: notes what each was given, and scores by label.

    Attributes:
        names: of the runs, in order.
        settings, data: what each was given.
    """

    names: list[str] = field(default_factory=list)
    settings: list[RunSettings] = field(default_factory=list)
    data: list[RunData] = field(default_factory=list)

    def __call__(self, settings: RunSettings, data: RunData, command: str, *, dry: bool) -> Outcome | None:
        """Note a run; its model knows every clip."""
        assert "--folds" in command
        self.names.append(settings.name)
        self.settings.append(settings)
        self.data.append(data)
        logits = {c.uid: 2.0 * c.is_fake - 1 for c in data.judges}
        return None if dry else Outcome(0.6, [make_score(u, int(z > 0), z) for u, z in logits.items()])


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals need not be fine here."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 60)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> RecordedRuns:
    recorded = RecordedRuns()
    monkeypatch.setattr(cross_validation, "carry_out", recorded)
    return recorded


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Nine people with a genuine and a generated clip each, of which three are kept for the end."""
    made = []
    for k in range(9):
        split = "dev" if k >= 6 else "train"
        made.append(make_clip(f"r{k}", identity=f"p{k}", split=split))
        made.append(make_clip(f"f{k}", label=1, generator="A", identity=f"p{k}", label_video=1, split=split))
    return made


@pytest.fixture(scope="module")
def prepared(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips as ``avff-prepare`` leaves them."""
    folder = tmp_path_factory.mktemp("prepared")
    fill_cache(folder, clips, windows=1)
    finish_folder(folder, clips, "bmp")
    for clip in clips:  # a run looks for the clips that judge before it begins
        (folder / clip.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / clip.path).touch()
    return folder


def give(prepared: Path, output: Path, *words: str, **changes: str) -> int:
    """Give the command."""
    places = {"data.root": str(prepared), "data.prepared": str(prepared), "output": str(output)}
    options = {**TINY, **places, **changes}
    return main(["--config", str(CONFIG), *words, *(f"--{key}={value}" for key, value in options.items())])


def test_every_clip_judges_one_fold_and_helps_none_that_it_judges(
    prepared: Path, clips: list[Clip], tmp_path: Path, runs: RecordedRuns
) -> None:
    """With ``groups`` all clips take part; people are never on two sides of a fold."""
    assert give(prepared, tmp_path, "--folds", "3") == 0
    assert runs.names == ["cross-fold1", "cross-fold2", "cross-fold3"]
    assert sorted(c.uid for data in runs.data for c in data.judges) == sorted(c.uid for c in clips)
    group = group_of(clips)
    for data in runs.data:
        sides = data.split.train, data.split.validation, data.judges
        assert sum(map(len, sides)) == len(clips)
        assert all({c.label for c in side} == {0, 1} for side in sides)
        people = [{group[c.uid] for c in side} for side in sides]
        assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]


def test_official_judges_are_in_no_fold(
    prepared: Path, clips: list[Clip], tmp_path: Path, runs: RecordedRuns
) -> None:
    """Clips that the dataset keeps for the final judgement stay unseen."""
    assert give(prepared, tmp_path, "--folds=2", **{"data.split": "official"}) == 0
    seen = {c.uid for data in runs.data for side in (data.split.train, data.judges) for c in side}
    assert seen == {c.uid for c in clips if c.split == "train"}


def test_fold_is_named_in_its_recipe(prepared: Path, tmp_path: Path, runs: RecordedRuns) -> None:
    """A run of one fold cannot be taken for that of another; all else is the recipe's."""
    assert give(prepared, tmp_path, "--folds", "2") == 0
    assert [s.data.judge_split for s in runs.settings] == ["fold 1 of 2", "fold 2 of 2"]
    assert {s.train.windows_per_epoch for s in runs.settings} == {4}


def test_summary_is_written(prepared: Path, tmp_path: Path, runs: RecordedRuns) -> None:
    """Page and figures lie in the run's folder; all clips are counted."""
    assert give(prepared, tmp_path, "--folds", "2") == 0
    outputs = tmp_path / "outputs" / "cross"
    kept = json.loads((outputs / "cross_validation.json").read_text())
    assert sum(fold["scored"] for fold in kept["folds"]) == 18
    assert kept["mean"]["auc"] == kept["pooled"]["auc"]["value"] == 1.0
    page = (outputs / "cross_validation.md").read_text()
    assert "| AUC | 1.000 | 1.000 | 1.000 ± 0.000 | 1.000 [1.000, 1.000] | chance 0.500 |" in page
    assert "majority baseline 0.500" in page


def test_finished_fold_is_read_back_and_not_judged_again(
    prepared: Path, tmp_path: Path, runs: RecordedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop in the second fold the same command carries out that one only, to the same figures."""

    def stops(settings: RunSettings, data: RunData, command: str, *, dry: bool) -> Outcome | None:
        if settings.name.endswith("fold2"):
            raise KeyboardInterrupt
        return runs(settings, data, command, dry=dry)

    assert give(prepared, tmp_path / "straight", "--folds", "2") == 0
    with monkeypatch.context() as patched:
        patched.setattr(cross_validation, "carry_out", stops)
        assert give(prepared, tmp_path / "torn", "--folds", "2") == 130
    runs.names.clear()
    assert give(prepared, tmp_path / "torn", "--folds", "2") == 0
    assert runs.names == ["cross-fold2"]
    kept = [
        json.loads((tmp_path / name / "outputs" / "cross" / "cross_validation.json").read_text())
        for name in ("straight", "torn")
    ]
    assert kept[0].pop("command") != kept[1].pop("command")
    assert kept[0] == kept[1]


def test_fold_of_other_settings_or_clips_is_not_read_back(
    prepared: Path, tmp_path: Path, runs: RecordedRuns
) -> None:
    """Nor one whose file is damaged; where files lie and how many processes help does not matter."""
    assert give(prepared, tmp_path, "--folds", "2") == 0
    settings, data = runs.settings[0], runs.data[0]
    assert read_back(settings, data) is not None
    helped = settings.model_copy(update={"data": settings.data.model_copy(update={"workers": 5})})
    assert read_back(helped, data) is not None
    seeded = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 99})})
    assert read_back(seeded, data) is None
    first, *others = data.judges
    changed = (dataclasses.replace(first, sha256="0" * 64), *others)
    assert read_back(settings, dataclasses.replace(data, judges=changed)) is None
    file = tmp_path / "outputs" / "cross-fold1" / FOLD_FILE
    file.write_text(file.read_text()[:-20])
    assert read_back(settings, data) is None


def test_goes_on_with_the_same_folds_only(
    prepared: Path, tmp_path: Path, runs: RecordedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clips dealt otherwise are refused before anything is trained."""
    assert give(prepared, tmp_path, "--folds", "2") == 0
    begun = len(runs.names)
    capsys.readouterr()
    assert give(prepared, tmp_path, "--folds", "3") == 78
    *_, last = capsys.readouterr().err.splitlines()
    assert "folds.json: the clips were dealt to other folds before; give a new --name" in last
    assert len(runs.names) == begun == 2


@pytest.mark.parametrize(
    ("words", "changes", "code", "said"),
    [
        (["--folds", "1"], {}, 78, "--folds 1: a cross-validation needs at least 2"),
        (["--folds", "10"], {}, 65, "--folds 10: validation has 0 genuine"),
        (["--folds", "many"], {}, 2, "invalid int value: 'many'"),
        (["--folds", "2"], {"model": "{architecture: avff-b}", "encoders": "null"}, 78, "no fold could be"),
    ],
)
def test_what_cannot_be_cross_validated_is_said_at_once(
    prepared: Path, tmp_path: Path, runs: RecordedRuns, capsys: pytest.CaptureFixture[str],
    words: list[str], changes: dict[str, str], code: int, said: str,
) -> None:  # fmt: skip
    """One line with the reason; no fold begins and nothing is written."""
    if "encoders" in changes:
        dropped = {k: v for k, v in TINY.items() if not k.startswith(("encoders.", "model.", "motion."))}
        places = {"data.root": prepared, "data.prepared": prepared, "output": tmp_path}
        options = {**dropped, **places, **changes, "train.frozen_encoders": "false", "pretrain": "null"}
        options |= {"motion": "null"}
        done = main(["--config", str(CONFIG), *words, *(f"--{k}={v}" for k, v in options.items())])
    else:
        try:
            done = give(prepared, tmp_path, *words, **changes)
        except SystemExit as stop:
            done = int(stop.code or 0)
    assert done == code
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not runs.names
    assert not (tmp_path / "outputs").exists()


# Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_dry_run_tries_every_fold(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One batch goes through every stage of every fold's own run, and nothing is kept."""
    assert give(prepared, tmp_path, "--folds", "2", "--dry-run") == 0
    said = capsys.readouterr().err
    assert said.count("dry run: one batch went through every stage") == 2
    assert "fold 2 of 2: 8 clips judge" in said or "fold 2 of 2: 10 clips judge" in said
    assert not list(tmp_path.iterdir())


def outcomes() -> list[Outcome]:
    """Three folds whose models differ in scale and threshold; one clip of each has no score."""
    rng = np.random.default_rng(0)
    made = []
    for fold, threshold in enumerate((0.6, 0.8, 0.95)):
        scores = [
            make_score(f"{fold}-{k}", k % 2, float(rng.normal(k % 2, 1 + fold)), group=f"{fold}-{k // 4}")
            for k in range(20)
        ]
        made.append(Outcome(threshold, [*scores, make_score(f"{fold}-none", 1, None)]))
    return made


def scored(outcome: Outcome) -> tuple[list[int], list[float]]:
    """Labels and probabilities of the clips that have a score."""
    kept = [s for s in outcome.scores if s.probability is not None]
    return [s.label for s in kept], [s.probability or 0.0 for s in kept]


def test_mean_and_deviation_are_of_the_folds() -> None:
    """As numpy and scikit-learn compute them from the scores."""
    aucs = aucs_of(outcomes())
    figures = CrossFigures.of(outcomes())
    assert [f["auc"] for f in figures.by_fold] == pytest.approx(aucs)
    assert figures.mean["auc"] == pytest.approx(np.mean(aucs))
    assert figures.deviation["auc"] == pytest.approx(np.std(aucs, ddof=1))


def test_pooled_calls_each_clip_by_its_own_folds_threshold() -> None:
    """Accuracy and AUC of all clips together, within their intervals."""
    labels = np.concatenate([scored(o)[0] for o in outcomes()])
    probabilities = np.concatenate([scored(o)[1] for o in outcomes()])
    called = np.concatenate([np.array(scored(o)[1]) >= o.threshold for o in outcomes()])
    pooled = CrossFigures.of(outcomes()).pooled
    assert pooled["accuracy"].value == pytest.approx(accuracy_score(labels, called))
    assert pooled["accuracy"].value != accuracy_score(labels, probabilities >= 0.5)
    assert pooled["auc"].value == pytest.approx(roc_auc_score(labels, probabilities))
    assert pooled["brier"].value == pytest.approx(np.mean((probabilities - labels) ** 2))
    assert pooled["auc"].low < pooled["auc"].value < pooled["auc"].high


def test_figures_at_the_threshold_are_known() -> None:
    """Whatever changes with the threshold is pooled at each fold's own, and nothing else is."""
    labels = np.array([0, 1, 1] * 17)
    logits = np.random.default_rng(1).normal(labels, 1.0)
    changed = {d.key for d in DEFINITIONS if d.of(labels, logits, 0.2) != d.of(labels, logits, 0.8)}
    assert changed == AT_THRESHOLD


def test_fold_without_scores_is_a_dash_and_not_a_zero(tmp_path: Path) -> None:
    """Its figures are undefined, and the mean is that of the others."""
    silent = Outcome(0.5, [make_score("a", 0, None), make_score("b", 1, None)])
    write_summary(tmp_path, "gap", "avff-train", [*outcomes(), silent])
    kept = json.loads((tmp_path / "cross_validation.json").read_text())
    assert kept["folds"][3]["figures"]["auc"] is None
    assert kept["mean"]["auc"] == pytest.approx(np.mean(aucs_of(outcomes())))
    page = (tmp_path / "cross_validation.md").read_text()
    assert "| clips scored | 20 of 21 | 20 of 21 | 20 of 21 | 0 of 2 |  | 60 of 65 |" in page
    row = next(line for line in page.splitlines() if line.startswith("| AUC |"))
    assert row.split(" | ")[4] == "–"


def aucs_of(finished: Sequence[Outcome]) -> list[float]:
    return [float(roc_auc_score(*scored(o))) for o in finished]
