"""``avff-train``: from a manifest of clips to a model directory and its report, in one command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from avff.trainer.commands import read_overrides, run_command

_EPILOG = """\
Any setting of the file can be overridden: --train.epochs 5 --data.root PATH.

exit codes: 0 done, 2 wrong usage, 65 data not fit for training, 69 face models not to be had,
70 training cannot go on (the loss is no number, out of memory), 74 a checkpoint cannot be written or read,
78 wrong configuration, 130 and 143 stopped by SIGINT or SIGTERM (run it again to resume)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and return the exit code."""
    parser = argparse.ArgumentParser(
        "avff-train", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train AVFF and write the model, its report and TensorBoard logs.",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML file, e.g. configs/train/selfmade.yaml"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings as used, and end")
    parser.add_argument(
        "--dry-run", action="store_true", help="carry one batch through every stage, and keep nothing"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate: K runs, each judged on clips of its own"
    )
    other.add_argument(
        "--control", choices=("leave-one-out", "label-shuffle", "metadata", "near-copies", "random-encoder"),
        help="carry out a control of the figures instead of a run",
    )  # fmt: skip
    options, rest = parser.parse_known_args(argv)
    overrides = read_overrides(parser, rest)

    def work() -> int:
        # Imported here, so that --help does not wait for torch.
        from avff.trainer.pipeline import run, show_config

        if options.print_config:
            return show_config(options.config, overrides)
        if options.folds is not None:
            from avff.trainer.cross_validation import cross_validate

            return cross_validate(options.config, overrides, options.folds, dry=options.dry_run)
        if options.control is not None:
            from avff.trainer.controls import run_control

            return run_control(options.config, overrides, options.control)
        return run(options.config, overrides, dry=options.dry_run)

    return run_command("avff-train", work)
