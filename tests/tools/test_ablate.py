"""Ablations train real variants of a recipe, each once, and lay their figures side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from avff.trainer.data.splits import Split
from avff.trainer.report.history import read_history
from avff.trainer.run_data import RunData
from tests.support.training import fill_cache, make_clip
from tools import ablate

pytestmark = [
    # Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
CLIPS = (
    [make_clip(f"{name}.mp4", identity=name) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", label_video=1) for k in range(2)]
)
SIDES = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))
RECIPE = {
    "name": "tiny",
    "data": {"workers": 0},
    "mix": {"self_blend": 1.0, "generated": 1.0},
    "model": {"width": 16, "heads": 2, "depth": 1},
    "encoders": {"epochs": 9, "slices_per_epoch": 4, "batch": 2},
    "train": {
        "epochs": 9, "windows_per_epoch": 4, "batch": 2, "validation_windows": 1, "post_chain": 0.0,
        "frozen_encoders": True,
    },
}  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tool's arguments for one epoch of each stage on synthetic clips."""
    store = fill_cache(tmp_path / "cache", CLIPS)
    data = RunData(tmp_path, tmp_path / "manifest.csv", store, SIDES, ())
    monkeypatch.setattr(ablate, "load_data", lambda settings: data)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(RECIPE))
    runs = str(tmp_path / "runs")
    return ["--config", str(config), "--into", runs, "--epochs", "1", "--fusion-epochs", "1"]


def test_variants_stand_beside_the_recipe(command: list[str], tmp_path: Path) -> None:
    """Encoders' rows and fusion's rows, with what each run's history says; a second call trains nothing."""
    command += ["--only", "without_generated,no_cross_prediction"]
    assert ablate.main(command) == 0
    page = (tmp_path / "runs" / "ablations.md").read_text()
    encoders, fusion = page.split("## Fusion of whole windows")
    assert [line.split("|")[1].strip() for line in encoders.splitlines() if line.startswith("|")][2:] == [
        "recipe", "without generated",
    ]  # fmt: skip
    assert "| no cross prediction |" in fusion
    assert "without generated" not in fusion
    (history,) = (tmp_path / "runs" / "outputs").glob("recipe-??????/history.jsonl")
    (epoch,) = read_history(history)
    row = next(line for line in encoders.splitlines() if line.startswith("| recipe"))
    assert f"{epoch.values['auc/audio/vocoder']:.3f}" in row
    before = history.stat().st_mtime_ns
    assert ablate.main(command) == 0
    assert (tmp_path / "runs" / "ablations.md").read_text() == page
    assert history.stat().st_mtime_ns == before


def test_other_settings_are_other_runs(command: list[str], tmp_path: Path) -> None:
    """A second call with more epochs into the same folder trains anew, encoders and fusion."""
    assert ablate.main([*command, "--only", "recipe"]) == 0
    again = [*command, "--only", "recipe", "--epochs", "2"]
    assert ablate.main(again) == 0
    outputs = tmp_path / "runs" / "outputs"
    for name in ("recipe-??????", "recipe-fusion-??????"):
        assert len(list(outputs.glob(name))) == 2
    epochs = [len(read_history(path)) for path in outputs.glob("recipe-??????/history.jsonl")]
    assert sorted(epochs) == [1, 2]


def test_unknown_variant_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the names there are, before anything is trained."""
    with pytest.raises(SystemExit) as caught:
        ablate.main([*command, "--only", "without_sense"])
    assert caught.value.code == 2
    assert "no variant 'without_sense'; there are recipe, without_generated" in capsys.readouterr().err


def test_unknown_setting_is_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And an exit code, not a traceback."""
    assert ablate.main([*command, "--train.epoch", "2"]) == 78
    assert "unknown key 'train.epoch'" in capsys.readouterr().err
