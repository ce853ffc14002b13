"""``avff-prepare``: one command from a dataset to a folder that training opens; errors are one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avff.engine.spec import SPEC
from avff.trainer.data import folder
from avff.trainer.data.folder import open_prepared
from avff.trainer.data.manifest import read_manifest
from avff.trainer.data.shard_index import ShardError
from avff.trainer.prepare_cli import main
from tests.support.training import make_clip, talking_clip, write_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two clips: one talks, the other is no film."""
    made = tmp_path_factory.mktemp("data")
    talking_clip(made / "good.mp4", seconds=0.96)
    (made / "text.mp4").write_text("this is no film\n" * 100)
    clips = []
    for name, label in (("good.mp4", 0), ("text.mp4", 1)):
        sha256 = hashlib.sha256((made / name).read_bytes()).hexdigest()
        clips.append(dataclasses.replace(make_clip(name, label=label, identity="x"), sha256=sha256))
    write_manifest(made, clips)
    return made


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root as JPEG, half of the clips allowed to be bad."""
    out = tmp_path_factory.mktemp("prepared")
    options = ["--workers", "1", "--picture", "jpeg", "--max-bad", "0.5"]
    assert main(["table", str(root), "-o", str(out), *options]) == 0
    return out


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what is said at the end, on one line."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stopped:
        code = int(str(stopped.code))
    return code, capsys.readouterr().err.splitlines()[-1]


def test_folder_opens_without_the_footage(prepared: Path) -> None:
    """Rows as the dataset has them with container facts, and the codec that was chosen."""
    clips, store = open_prepared(prepared)
    assert clips == read_manifest(prepared / "manifest.jsonl")
    [clip] = clips
    assert (clip.uid, clip.label, clip.identities, clip.codec_video) == ("good.mp4", 0, ("x",), "h264")
    assert clip.duration_s == 5.12  # what the table states is believed
    found = store.cut("good.mp4", 0, SPEC.slice_frames)
    assert found.faces.shape == (SPEC.slice_frames, SPEC.face_px, SPEC.face_px, 3)
    assert found.faces.any()
    assert np.isfinite(found.landmarks).all()
    assert json.loads((prepared / "prepared.json").read_text())["picture"] == "jpeg"


def test_too_many_bad_clips_end_with_65(
    root: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One per cent unless said otherwise; the file with the reasons is named, and is there."""
    code, line = outcome(capsys, "table", root, "-o", prepared, "--workers", "1", "--picture", "jpeg")
    where = prepared / "bad_samples.jsonl"
    assert (code, line) == (
        65, f"avff-prepare: 1 of 2 clips cannot be prepared, more than 1.00%; {where} says why",
    )  # fmt: skip
    [row] = map(json.loads, where.read_text().splitlines())
    assert row["uid"] == "text.mp4"


def test_folder_of_another_preprocessing_is_refused(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its crops are not what this program would feed the network: one line says what to do."""
    monkeypatch.setattr(folder, "SPEC", dataclasses.replace(SPEC, revision=SPEC.revision + 1))
    with pytest.raises(
        ShardError, match=r"was prepared by other preprocessing \(.*; run avff-prepare again$"
    ):
        open_prepared(prepared)


def test_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """Shards alone are no preparation: the run that writes them was stopped, or is still at it."""
    with pytest.raises(ShardError, match=f"^{tmp_path}: holds no finished preparation; run avff-prepare"):
        open_prepared(tmp_path)


def test_unknown_dataset_ends_with_65(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line offers the nearest name."""
    code, line = outcome(capsys, "tabel", tmp_path, "-o", tmp_path / "out")
    assert code == 65
    assert line.startswith("avff-prepare: ")
    assert "did you mean 'table'?" in line


def test_folder_that_cannot_be_written_ends_with_74(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here its parent is a file."""
    out = root / "text.mp4" / "out"
    code, line = outcome(capsys, "table", root, "-o", out)
    told = f"avff-prepare: {out}: Not a directory; mend that and run the same command to go on"
    assert (code, line) == (74, told)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table"], "ROOT"),
        (["table", "x"], "-o/--out"),
        (["table", "x", "-o", "y", "--workers", "0"], "0 is less than 1"),
        (["table", "x", "-o", "y", "--max-bad", "2"], "2 is not between 0 and 1"),
        (["table", "x", "-o", "y", "--shard-mb", "0"], "0 is not above 0"),
        (["table", "x", "-o", "y", "--picture", "gif"], "invalid choice: 'gif'"),
    ],
    ids=["no-root", "no-out", "workers", "share", "shards", "picture"],
)
def test_wrong_usage_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """As every command line tool has it."""
    code, line = outcome(capsys, *arguments)
    assert code == 2
    assert words in line


def test_missing_packages_name_the_extra_and_help_needs_none() -> None:
    """An installation without the trainer's libraries is told how to get them."""
    program = (
        "import sys; sys.modules['tqdm'] = None\n"
        "from avff.trainer.prepare_cli import main\n"
        "code = main(['table', 'x', '-o', 'y'])\n"
        "try: main(['--help'])\n"
        "finally: sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 69
    assert done.stderr == "avff-prepare: tqdm is not installed; pip install 'avff[train]'\n"
    assert all(str(code) in done.stdout for code in (0, 2, 65, 69, 74, 130))
