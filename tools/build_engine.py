"""Build TensorRT engines of a trained model, checked against it beforehand.

    python tools/build_engine.py default -o engines/default
    python tools/build_engine.py runs/outputs/mine -o engines/mine
    python tools/build_engine.py runs/outputs/mine/best_model.pth --precision fp32 -o engines/mine
    python tools/build_engine.py runs/outputs/mine/model --compute-capability 7.5 -o engines/turing

TensorRT-RTX (``pip install 'avff[train,rtx]'``) needs no GPU for that.  What is checked, what is written
and the exit codes: docs/engines.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from avff.engine.predictor import MAX_BATCH
from avff.trainer.commands import run_command

ROOT = Path(__file__).resolve().parents[1]
NAME = "build_engine"
CLIPS = 32
DEFAULT, DEMO = "default", "demo"
_EPILOG = """\
exit codes: 0 done, 1 FP16 or ONNX does not give the model's answers, 2 wrong usage, 65 the clips do not
suffice to tell, 66 no such model or file, 69 a package or the face models are missing, 70 the builder or
the runtime refused, or memory did not suffice, 71 an operator cannot be compiled, 74 the engines cannot be
written or the checkpoint is damaged, 76 the package is too old, 78 not a model of this program, or
altered, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, build, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.compute_capability and options.flavour != "rtx":
        parser.error("--compute-capability is for --flavour rtx; tensorrt builds for the GPU it builds on")
    return run_command(NAME, lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    data = os.environ.get("AVFF_DATA") or str(ROOT.parent / "shared" / "data")
    add = parser.add_argument
    add("model", nargs="?", default=DEFAULT, help=f"exported model, run or checkpoint ({DEFAULT})")
    add("--precision", choices=("fp16", "fp32"), default="fp16", help="of products; sums stay FP32 (fp16)")
    add("--max-batch", type=_batch, default=MAX_BATCH, metavar="N", help=f"largest batch ({MAX_BATCH})")
    add("--flavour", choices=("rtx", "tensorrt"), default="rtx", help="builder and runtime (rtx)")
    add("--compute-capability", type=_capabilities, default=(), metavar="X.Y,…", help="GPUs to build for")
    add("--data", default=data, metavar="ROOT", help=f"folder of manifest.csv to check by, or {DEMO!r}")
    add("--clips", type=_positive, default=CLIPS, metavar="N", help=f"how many of them ({CLIPS})")
    add("--split", help="only clips of this split; all of them unless given")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for engines and side-car")
    return parser


def _batch(text: str) -> int:
    number = _positive(text)
    # More is never asked for, and what it would cost in memory is reserved at load.
    if number > MAX_BATCH:
        raise argparse.ArgumentTypeError(f"{number} is above {MAX_BATCH}, the most that is scored at once")
    return number


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _capabilities(text: str) -> tuple[str, ...]:
    from avff.engine.backends.sidecar import capability

    wanted = tuple(dict.fromkeys(text.split(",")))
    try:
        return tuple(sorted(wanted, key=capability))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that --help does not wait for it.
    from avff.trainer.engines.build import Order, build_engines

    order = Order(
        None if options.model == DEFAULT else Path(options.model), options.output, options.flavour,
        options.precision, options.max_batch, options.compute_capability, Path(options.data), options.clips,
        options.split,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="avff-demo-") as scratch:
        if options.data == DEMO:
            order = replace(order, data=_demo_clips(Path(scratch)))
        build_engines(order, _say)
    _say(f"engines in {options.output}")
    return 0


def _demo_clips(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT))  # run as a script, only tools/ itself is on it
    from tools.demo_data import write_demo_data

    _say("making clips of the demo clip to check by: one face, so they tell precision and nothing else")
    return write_demo_data(folder)


def _say(text: str) -> None:
    sys.stderr.write(f"{NAME}: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
