"""Clips on two sides that are all but the same: training, validation and judging."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from avff.trainer import controls
from avff.trainer.cli import main
from avff.trainer.config import RunSettings
from avff.trainer.copies import Copies, copies_page, near_copies, with_judges
from avff.trainer.data.entry import encode
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key
from avff.trainer.data.splits import Split
from avff.trainer.run_data import RunData
from tests.support.training import make_clip, make_prepared

CLIPS = {name: make_clip(f"{name}.mp4", identity=name) for name in "abcde"}
FOOTAGE = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}
"""Which footage a clip shows: a and b, c and d are the same under two names."""


def fill(cache: Path, footage: Mapping[str, int]) -> None:
    """Put clips into a cache as preparation leaves them there."""
    with ShardWriter(cache, shard_bytes=1 << 30) as writer:
        for name, number in footage.items():
            files = encode(make_prepared(number, windows=1), "bmp", {})
            writer.add(entry_key(CLIPS[name].sha256, "bmp"), files, "bmp")


def data_of(cache: Path, train: str, validation: str, judges: str, *, stored: str) -> RunData:
    """A run's data with some of the clips in its store."""
    sides = [tuple(CLIPS[name] for name in side) for side in (train, validation, judges)]
    store = ShardStore(cache, [CLIPS[name] for name in stored])
    return RunData(cache, None, store, Split(*sides[:2]), sides[2])


def settings_of(output: Path) -> RunSettings:
    places = {"workers": 0}
    return RunSettings.model_validate(
        {"name": "tiny", "output": output, "data": places, "mix": {"self_blend": 1.0}}
    )


@pytest.mark.parametrize(
    ("sides", "found"),
    [
        (("ac", "be", ""), [("a.mp4", "b.mp4", ("training", "validation"))]),
        (("ae", "c", "bd"), [("a.mp4", "b.mp4", ("training", "judging")),
                             ("c.mp4", "d.mp4", ("validation", "judging"))]),
        (("ab", "cd", "e"), []),
    ],
    ids=["validation", "judging", "same-side"],
)  # fmt: skip
def test_copies_on_two_sides_are_found(
    tmp_path: Path, sides: tuple[str, str, str], found: list[tuple[str, str, tuple[str, str]]]
) -> None:
    """The same footage under two names, and which side each is on; other clips are no pair."""
    fill(tmp_path, FOOTAGE)
    pairs = near_copies(data_of(tmp_path, *sides, stored="abcde"))
    ordered = sorted((*sorted(zip((p.one, p.other), p.sides, strict=True)),) for p in pairs)
    assert ordered == [((one, of[0]), (other, of[1])) for one, other, of in found]
    assert all(pair.distance == 0 for pair in pairs)


def test_judges_are_prepared_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that training did not prepare join its store; one that cannot be is left out and named."""
    fill(tmp_path / "cache", {n: FOOTAGE[n] for n in "abc"})
    before = data_of(tmp_path / "cache", "a", "c", "be", stored="ac")
    with pytest.raises(KeyError):
        near_copies(before)
    after = with_judges(settings_of(tmp_path), before)
    assert [clip.uid for clip in after.judges] == ["b.mp4"]
    assert "left out e.mp4: " in capsys.readouterr().err
    assert [{p.one, p.other} for p in near_copies(after)] == [{"a.mp4", "b.mp4"}]
    # A prepared folder holds every clip already: nothing is looked for.
    settings = settings_of(tmp_path)
    whole = settings.model_copy(
        update={"data": settings.data.model_copy(update={"prepared": tmp_path / "none"})}
    )
    assert with_judges(whole, before) is before


def test_page_says_which_side_each_clip_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command compares judges too, and writes a table; a bar in a name breaks none of it."""
    fill(tmp_path / "cache", FOOTAGE)
    data = data_of(tmp_path / "cache", "ae", "c", "b", stored="aec")
    monkeypatch.setattr(controls, "load_data", lambda settings: data)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings_of(tmp_path).model_dump(mode="json")))
    assert main(["--config", str(config), "--control", "near-copies"]) == 0
    page = (tmp_path / "outputs" / "tiny" / "control-near-copies.md").read_text()
    assert "all but the same: 1.\n" in page
    sides = {"| a.mp4 | training | b.mp4 | judging | 0.00 |", "| b.mp4 | judging | a.mp4 | training | 0.00 |"}
    assert sides & set(page.splitlines())
    assert r"| a\|b | training |" in copies_page([Copies("a|b", "c", ("training", "judging"), 0.1)])
    assert "|" not in copies_page([])
