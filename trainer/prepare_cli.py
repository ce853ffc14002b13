"""``avff-prepare``: from a dataset as it lies on disk to shards of faces and sound, in one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from avff.trainer.commands import run_command

_EPILOG = """\
A second run does only what is missing; a run that was stopped, in whatever way, is gone on with.
OUT/manifest.jsonl lists the prepared clips, OUT/bad_samples.jsonl the others with reasons.

exit codes: 0 done, 2 wrong usage, 65 data not fit, 69 face models or packages not to be had,
74 disk full or not writable, 130 interrupted (run it again to go on)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, and return the exit code."""
    options = _parser().parse_args(argv)
    return run_command("avff-prepare", lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "avff-prepare", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Decode a dataset once: aligned faces, landmarks and 16 kHz sound in WebDataset shards.",
    )  # fmt: skip
    parser.add_argument("dataset", metavar="DATASET", help="name of its adapter, e.g. dfdc or table")
    parser.add_argument("root", metavar="ROOT", type=Path, help="where the dataset lies")
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help="folder to fill")
    parser.add_argument("--workers", type=_count, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument(
        "--max-bad", metavar="SHARE", type=_share, default=0.01,
        help="end with 65 when more than this share of the clips cannot be prepared (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--picture", choices=("bmp", "png", "jpeg"), default="png",
        help="how faces are stored: bmp is exact and read fastest, png exact in two thirds of the room, jpeg "
        "(quality 95, 4:4:4) takes a third (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shard-mb", metavar="MB", type=_positive, default=512, help="size of a shard (%(default)s)"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that --help waits for no heavy library.
    from avff.trainer.data.folder import finish_folder
    from avff.trainer.data.prepare import prepare
    from avff.trainer.datasets import scan

    found = scan(options.dataset, options.root)
    for warning in found.warnings:
        sys.stderr.write(f"avff-prepare: {warning}\n")
    done = prepare(
        found.clips,
        options.root,
        options.out,
        workers=options.workers,
        picture=options.picture,
        shard_mb=options.shard_mb,
        max_bad=options.max_bad,
    )
    finish_folder(options.out, done.clips.values(), options.picture)
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number
