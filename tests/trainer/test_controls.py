"""Controls of a result: an unseen generator, shuffled labels, facts without content."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from avff.engine.spec import SPEC
from avff.trainer import control_runs, controls, label_shuffle
from avff.trainer.cli import main
from avff.trainer.config import RunSettings
from avff.trainer.controls import leave_one_generator_out
from avff.trainer.data.entry import encode
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key
from avff.trainer.data.splits import Split, group_of
from avff.trainer.facts import clip_facts, facts_control, sound_facts
from avff.trainer.label_shuffle import DEALS, shuffle_labels, turn_labels
from avff.trainer.motion_stage import MotionSettings
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import Epoch, append_epoch
from avff.trainer.run_data import RunData
from avff.trainer.stages import FINAL
from tests.support.training import make_clip, make_prepared

CLIPS = (
    [make_clip(f"{name}.mp4", identity=name, duration_s=2.56) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", duration_s=2.56) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", duration_s=2.56) for k in range(2)]
)
SIDES = Split((*CLIPS[:2], *CLIPS[4:6]), (*CLIPS[2:4], *CLIPS[6:8]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """Eight clips that differ in their first half second: silent in the generated ones."""
    root = tmp_path_factory.mktemp("data")
    prepared = make_prepared(0, windows=1)
    loud = np.full_like(prepared.audio, 0.1)
    late = np.where(np.arange(len(loud)) < SPEC.context_samples + SPEC.rate_hz // 2, 0, loud)
    with ShardWriter(root / "cache", shard_bytes=1 << 30) as writer:
        for clip in CLIPS:
            sound = late if clip.label else loud
            files = encode(dataclasses.replace(prepared, audio=sound.astype(np.float32)), "bmp", {})
            writer.add(entry_key(clip.sha256, "bmp"), files, "bmp")
    return RunData(root, None, ShardStore(root / "cache", CLIPS), SIDES, ())


def make_settings(output: Path, epochs: int = 1) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": "tiny",
            "output": output,
            "data": {"workers": 0, "validation_share": 0.5},
            "mix": {"self_blend": 1.0},
            "model": {"width": 16, "heads": 2, "depth": 1},
            "encoders": None,
            "train": {
                "epochs": epochs, "windows_per_epoch": 2, "batch": 2, "validation_windows": 2,
                "frozen_encoders": False,
            },
        }
    )  # fmt: skip


class ScriptedFit:
    """Stands for training: keeps what it is given, and writes scripted AUCs of generated windows."""

    def __init__(self, figures: Sequence[float]) -> None:
        self._figures = figures
        self.given: list[tuple[RunSettings, Split]] = []

    def __call__(self, settings: RunSettings, data: RunData, paths: RunPaths) -> None:
        self.given.append((settings, data.split))
        paths.outputs.mkdir(parents=True)
        for number, figure in enumerate(self._figures):
            append_epoch(paths.history, Epoch(FINAL, number, {"auc/generated": figure}))


def test_each_generator_is_left_out_in_turn(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains nothing and is all that validates; the figure is the one after the last epoch."""
    script = ScriptedFit([0.9, 0.7])
    monkeypatch.setattr(control_runs, "fit", script)
    rows = leave_one_generator_out(make_settings(tmp_path), data)
    assert [(r.generator, r.clips, r.auc, r.obstacle) for r in rows] == [("F", 2, 0.7, ""), ("G", 2, 0.7, "")]
    for row, (_, split) in zip(rows, script.given, strict=True):
        assert {c.generator for c in split.validation if c.label} == {row.generator}
        assert row.generator not in {c.generator for c in split.train}
        assert not set(group_of(split.train).values()) & set(group_of(split.validation).values())
    assert len({settings.name for settings, _ in script.given}) == 2


def test_only_generator_cannot_be_left_out(data: RunData, tmp_path: Path) -> None:
    """The row says why there is no figure."""
    alone = dataclasses.replace(data, split=Split(SIDES.train, SIDES.validation[:2]))
    (row,) = leave_one_generator_out(make_settings(tmp_path), alone)
    assert math.isnan(row.auc)
    assert row.obstacle.startswith("train has")


def family(number: int) -> list[Clip]:
    """A genuine clip and a fake of it, which are one group."""
    genuine = make_clip(f"{number}.mp4", identity=f"p{number}")
    fake = make_clip(f"{number}-f.mp4", label=1, generator="F", identity=f"p{number}", label_video=1)
    return [genuine, fake]


def test_shuffled_labels_keep_their_numbers_and_lose_their_meaning() -> None:
    """Also where every group holds one clip of each class; what a clip shows is as it was."""
    clips = [clip for number in range(40) for clip in family(number)]
    shuffled = shuffle_labels(clips, 0)
    assert [c.uid for c in shuffled] == [c.uid for c in clips]
    assert [c.identities for c in shuffled] == [c.identities for c in clips]
    assert sum(c.is_fake for c in shuffled) == 40
    kept = sum(a.label == b.label for a, b in zip(clips, shuffled, strict=True))
    assert 20 < kept < 60
    assert all(c.generators == (("F",) if c.label else ()) for c in shuffled)
    assert shuffled == shuffle_labels(clips, 0)
    assert shuffled != shuffle_labels(clips, 1)


def test_turned_labels_are_the_opposite_ones() -> None:
    """With a tool where there is one to name; what a clip shows is as it was."""
    clips = [clip for number in range(3) for clip in family(number)]
    turned = turn_labels(clips, 0)
    assert [(c.uid, c.label, c.generators) for c in turned] == [
        (c.uid, int(not c.label), () if c.label else ("F",)) for c in clips
    ]


def test_labels_of_one_person_stay_together() -> None:
    """People with ten clips of one class each still have one class each."""
    clips = [
        make_clip(f"{p}-{k}.mp4", label=p % 2, generator="F" * (p % 2), identity=f"p{p}")
        for p in range(8)
        for k in range(10)
    ]
    shuffled = shuffle_labels(clips, 3)
    assert all(len({c.label for c in shuffled[10 * p : 10 * p + 10]}) == 1 for p in range(8))
    assert [c.label for c in shuffled] != [c.label for c in clips]


# Lightning 2.6 uses what torch 2.14 deprecates, and gives advice on worker processes.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_label_shuffle_trains_and_is_not_trained_again(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures come out of real runs, and again out of what those have left."""
    settings = make_settings(tmp_path)
    monkeypatch.setattr(label_shuffle, "DEALS", 1)
    rows = label_shuffle.label_shuffle(settings, data)
    assert [(row.seed, row.turned) for row in rows] == [
        (settings.train.seed, False),
        (settings.train.seed, True),
    ]
    assert all(0 <= row.aucs["fusion"] <= 1 for row in rows)
    monkeypatch.setattr(label_shuffle, "shuffle_labels", lambda clips, seed: tuple(clips))
    assert label_shuffle.label_shuffle(settings, data) == rows


def test_label_shuffle_has_no_pseudo_fakes(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their labels are true: a network would learn from them; nor has the motion head any."""
    script = ScriptedFit([0.4])
    monkeypatch.setattr(control_runs, "fit", script)
    plain = make_settings(tmp_path)
    model = dataclasses.replace(plain.model, motion=True)
    settings = plain.model_copy(update={"model": model, "motion": MotionSettings()})
    assert [row.aucs for row in label_shuffle.label_shuffle(settings, data)] == [{"fusion": 0.4}] * 2 * DEALS
    for given, split in script.given:
        assert given.mix == {"generated": 1.0}
        assert given.motion is not None
        assert given.motion.mix == {"generated": 1.0}
        assert {c.uid for c in split.train} == {c.uid for c in SIDES.train}
    assert len({given.name for given, _ in script.given}) == 2 * DEALS
    for (one, dealt), (other, turned) in zip(script.given[::2], script.given[1::2], strict=True):
        assert one.train.seed == other.train.seed
        assert dealt.validation == turned.validation
        assert [c.label for c in dealt.train] == [1 - (c.label or 0) for c in turned.train]


def test_sound_facts_are_leading_silence_and_loudness() -> None:
    """Half a second of silence, then half a second at an amplitude of 0.1: -20 dBFS less 3 dB."""
    sound = np.full(SPEC.context_samples + SPEC.rate_hz, 0.1, np.float32)
    sound[: SPEC.context_samples + SPEC.rate_hz // 2] = 0
    leading_s, loudness_dbfs = sound_facts(sound)
    assert leading_s == 0.5
    assert loudness_dbfs == pytest.approx(-23.01, abs=0.01)
    assert sound_facts(np.zeros_like(sound)) == (1.0, -120.0)


def test_file_facts_are_unknown_without_the_file(data: RunData, tmp_path: Path) -> None:
    """With it, its size in bytes and its bit rate in bit/s."""
    codecs = ["", "h264"]
    clip = dataclasses.replace(CLIPS[0], codec_video="h264")
    assert np.isnan(clip_facts(clip, data.store, tmp_path, codecs)[7:9]).all()
    (tmp_path / clip.path).write_bytes(bytes(320))
    facts = clip_facts(clip, data.store, tmp_path, codecs)
    assert facts[5:9] == [1.0, 0.0, 320.0, pytest.approx(1000.0)]


def test_facts_give_generated_clips_away_by_their_silence(data: RunData) -> None:
    """Nothing else tells these clips apart."""
    assert facts_control(data).value == 1.0


def test_control_is_a_flag_of_the_trainer(
    data: RunData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes a page among the run's outputs."""
    monkeypatch.setattr(controls, "load_data", lambda settings: data)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(make_settings(tmp_path).model_dump(mode="json")))
    assert main(["--config", str(config), "--control", "metadata"]) == 0
    page = (tmp_path / "outputs" / "tiny" / "control-metadata.md").read_text()
    assert "leading silence and loudness: 1.000" in page
    monkeypatch.setattr(control_runs, "fit", ScriptedFit([0.62]))
    assert main(["--config", str(config), "--control", "leave-one-out"]) == 0
    page = (tmp_path / "outputs" / "tiny" / "control-leave-one-out.md").read_text()
    assert "| G | 2 | 0.620 |  |" in page
    assert main(["--config", str(config), "--control", "label-shuffle"]) == 0
    page = (tmp_path / "outputs" / "tiny" / "control-label-shuffle.md").read_text()
    assert "| 1, turned | 0.620 |" in page
    assert "| mean | 0.620 |" in page
    assert "**Not** within 0.5 ± 0.1: fusion." in page
