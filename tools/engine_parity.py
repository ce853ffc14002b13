"""Hold engines on this machine's GPU to the gate: the model's FP32 graphs, on the same windows.

    python -m tools.engine_parity ENGINES --data ROOT|demo [--model DIR]

ENGINES is a folder of engines of the embedded model, or of the one given.  Prints one line; exit codes are
those of ``tools/build_engine.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from avff.engine.errors import ContractError
from avff.engine.model import Model
from avff.trainer.commands import run_command
from tools.demo_data import write_demo_data
from tools.engine_runtime import load_engines

CLIPS = 32


def main(argv: Sequence[str] | None = None, load: Callable[[Path], Model] = load_engines) -> int:
    """Parse the command line, compare, and return the exit code.

    Args:
        argv: of the process unless given.
        load: gives the engines as a model.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engines", type=Path)
    parser.add_argument("--data", required=True, metavar="ROOT")
    parser.add_argument("--model", type=Path, metavar="DIR", help="what the engines were built from")
    options = parser.parse_args(argv)
    return run_command("engine_parity", lambda: _compare(options.engines, options.model, options.data, load))


def _compare(engines: Path, directory: Path | None, data: str, load: Callable[[Path], Model]) -> int:
    from avff.trainer.engines.parity import check_engines
    from avff.trainer.engines.source import read_model
    from avff.trainer.engines.windows import read_clips

    contract, graphs = read_model(directory)
    model = load(engines)
    if model.contract != contract:
        model.close()
        named = "the embedded one" if directory is None else str(directory)
        raise ContractError(f"{engines}: the engines are of another model than {named}")
    with tempfile.TemporaryDirectory(prefix="avff-demo-") as scratch:
        root = write_demo_data(Path(scratch)) if data == "demo" else Path(data)
        clips = read_clips(root, count=CLIPS, split=None, say=lambda text: None)
    report = check_engines(contract, graphs, model, clips, "engines")
    sys.stdout.write(
        f"on {report.windows} windows logits differ by {report.logit:.2g} at most, "
        f"AUC by {report.drift:.2g}, batch sizes by {report.batch:.2g}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
