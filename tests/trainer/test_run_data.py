"""Which clips train, which validate and which judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avff.engine.errors import SettingsError
from avff.trainer.commands import exit_code_of
from avff.trainer.config import DataSettings, RunSettings
from avff.trainer.data.manifest import Clip
from avff.trainer.data.splits import LeakError, Split, SplitError, group_of
from avff.trainer.datasets import DatasetError
from avff.trainer.pipeline import carry_out
from avff.trainer.run_data import RunData, check_places, divide, load_data
from tests.support.training import fill_cache, make_clip, write_manifest

CLIPS = (
    [make_clip(f"{name}.mp4", identity=name) for name in "abcd"]
    + [make_clip(f"f{k}.mp4", label=1, generator="F", label_video=1) for k in range(2)]
    + [make_clip(f"g{k}.mp4", label=1, generator="G", label_video=1) for k in range(2)]
)
JUDGES = [make_clip("j0.mp4", split="dev"), make_clip("j1.mp4", label=1, generator="J", split="dev")]


def settings_of(output: Path, *, root: Path | None) -> RunSettings:
    places = {"root": root, "workers": 1, "validation_share": 0.5, "held_out_generators": ["G"]}
    return RunSettings.model_validate(
        {"name": "tiny", "output": output / "runs", "data": places, "mix": {"self_blend": 1.0}}
    )


def errors_of(settings: RunSettings) -> str:
    """What ``load_data`` says of settings or data that are not fit."""
    with pytest.raises((SettingsError, SplitError)) as caught:
        load_data(settings)
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_no_data_root_names_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting and the environment variable."""
    monkeypatch.delenv("AVFF_DATA", raising=False)
    assert errors_of(settings_of(tmp_path, root=None)) == (
        "SettingsError: no data: set data.root in the configuration or AVFF_DATA in the environment"
    )


@pytest.mark.parametrize("judges", [[], JUDGES[:1], JUDGES[1:]], ids=["none", "genuine", "generated"])
def test_judges_of_one_class_are_refused_before_the_data(tmp_path: Path, judges: list[Clip]) -> None:
    """A model that nobody can judge is not trained first."""
    write_manifest(tmp_path, [*CLIPS, *judges])
    assert errors_of(settings_of(tmp_path, root=tmp_path)) == (
        "SplitError: split 'dev' needs genuine and generated clips to judge by"
    )


def test_unreadable_clip_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training goes on without it; it is neither silent nor a clip of zeros."""
    write_manifest(tmp_path, [*CLIPS, *JUDGES])
    fill_cache(tmp_path / "runs" / "cache", [c for c in CLIPS if c.uid != "a.mp4"])
    found = load_data(settings_of(tmp_path, root=tmp_path))
    used = {c.uid for c in (*found.split.train, *found.split.validation)}
    assert used == {c.uid for c in CLIPS} - {"a.mp4"}
    assert [c.uid for c in found.judges] == ["j0.mp4", "j1.mp4"]
    assert "avff-train: left out a.mp4: " in capsys.readouterr().err


def test_too_many_unreadable_clips_are_an_error(tmp_path: Path) -> None:
    """When a class is gone after preparation the run stops with the count, not in the middle."""
    write_manifest(tmp_path, [*CLIPS, *JUDGES])
    fill_cache(tmp_path / "runs" / "cache", [c for c in CLIPS if c.generator != "F"])
    assert errors_of(settings_of(tmp_path, root=tmp_path)) == (
        "SplitError: train has 2 genuine and 0 generated clips; it needs both"
    )


def population() -> list[Clip]:
    """Forty sources, each with one genuine clip and four that were made of it."""
    clips = []
    for k in range(40):
        clips.append(make_clip(f"{k}.mp4"))
        clips += [make_clip(f"{k}-{g}.mp4", label=1, generator=g, paired_real=f"{k}.mp4") for g in "ABCD"]
    return clips


def test_groups_are_divided_in_three(capsys: pytest.CaptureFixture[str]) -> None:
    """A fifth judges, a fifth of the rest validates, siblings stay together, unlabelled ones are left out."""
    clips = [*population(), Clip("unknown.mp4", "unknown.mp4", "test", None)]
    split, judges = divide(clips, DataSettings(split="groups"), 0)
    assert [len(x) for x in (split.train, split.validation, judges)] == [130, 30, 40]
    groups = group_of(clips)
    sides = [{groups[c.uid] for c in side} for side in (split.train, split.validation, judges)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert capsys.readouterr().err == "avff-train: left out 1 clips without a label\n"


def test_person_who_judges_does_not_train(capsys: pytest.CaptureFixture[str]) -> None:
    """Lists that put one person in training and in judging are mended, aloud."""
    judges = [make_clip("j0.mp4", identity="a", split="dev"), *JUDGES[1:]]
    data = DataSettings(validation_share=0.4, held_out_generators=["G"])
    split, _ = divide([*CLIPS, *judges], data, 0)
    assert "a.mp4" not in {c.uid for c in (*split.train, *split.validation)}
    assert "left out a.mp4: j0.mp4, which judges, shows the same person" in capsys.readouterr().err


def test_official_lists_are_followed() -> None:
    """Training, validation and judging by the dataset's own names."""
    clips = [
        make_clip(f"{split}{label}{k}.mp4", label=label, generator="A" * label, split=split)
        for split in ("train", "val", "test")
        for label in (0, 1)
        for k in range(3)
    ]
    data = DataSettings(split="official", validation_split="val", judge_split="test")
    split, judges = divide(clips, data, 0)
    assert {c.split for c in split.train} == {"train"}
    assert {c.split for c in split.validation} == {"val"}
    assert {c.split for c in judges} == {"test"}


def test_leak_between_official_lists_names_both_clips() -> None:
    """A person in the training and in the validation list is refused."""
    clips = [
        make_clip("one.mp4", identity="p"), make_clip("x.mp4", label=1, generator="A"),
        make_clip("two.mp4", identity="p", split="val"),
        make_clip("y.mp4", label=1, generator="A", split="val"),
        make_clip("z.mp4", split="test"), make_clip("w.mp4", label=1, generator="A", split="test"),
    ]  # fmt: skip
    data = DataSettings(split="official", validation_split="val", judge_split="test")
    with pytest.raises(SplitError, match=r"two\.mp4 \(validation\) and one\.mp4 \(train\) share a person"):
        divide(clips, data, 0)


@pytest.mark.parametrize("listed", ["train", "val"])
@pytest.mark.parametrize("tie", ["a person", "footage"])
def test_official_lists_that_leak_into_the_judges_are_refused(listed: str, tie: str) -> None:
    """Exit code 2 with both names: published figures on such lists mean nothing."""
    clips = [
        make_clip(f"{split}{label}.mp4", label=label, generator="A" * label, split=split)
        for split in ("train", "val", "test")
        for label in (0, 1)
    ]
    shared: dict[str, Any] = {"identity": "p"} if tie == "a person" else {"paired_real": "test0.mp4"}
    clips.append(make_clip("leak.mp4", label=1, generator="A", split=listed, **shared))
    if tie == "a person":
        clips.append(make_clip("judge.mp4", identity="p", split="test"))
    judge = "judge.mp4" if tie == "a person" else "test0.mp4"
    data = DataSettings(split="official", validation_split="val", judge_split="test")
    with pytest.raises(LeakError) as caught:
        divide(clips, data, 0)
    assert str(caught.value).startswith(
        f"leak.mp4 ({listed}) and {judge} (test), which judges, share {tie}: these official lists leak"
    )
    assert exit_code_of(caught.value) == 2


def test_root_without_the_clips_is_refused_before_training(tmp_path: Path) -> None:
    """Training needs the prepared clips only: a wrong root would show when they are judged."""
    split = Split(tuple(CLIPS[:5]), tuple(CLIPS[5:]))
    data = RunData(tmp_path, None, fill_cache(tmp_path / "cache", CLIPS), split, tuple(JUDGES))
    for clip in split.validation:
        (tmp_path / clip.path).write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        check_places(data)
    assert str(caught.value) == (
        f"{tmp_path}: holds no j0.mp4 (2 of the 5 clips that validate or judge are missing); "
        "set data.root or AVFF_DATA to the folder the clips lie in"
    )
    assert exit_code_of(caught.value) == 65
    with pytest.raises(DatasetError):
        carry_out(settings_of(tmp_path, root=tmp_path), data, "avff-train", dry=True)
    assert not (tmp_path / "runs").exists()
    for clip in JUDGES:
        (tmp_path / clip.path).write_bytes(b"")
    check_places(data)
