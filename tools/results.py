"""Make every table and figure of docs/results/ that concerns the embedded model, and what quotes them.

    AVFF_DATA=../shared/data python -m tools.results
    python -m tools.results --limit 12 --sweep-clips 4 --into trial --work trial/work   # a trial
    python -m tools.results --run runs/outputs/avff-s --only training,quotes   # the report of its training

Judges the ``dev`` clips with the embedded model, clean, as twins and under perturbations; writes the pages,
their JSON and pictures, and the marked regions of README.md and docs/model-card.md.  Scores are kept under
runs/results, so the same command again judges nothing.  Ends with the exit code of avff-evaluate.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from avff.trainer.evaluate_cli import main as evaluate
from tools import score_all
from tools.results_pages import (
    data_counts,
    publish_evaluation,
    publish_run,
    quote,
    write_failures,
    write_json,
)

ROOT = Path(__file__).resolve().parents[1]
SPLIT = "dev"
CELLS = (
    "h264@300", "h264@150", "vp8@300", "vp8@150", "opus@12", "frame-rate@15", "loss@5", "blur@13",
    "picture-noise@0.005", "sound-noise@10", "resize@240", "av-offset@80",
)  # fmt: skip
SWEEP_CLIPS = 60
"""Of some 180: with all of them the sweep alone would take longer than half an hour on two cores."""
PIECES = ("evaluation", "failures", "all-clips", "training", "quotes")


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the pieces, and return the exit code."""
    options = _parser().parse_args(argv)
    unknown = sorted(set(options.only) - set(PIECES))
    if unknown or not (options.data / "manifest.csv").is_file():
        what = f"no piece {unknown[0]!r}" if unknown else f"{options.data}: no manifest.csv; set AVFF_DATA"
        sys.stderr.write(f"results: {what}\n")
        return 2
    results = _prepare(options.into, options.only)
    if {"evaluation", "failures"} & set(options.only):
        code = evaluate(_arguments(options))
        if code:
            return code
    if "evaluation" in options.only:
        publish_evaluation(options.work, results, data=options.data)
        write_json(results / "data.json", data_counts(options.data / "manifest.csv"))
    if "failures" in options.only:
        write_failures(options.work, results)
    if "all-clips" in options.only:
        (results / "all-clips.md").write_text(_all_clips(options), encoding="utf-8")
    if "training" in options.only and options.run is not None:
        publish_run(options.run, results)
    if "quotes" in options.only:
        quote(options.into)
    sys.stderr.write(f"results: in {results}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    data = Path(os.environ.get("AVFF_DATA") or ROOT.parent / "shared" / "data")
    add("--data", type=Path, default=data, help="folder of manifest.csv ($AVFF_DATA, or ../shared/data)")
    add("--into", type=Path, default=ROOT, metavar="TREE", help="tree that is written to (this one)")
    add("--work", type=Path, default=ROOT / "runs" / "results", help="where scores are kept")
    add("--run", type=Path, help="outputs of the training run whose report is to be published")
    add("--only", type=lambda text: text.split(","), default=list(PIECES), help=",".join(PIECES))
    add("--sweep-clips", type=int, default=SWEEP_CLIPS, metavar="N", help=f"clips a cell ({SWEEP_CLIPS})")
    add("--limit", type=int, metavar="N", help="a trial on N clips, chosen as the sweep chooses")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    return parser


def _prepare(tree: Path, only: Sequence[str]) -> Path:
    """Return the folder of results in a tree; one elsewhere gets copies of the documents that quote them."""
    results = tree / "docs" / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "docs/model-card.md"):
        if "quotes" in only and tree.resolve() != ROOT:
            shutil.copy(ROOT / name, tree / name)
    return results


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of ``avff-evaluate``."""
    manifest = options.data / "manifest.csv"
    if options.limit is not None:
        manifest = _some(manifest, options.limit, options.work)
    return [
        "default", "--manifest", str(manifest), "--data", str(options.data), "--split", SPLIT, "--windows",
        "--controls", "--sweep", ",".join(CELLS), "--clips", str(options.sweep_clips),
        "--workers", str(options.workers), "-o", str(options.work),
    ]  # fmt: skip


def _some(manifest: Path, count: int, work: Path) -> Path:
    """Write a manifest of ``count`` judging clips, and return its path."""
    from avff.trainer.data.manifest import write_manifest
    from avff.trainer.datasets.table import read_table
    from avff.trainer.sweep import stratified

    clips = [c for c in read_table(manifest) if c.split == SPLIT]
    work.mkdir(parents=True, exist_ok=True)
    write_manifest(work / "some.jsonl", stratified(clips, count, seed=0))
    return work / "some.jsonl"


def _all_clips(options: argparse.Namespace) -> str:
    """Start the daemon once for every clip, and say what became of them."""
    clips = score_all.spread(score_all.read_clips(options.data), options.limit)
    judge = partial(score_all.score, root=options.data, model=None)
    with ThreadPoolExecutor(options.workers) as pool:
        report, _ = score_all.summarise(list(pool.map(judge, clips)))
    return (
        "# Every clip through the daemon\n\n`tools/score_all.py` starts `avffd` once for each of the "
        f"{len(clips)} clips at hand (training and judging).\n\n```\n{report}\n```\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
