"""``avff-tune``: search for better settings of ``avff-train``, on its validation windows."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from avff.trainer.commands import read_overrides, run_command

_EPILOG = """\
Any setting of the file can be overridden: --train.epochs 5 --data.root PATH.

The space is YAML, a line a setting. Without one learning rate, weight decay, dropout and post-chain change.
  train.optim.learning_rate: {low: 0.0001, high: 0.01, log: true}
  train.batch: {choices: [16, 32]}
  train.epochs: {low: 10, high: 30, step: 5}

writes study.db (Optuna), best.yaml for avff-train, tune.md, and the runs of the trials; prepared clips are
those that avff-train uses with the same file. The same command goes on to --trials in all.

exit codes: 0 done, 2 wrong usage, 65 data not fit for training, 69 face models not to be had,
70 no trial came to an end, 74 a file cannot be written or read, 78 wrong configuration or space,
130 and 143 stopped by SIGINT or SIGTERM (run it again to go on)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, search, and return the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    overrides = read_overrides(parser, rest)

    def work() -> int:
        # Imported here, so that --help does not wait for torch.
        from avff.trainer.tune import tune
        from avff.trainer.tune_space import DEFAULT_SPACE, Recipe, check_space, read_space

        recipe = Recipe(options.config, overrides)
        recipe.settings({})
        space = DEFAULT_SPACE if options.space is None else read_space(options.space)
        check_space(space, recipe, str(options.space or "the default space"))
        best = tune(recipe, space, trials=options.trials, name=options.study, out=options.output)
        sys.stderr.write(f"best settings in {best}, all trials in {options.output / 'tune.md'}\n")
        return 0

    return run_command("avff-tune", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "avff-tune", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search for better settings of avff-train, judged on validation windows.",
        allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="YAML file of avff-train to better")
    add("--trials", type=_positive, required=True, metavar="N", help="runs in all, earlier ones included")
    add("--space", type=Path, metavar="FILE", help="YAML file of what may change")
    add("--study", type=_name, default="tune", metavar="NAME", help="name of the study (tune)")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the study and its runs")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} names no folder; use letters, digits, - and _")
    return text
