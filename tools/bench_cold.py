"""Start a runtime in a fresh process: how long until its first hop is there, and how much memory that takes.

    python -m tools.bench_cold onnx|torch|compile|torch-fp16|engine PLACE

PLACE is a model's directory, a folder of engines, or ``default``.  Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = "default"
STARTS = 3


@dataclass(frozen=True, slots=True)
class Cold:
    """A cold start.

    Attributes:
        start_s: from the start of the interpreter to the end of the first hop.
        ready_s: of that, without imports: loading, building or compiling, and the hop.
        memory_mb: the process's peak, libraries and all; not the GPU's.
    """

    start_s: float
    ready_s: float
    memory_mb: float


def cold_start(kind: str, place: Path | None, starts: int = STARTS) -> Cold:
    """Start a runtime in processes of their own, one after the other, and return the median start.

    Args:
        kind: ``onnx``, ``torch``, ``compile``, ``torch-fp16`` or ``engine``.
        place: of the model, or of the engines; None for the embedded model.
        starts: how many; the middle one by its duration counts.

    Raises:
        RuntimeError: one failed; has the last line of what it said.
    """
    made = sorted((_start(kind, place) for _ in range(starts)), key=lambda cold: cold.start_s)
    return made[len(made) // 2]


def _start(kind: str, place: Path | None) -> Cold:
    command = [sys.executable, "-m", "tools.bench_cold", kind, str(place or DEFAULT)]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",  # or what was compiled before would not be compiled
    }  # fmt: skip
    started = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - started
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1])
    return Cold(taken, **json.loads(run.stdout.splitlines()[-1]))


def main(kind: str, place: str) -> int:
    """Load, run one hop for one stream, and print the figures."""
    run = _importer(kind)(None if place == DEFAULT else Path(place))
    started = time.perf_counter()
    run()
    ready = time.perf_counter() - started
    sys.stdout.write(json.dumps({"ready_s": ready, "memory_mb": _peak_mb()}) + "\n")
    return 0


def _importer(kind: str) -> Callable[[Path | None], Callable[[], object]]:
    """Import what a runtime needs, and nothing else; return what loads it and runs a hop."""
    return {"onnx": _onnx, "engine": _engine}.get(kind) or _torch(kind)


def _onnx(place: Path | None) -> Callable[[], object]:
    from avff.engine.model import load_model
    from tools.bench_hop import Inputs, hop_of_model

    def run() -> None:
        model = load_model(place, threads=1)
        hop_of_model(model, Inputs(model.contract))(1)

    return run


def _engine(place: Path | None) -> Callable[[], object]:
    from tools.bench_hop import Inputs, hop_of_model
    from tools.engine_runtime import load_engines

    assert place is not None, "engines lie in a folder"

    def run() -> None:
        model = load_engines(place)
        hop_of_model(model, Inputs(model.contract))(1)
        model.close()

    return run


def _torch(kind: str) -> Callable[[Path | None], Callable[[], object]]:
    from tools import bench_contenders as contenders
    from tools.bench_hop import Inputs, contract_of

    def load(place: Path | None) -> Callable[[], object]:
        def run() -> None:
            contract = contract_of(place or contenders.EMBEDDED)
            gpu = kind == "torch-fp16"
            modules = contenders.torch_modules(contenders.timing_net(place), half=gpu, gpu=gpu)
            if kind == "compile":
                modules = contenders.compiled(modules)
            contenders.hop_of_torch(modules, contract, Inputs(contract), gpu=gpu)(1)

        return run

    return load


def _peak_mb() -> float:
    """Return this process's peak; what ``getrusage`` says includes the parent's at the time of the fork."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None, "Linux has the line"
    return int(found[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
