"""Fitting: a run is exact from its seed, and goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from avff.engine.errors import SettingsError
from avff.trainer.config import RunSettings
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import Split, SplitError
from avff.trainer.data.windows import Batch, TrainingWindows
from avff.trainer.run import RunData, describe_split, fit, load_data, load_network
from tests.support.training import fill_cache, make_clip, write_manifest

pytestmark = [
    # Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
CLIPS = (
    [make_clip(f"{name}.mp4", identity=name) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", label_video=1) for k in range(2)]
)
SIDES = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))


def make_settings(
    output: Path, *, epochs: int = 1, workers: int = 0, change: Mapping[str, object] | None = None
) -> RunSettings:
    values: dict[str, object] = {
        "name": "tiny",
        "output": output,
        "data": {"workers": workers},
        "mix": {"self_blend": 1.0, "freeze": 1.0},
        "model": {"width": 16, "heads": 2, "depth": 1},
        "encoders": {"epochs": 1, "slices_per_epoch": 4, "batch": 2},
        "train": {
            "epochs": epochs,
            "windows_per_epoch": 4,
            "batch": 2,
            "validation_windows": 1,
            "precision": "32-true",
            "post_chain": 0.0,
        },
    }
    return RunSettings.model_validate({**values, **(change or {})})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    root = tmp_path_factory.mktemp("data")
    return RunData(root, root / "manifest.csv", fill_cache(root / "cache", CLIPS), SIDES, ())


def errors_of(settings: RunSettings) -> str:
    """What ``load_data`` says of settings or data that are not fit."""
    with pytest.raises((SettingsError, SplitError)) as caught:
        load_data(settings)
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def weights(settings: RunSettings, checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_network(settings, checkpoint).state_dict()


def test_run_is_exact_from_its_seed_and_goes_on_where_it_stopped(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker processes do not change the weights; a resumed run draws the windows of its own epochs."""
    alone, helped = make_settings(tmp_path / "a"), make_settings(tmp_path / "b", workers=1)
    first = weights(alone, fit(alone, data, tmp_path / "a"))
    second = weights(helped, fit(helped, data, tmp_path / "b"))
    assert all(torch.equal(second[name], value) for name, value in first.items())

    drawn = tmp_path / "drawn.jsonl"
    original = TrainingWindows.__getitem__

    def note(self: TrainingWindows, index: int) -> Batch:
        with drawn.open("a") as file:
            file.write(json.dumps([self.epoch, index]) + "\n")
        return original(self, index)

    monkeypatch.setattr(TrainingWindows, "__getitem__", note)
    longer = make_settings(tmp_path / "b", epochs=3, workers=1)
    best = fit(longer, data, tmp_path / "b")
    items = [json.loads(line) for line in drawn.read_text().splitlines()]
    assert sorted(items) == [[epoch, index] for epoch in (1, 2) for index in range(4)]

    drawn.unlink()
    assert fit(longer, data, tmp_path / "b") == best
    assert not drawn.exists()


def test_split_is_described() -> None:
    """Counts of genuine clips and of each generator, on either side."""
    assert describe_split(SIDES) == [
        "train: 2 genuine, 2 generated (F 2)",
        "validation: 2 genuine, 2 generated (G 2)",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mix": {"lip_swop": 1.0}}, "mix: unknown kind 'lip_swop'; known: generated, audio_swap, desync"),
        ({"mix": {"real": 1.0}}, "mix: unknown kind 'real'"),
        ({"mix": {"vocoder": 1.0}}, "mix: the encoders learn from generated, self_blend, lip_swap"),
        ({"mix": {"lip_swap": 0.0}}, "mix: the encoders learn from"),
        ({"model": {"width": 130}}, "model.width (130) is no multiple of model.heads (4)"),
        ({"encoders": {"slices_per_epoch": 8}}, "encoders.slices_per_epoch is 8, less than one batch of 64"),
        ({"train": {"windows_per_epoch": 8}}, "train.windows_per_epoch is 8, less than one batch of 32"),
        ({}, "no data: set data.root in the configuration or AVFF_DATA in the environment"),
    ],
    ids=["misspelt", "real", "sound-only", "no-share", "heads", "slices", "windows", "no-root"],
)
def test_settings_that_do_not_fit_are_refused_before_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    """One line names the key, before a manifest is read or a clip decoded."""
    monkeypatch.delenv("AVFF_DATA", raising=False)
    assert errors_of(make_settings(tmp_path, change=change)).startswith(f"SettingsError: {words}")


JUDGES = [make_clip("j0.mp4", split="dev"), make_clip("j1.mp4", label=1, generator="J", split="dev")]


def data_settings(root: Path) -> RunSettings:
    places = {"root": root, "workers": 1, "validation_share": 0.5, "held_out_generators": ["G"]}
    return make_settings(root / "runs", change={"data": places})


@pytest.mark.parametrize("judges", [[], JUDGES[:1], JUDGES[1:]], ids=["none", "genuine", "generated"])
def test_judges_of_one_class_are_refused_before_the_data(tmp_path: Path, judges: list[Clip]) -> None:
    """A model that nobody can judge is not trained first."""
    write_manifest(tmp_path, [*CLIPS, *judges])
    found = errors_of(data_settings(tmp_path))
    assert found.startswith("SplitError: split 'dev' of ")
    assert found.endswith("needs genuine and generated clips")


def test_unreadable_clip_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training goes on without it; it is neither silent nor a clip of zeros."""
    write_manifest(tmp_path, [*CLIPS, *JUDGES])
    fill_cache(tmp_path / "runs" / "cache", [c for c in CLIPS if c.uid != "a.mp4"])
    found = load_data(data_settings(tmp_path))
    used = {c.uid for c in (*found.split.train, *found.split.validation)}
    assert used == {c.uid for c in CLIPS} - {"a.mp4"}
    assert [c.uid for c in found.judges] == ["j0.mp4", "j1.mp4"]
    assert "avff-train: left out a.mp4: " in capsys.readouterr().err


def test_too_many_unreadable_clips_are_an_error(tmp_path: Path) -> None:
    """When a class is gone after preparation the run stops with the count, not in the middle."""
    write_manifest(tmp_path, [*CLIPS, *JUDGES])
    fill_cache(tmp_path / "runs" / "cache", [c for c in CLIPS if c.generator != "F"])
    assert errors_of(data_settings(tmp_path)) == (
        "SplitError: train has 2 genuine and 0 generated clips; it needs both"
    )
