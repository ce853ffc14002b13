"""Check everything that needs an NVIDIA GPU, with what is installed here, and print one table.

    python -m tools.gpu_check [--data ROOT] [--page FILE]

Builds the embedded model's engines with every builder that works here, holds them to the gate on their own
GPU, runs the tests marked ``gpu`` and times the runtimes.  Exit codes: 0 all of it holds, 1 something does
not, 3 what could be checked holds and some rows are open, 77 nothing could be checked, as without an NVIDIA
GPU.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.bench_page import OPEN_GPU, table
from tools.gpu_kit import FLAVOURS, Check, Gpu, Kit, State

ROOT = Path(__file__).resolve().parents[1]
SOME_OPEN = 3
NOTHING_TO_CHECK = 77
"""What test harnesses take for skipped."""


def main(argv: Sequence[str] | None = None, kit: Kit | None = None) -> int:
    """Parse the command line, check, and return the exit code.

    Args:
        argv: of the process unless given.
        kit: how things are done; on this machine unless given.
    """
    options = _parser().parse_args(argv)
    kit = kit or Kit(ROOT)
    gpu = kit.find_gpu()
    with tempfile.TemporaryDirectory(prefix="avff-gpu-") as scratch:
        checks = check_all(kit, gpu, Path(scratch), options.data) if gpu else open_checks(OPEN_GPU)
    page = as_page(gpu, kit.versions(), checks)
    sys.stdout.write(page)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    return exit_code(checks)


def check_all(kit: Kit, gpu: Gpu, scratch: Path, data: str) -> list[Check]:
    """Carry out every check; one that fails does not keep the others from being carried out.

    Args:
        kit: how things are done.
        gpu: that was found.
        scratch: for engines.
        data: root of labelled clips, or ``demo``.
    """
    checks: list[Check] = []
    built: list[Path] = []
    for flavour in FLAVOURS:
        engines = scratch / flavour
        made = kit.build(flavour, gpu, engines, data)
        checks.append(made)
        if made.state is State.PASSED:
            built.append(engines)
            checks.append(kit.compare(flavour, engines, data))
        else:
            checks.append(Check(f"{flavour}: engines on the GPU against FP32", State.OPEN, "open: not built"))
    checks.append(kit.run_tests())
    return checks + kit.time(built[0] if built else None)


def open_checks(reason: str) -> list[Check]:
    """Return every row that a GPU would fill, open."""
    what = [f"{f}: {part}" for f in FLAVOURS for part in ("engines built", "engines on the GPU against FP32")]
    return [Check(one, State.OPEN, reason) for one in (*what, "tests marked gpu", "speed on the GPU")]


def exit_code(checks: Sequence[Check]) -> int:
    """Return what the process ends with: an open row never counts as one that holds."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return 1
    if State.PASSED not in states:
        return NOTHING_TO_CHECK
    return SOME_OPEN if State.OPEN in states else 0


def as_page(gpu: Gpu | None, versions: str, checks: Sequence[Check]) -> str:
    """Return the table, under the date, the card and the driver."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    card = f"{gpu.name}, compute capability {gpu.capability}, driver {gpu.driver}" if gpu else OPEN_GPU
    rows = [(check.what, check.said, check.state.value) for check in checks]
    return f"{date}: {card}. {versions}.\n\n{table(('check', 'found', ''), rows)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="exit codes: 0 holds, 1 does not, 3 some rows are open, 77 all are",
    )
    data = os.environ.get("AVFF_DATA") or "demo"
    parser.add_argument(
        "--data", default=data, metavar="ROOT", help="labelled clips to compare on, or 'demo'"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the table here")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
