"""``avff-ensemble``: several trained runs as one exported model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from avff.trainer.commands import run_command

_EPILOG = """\
example:
  avff-ensemble runs/outputs/first runs/outputs/second -o runs/outputs/both

The model answers with the mean of the members' calibrated log-odds, for the modalities that all of them
offer, and costs as much as all of them together. Clips that trained any member must not judge it.

exit codes: 0 done, 2 wrong usage, 69 PyTorch is not installed, 74 a file cannot be read or written,
78 the runs cannot become an ensemble
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, export, and return the exit code."""
    parser = argparse.ArgumentParser(
        "avff-ensemble", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export several trained networks as one model.",
    )  # fmt: skip
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="outputs/<run> of a finished run, or its best_model.pth",
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=Path, required=True, help="directory for the model"
    )
    parser.add_argument("--name", default="ensemble", help="name of the model in events (%(default)s)")
    options = parser.parse_args(argv)

    def work() -> int:
        # Imported here, so that --help does not wait for torch.
        from avff.trainer.ensemble import export_ensemble

        contract = export_ensemble(options.runs, options.out, name=options.name)
        offered = ", ".join(contract.calibration.any)
        sys.stderr.write(
            f"avff-ensemble: {len(options.runs)} members, scores by {offered}, threshold "
            f"{contract.calibration.threshold:g} (not frozen on validation clips); model in {options.out}\n"
        )
        return 0

    return run_command("avff-ensemble", work)
