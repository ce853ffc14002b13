"""Real clips: ``avffd`` on a sample of them here, ``tools/score_all.py`` on all of them by hand."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.avffd import avffd, environment
from tests.support.engine import DEMO

TOOL = Path(__file__).parents[2] / "tools" / "score_all.py"
DATA = os.environ.get("AVFF_DATA", "")
SAMPLE = 6
LENGTHS_S = (4.0, 12.0)


def _score_all(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )


def _sample() -> list[Path]:
    """Return clips of ordinary length, evenly spread over the manifest."""
    with (Path(DATA) / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if LENGTHS_S[0] <= float(r["duration_s"]) <= LENGTHS_S[1]]
    return [Path(DATA) / rows[k * len(rows) // SAMPLE]["path"] for k in range(SAMPLE)]


@pytest.mark.clips
@pytest.mark.skipif(not DATA, reason="needs clips: set AVFF_DATA")
def test_real_clips_are_scored(model_args: list[str]) -> None:
    """Clips of 4 s and more end well, and nearly all of them yield a score."""
    yielding = 0
    for path in _sample():
        done = avffd("--source", path, *model_args)
        assert (done.code, done.complaints, done.summary["ended"]) == (0, [], "end"), path
        assert all((event["score"] is None) != (event["reason"] is None) for event in done.scores)
        yielding += any(event["score"] is not None for event in done.scores)
    assert yielding >= SAMPLE - 1


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("claimed_s", "code"), [("0.5", 0), ("5.0", 1)], ids=["short", "long"])
def test_score_all_lists_what_has_no_score(
    tmp_path: Path, model_args: list[str], claimed_s: str, code: int
) -> None:
    """A clip without a score is named with its reason; it fails the run if it should have had one."""
    shutil.copy(DEMO, tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_text("no film")
    rows = ["path,duration_s", "good.mp4,13.76", f"bad.mp4,{claimed_s}"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    done = _score_all(tmp_path, "--workers", 1, *model_args)
    assert done.returncode == code, done
    report = done.stdout.splitlines()
    assert report[0].split() == ["clips", "2"]
    assert report[1].split()[-1] == "0"
    assert "bad.mp4" in report[-1]
    assert "not readable as audio or video" in report[-1]


def test_score_all_names_a_missing_manifest(tmp_path: Path) -> None:
    """One line with the way out, and a code of its own."""
    done = _score_all(tmp_path / "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "nope/manifest.csv" in done.stderr
    assert "AVFF_DATA" in done.stderr
