"""``avff-evaluate``: a model on any labelled clips, whole and by window, clean and perturbed."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avff.trainer.commands import run_command

if TYPE_CHECKING:
    from avff.trainer.data.manifest import Clip
    from avff.trainer.evaluation import KeptJudge
    from avff.trainer.perturb import Perturbation
    from avff.trainer.shortcuts import Shortcuts
    from avff.trainer.sweep import Sweep

_DEFAULT = "default"
_EPILOG = """\
examples:
  avff-evaluate runs/mine/model --dataset fakeavceleb --data /data/FakeAVCeleb -o results
  avff-evaluate default --manifest clips.jsonl --data /data --split dev --windows -o results
  avff-evaluate default --dataset folder --data /data --sweep h264,loss --severity 1,3,5 --clips 40 -o results
  avff-evaluate default --dataset folder --data /data --sweep h264@150,opus@12 --controls -o results

writes predictions.jsonl, evaluation.md, evaluation.json, and windows.jsonl if wanted; scores that the same
model gave to the same files before are taken from the folder "kept" in it.

exit codes: 0 done, 2 wrong usage, 65 data not fit for evaluation, 66 no such model, data or clip,
69 face models not to be had, 70 the inference runtime failed, 74 the results cannot be written,
78 wrong model or option, 130 interrupted (run it again to go on)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, evaluate, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.sweep is None and (options.severity or options.clips):
        parser.error("--severity and --clips say what to sweep over; give --sweep too")
    command = shlex.join(["avff-evaluate", *(sys.argv[1:] if argv is None else argv)])
    return run_command("avff-evaluate", lambda: _run(options, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "avff-evaluate", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Judge a model on labelled clips, through the engine that serves the daemon.",
    )  # fmt: skip
    add = parser.add_argument
    add("model", help=f"directory of an exported model, or {_DEFAULT!r} for the embedded one")
    clips = parser.add_mutually_exclusive_group(required=True)
    clips.add_argument("--dataset", metavar="NAME", help="the clips are a dataset as it lies on disk")
    clips.add_argument("--manifest", type=Path, metavar="FILE", help="the clips are the rows of this file")
    add("--data", type=Path, required=True, metavar="ROOT", help="directory that the clips' paths start from")
    add("--split", help="only clips of this split; all of them unless given")
    add("--windows", action="store_true", help="write every window's score to windows.jsonl too")
    add(
        "--sweep",
        nargs="?",
        const=[],
        type=_names,
        metavar="NAMES",
        help="also under perturbations, given as NAME,NAME or NAME@SEVERITY; all of them unless given",
    )
    add(
        "--severity",
        type=_levels,
        default=[],
        metavar="LEVELS",
        help="only these severities of each perturbation, 1 for the mildest: 1,3,5",
    )
    add(
        "--controls",
        action="store_true",
        help="also without leading silence, all clips encoded alike, and by container facts alone",
    )
    add("--clips", type=_positive, metavar="N", help="sweep over a seeded, stratified choice of N clips")
    add("--seed", type=_whole, default=0, help="of the choice and of the perturbations (0)")
    add("--workers", type=_positive, default=os.cpu_count() or 1, help="processes (one per core)")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="directory for the results")
    return parser  # fmt: skip


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _levels(text: str) -> list[int]:
    return [_positive(word) for word in _names(text)]


def _positive(text: str) -> int:
    if not _whole(text):
        raise argparse.ArgumentTypeError("0 is not above 0")
    return int(text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _run(options: argparse.Namespace, command: str) -> int:
    # Imported here, so that --help does not wait for scikit-learn.
    from avff.engine.faces.models import load_face_models
    from avff.engine.model import load_model
    from avff.trainer.evaluate import judging_pool, save_scores
    from avff.trainer.evaluation import Evaluation, KeptJudge, as_page
    from avff.trainer.evaluation_json import as_json

    cells = _cells(options)
    model = None if options.model == _DEFAULT else Path(options.model)
    if model is not None and not model.exists():
        raise FileNotFoundError(f"{model}: no such model; give the directory that avff-train exported")
    loaded = load_model(model, threads=1)
    loaded.close()
    clips, left_out = _clips(options)
    hashes = _hashes(clips, options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    load_face_models(progress=True)  # fetched once, before the workers ask for them
    with judging_pool(options.workers) as pool:
        kept = options.output / "kept"
        judge = KeptJudge(options.data, model, loaded.contract, hashes, kept, pool, options.seed)
        judged = judge(clips)
        swept = _sweep(options, cells, clips, judge)
        controls = _controls(options, clips, judge) if options.controls else None
    facts = _facts(options, loaded.contract.to_json(), hashes, left_out)
    threshold = loaded.contract.calibration.threshold
    made = Evaluation(loaded.name, command, facts, threshold, clips, judged, swept, controls)
    save_scores(made.scores, options.output / "predictions.jsonl")
    if options.windows:
        save_scores([w for j in judged for w in j.windows], options.output / "windows.jsonl")
    (options.output / "evaluation.json").write_text(as_json(made), encoding="utf-8")
    (options.output / "evaluation.md").write_text(as_page(made), encoding="utf-8")
    _say(f"results in {options.output / 'evaluation.md'}")
    return 0


def _cells(options: argparse.Namespace) -> list[Perturbation]:
    """Return what to sweep over, before anything that takes long; nothing unless asked for."""
    from avff.trainer.perturb import perturbations

    return [] if options.sweep is None else perturbations(options.sweep, options.severity)


def _clips(options: argparse.Namespace) -> tuple[list[Clip], int]:
    """Return the labelled clips of the split, and how many were left out for want of a label.

    Raises:
        ManifestError: no such dataset or manifest, a wrong row, or no labelled clip.
        FileNotFoundError: a clip of the manifest is not there.
    """
    from avff.trainer.data.manifest import ManifestError, read_manifest
    from avff.trainer.datasets import scan
    from avff.trainer.datasets.table import read_table

    if not options.data.is_dir():
        raise FileNotFoundError(f"{options.data}: no such data directory")
    if options.dataset is not None:
        found = scan(options.dataset, options.data)
        listed = found.clips
        for warning in found.warnings:
            _say(warning)
    elif not options.manifest.exists():
        raise FileNotFoundError(f"{options.manifest}: no such manifest")
    else:
        listed = (read_table if options.manifest.suffix == ".csv" else read_manifest)(options.manifest)
    chosen = [c for c in listed if options.split in (None, c.split)]
    clips = [c for c in chosen if c.label is not None]
    if not clips:
        splits = ", ".join(sorted({repr(c.split) for c in listed if c.label is not None})) or "none"
        raise ManifestError(f"no labelled clip to judge; splits with labelled clips: {splits}")
    if len(clips) < len(chosen):
        _say(f"left out {len(chosen) - len(clips)} clips without a label")
    return clips, len(chosen) - len(clips)


def _hashes(clips: Sequence[Clip], root: Path) -> dict[str, str]:
    """Return the SHA-256 of every clip's file, by uid.

    Raises:
        ManifestError: a file is not the one that the manifest describes.
        FileNotFoundError: a file is not there.
    """
    from avff.trainer.data.manifest import ManifestError

    hashes = {}
    for clip in clips:
        path = root / clip.path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such clip; it is listed as {clip.uid!r}")
        with path.open("rb") as file:
            hashes[clip.uid] = hashlib.file_digest(file, "sha256").hexdigest()
        if clip.sha256.lower() not in ("", hashes[clip.uid]):
            raise ManifestError(f"{path}: is not the file that the manifest describes (another SHA-256)")
    return hashes


def _facts(
    options: argparse.Namespace, contract: str, hashes: dict[str, str], left_out: int
) -> dict[str, str]:
    every = "".join(f"{uid} {digest}\n" for uid, digest in sorted(hashes.items()))
    return {
        "clips_from": options.dataset or options.manifest.name,
        "split": options.split or "all",
        "without_label_left_out": str(left_out),
        "contract_sha256": hashlib.sha256(contract.encode()).hexdigest(),
        "files_sha256": hashlib.sha256(every.encode()).hexdigest(),
    }


def _sweep(
    options: argparse.Namespace, cells: Sequence[Perturbation], clips: Sequence[Clip], judge: KeptJudge
) -> Sweep | None:
    if not cells:
        return None
    from avff.trainer.sweep import sweep

    return sweep(
        clips, [j.clip for j in judge(clips)], cells, lambda c, p: [j.clip for j in judge(c, p)],
        count=options.clips, seed=options.seed,
    )  # fmt: skip


def _controls(options: argparse.Namespace, clips: Sequence[Clip], judge: KeptJudge) -> Shortcuts:
    from avff.trainer.shortcuts import shortcuts

    clean = [j.clip for j in judge(clips)]
    return shortcuts(clips, clean, lambda c, p: [j.clip for j in judge(c, p)], options.data)


def _say(text: str) -> None:
    sys.stderr.write(f"avff-evaluate: {text}\n")
