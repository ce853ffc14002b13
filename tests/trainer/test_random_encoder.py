"""The random-encoder control: nothing is trained, the calibration is fitted as ever, and clips are judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from avff.engine.contract import Affine
from avff.engine.model import CONTRACT_FILE, load_model
from avff.trainer import calibrate, control_runs, controls, metrics, random_encoder
from avff.trainer.cli import main
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import Split
from avff.trainer.evaluate import ClipScore
from avff.trainer.metrics import Interval
from avff.trainer.random_encoder import DRAWS, Draw, random_encoders, random_page
from avff.trainer.run_data import RunData
from tests.support.training import fill_cache, make_clip
from tests.trainer.scored_clips import make_score
from tests.trainer.test_controls import make_settings

CLIPS = [make_clip(f"{k}.mp4", identity=f"p{k}") for k in range(4)]
CLIPS += [make_clip(f"f{k}.mp4", label=1, generator="F") for k in range(4)]
JUDGES = [make_clip("j0.mp4", identity="q"), make_clip("j1.mp4", label=1, generator="G")]
SIDES = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))


@pytest.fixture
def data(tmp_path: Path) -> RunData:
    """Prepared clips of two windows, and files in the places of those that judge."""
    store = fill_cache(tmp_path / "cache", CLIPS)
    for clip in (*CLIPS, *JUDGES):
        (tmp_path / clip.path).write_bytes(b"")
    return RunData(tmp_path, None, store, SIDES, tuple(JUDGES))


class ScriptedJudge:
    """Stands for judging: keeps the contracts it is given; right in every second run, wrong in the others."""

    def __init__(self) -> None:
        self.models: list[str] = []

    def __call__(self, clips: Sequence[Clip], root: Path, model: Path, *, workers: int) -> list[ClipScore]:
        self.models.append((model / CONTRACT_FILE).read_text())
        load_model(model, threads=1).close()  # whole, and fit to serve
        sign = 1 if len(self.models) % 2 else -1
        return [make_score(c.uid, int(c.is_fake), sign * (c.is_fake - 0.5)) for c in clips]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    made = ScriptedJudge()
    monkeypatch.setattr(random_encoder, "judge", made)
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 50)
    return made


def test_untrained_networks_are_calibrated_and_judge(
    data: RunData, tmp_path: Path, script: ScriptedJudge
) -> None:
    """Three networks of different weights; what the calibration refuses answers by its raw logit."""
    draws = random_encoders(make_settings(tmp_path), data, tmp_path / "model")
    assert len(draws) == len(script.models) == DRAWS
    assert [d.auc.value for d in draws] == [1.0, 0.0, 1.0]
    assert len({d.seed for d in draws}) == DRAWS
    contracts = [json.loads(text) for text in script.models]
    assert len({c["graphs"]["fusion"]["sha256"] for c in contracts}) == DRAWS
    for draw, contract in zip(draws, contracts, strict=True):
        answering = contract["calibration"]["any"]
        assert set(answering) == {"av", "video", "audio"}
        raw = {m for m in answering if Affine(**answering[m]) == Affine(1.0, 0.0)}
        assert raw == set(answering) - set(draw.offered)
        assert "any, av" in draw.validation


def test_what_the_calibration_offers_is_used(
    data: RunData, tmp_path: Path, script: ScriptedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A modality that is surely above chance answers as the calibration has fitted it."""
    fitted = Affine(0.5, 0.1)
    monkeypatch.setattr(
        random_encoder, "calibrate", lambda *_: ({"av": fitted}, {}, {"any, av": Interval(0.7, 0.6, 0.8)})
    )
    draws = random_encoders(make_settings(tmp_path), data, tmp_path / "model")
    assert draws[0].offered == ("av",)
    answering = json.loads(script.models[0])["calibration"]["any"]
    assert (Affine(**answering["av"]), Affine(**answering["video"])) == (fitted, Affine(1.0, 0.0))
    assert calibrate.BY_MODALITY.keys() == answering.keys()


@pytest.mark.parametrize(
    ("aucs", "words"),
    [
        ([0.55, 0.62, 0.4], "within 0.5 ± 0.1"),
        ([0.8, 0.7, 0.5], "**not** within"),
        ([0.3, 0.3, 0.4], "**not**"),
    ],
    ids=["near", "above", "below"],
)
def test_page_says_whether_it_is_near_chance(aucs: list[float], words: str) -> None:
    """Each network has a row; the mean decides, above chance and below it alike."""
    draws = [
        Draw(
            k, {"any, av": Interval(0.6, 0.4, 0.7)}, ("audio",) if k else (), Interval(a, a - 0.1, a + 0.1), 9
        )
        for k, a in enumerate(aucs)
    ]
    page = random_page(draws, 10)
    assert f"Mean AUC {sum(aucs) / 3:.3f}, {words}" in page
    assert f"| 0 | {draws[0].auc} | 9 of 10 | any, av: 0.600 [0.400, 0.700] | nothing |" in page
    assert f"| 1 | {draws[1].auc} | 9 of 10 | any, av: 0.600 [0.400, 0.700] | audio |" in page


def test_control_is_a_flag_of_the_trainer(
    data: RunData, tmp_path: Path, script: ScriptedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its page among the run's outputs, and trains nothing."""
    monkeypatch.setattr(controls, "load_data", lambda settings: data)
    monkeypatch.setattr(control_runs, "fit", None)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(make_settings(tmp_path).model_dump(mode="json")))
    assert main(["--config", str(config), "--control", "random-encoder"]) == 0
    page = (tmp_path / "outputs" / "tiny" / "control-random-encoder.md").read_text()
    assert "Mean AUC 0.667, **not** within 0.5 ± 0.1" in page
    assert len(script.models) == DRAWS
