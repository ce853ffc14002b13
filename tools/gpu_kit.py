"""How the GPU check does things on a machine: find the card, build, compare, test, time."""

from __future__ import annotations

import enum
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avff.trainer.engines.builder import RTX_DEFAULT
from tools.bench_page import Goal

FLAVOURS = ("tensorrt", "rtx")
"""The faster one on data-centre cards first: it is the one that is timed where both can be built."""
PATIENCE_S = 3600.0
"""How long one command may take; on a GPU that hangs it would never end."""
_PACKAGES = ("tensorrt", "tensorrt-rtx", "pycuda", "torch", "onnxruntime")
_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")


class State(enum.Enum):
    """How a check ended."""

    PASSED = "holds"
    FAILED = "FAILED"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table.

    Attributes:
        what: was checked.
        state: how that ended.
        said: the figures, or why there are none, in one line.
    """

    what: str
    state: State
    said: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first NVIDIA GPU of a machine, as its driver names it."""

    name: str
    capability: str
    driver: str


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command: its exit code and the lines it wrote to both streams."""

    code: int
    out: tuple[str, ...]
    err: tuple[str, ...]


class Kit:
    """Does what the check asks for, with what is installed.

    Args:
        root: of the repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def run(self, command: Sequence[str], timeout_s: float = PATIENCE_S) -> Ran:
        """Run a command in the repository.

        One that is not there ends with 127; one that takes too long is ended, with 124.
        """
        if shutil.which(command[0]) is None:
            return Ran(127, (), (f"{command[0]}: not found",))
        paths = os.pathsep.join([str(self._root / "src"), str(self._root)])
        # A group of its own: what it started must end with it.
        with subprocess.Popen(
            command, cwd=self._root, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as made:  # fmt: skip
            try:
                out, err = made.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(made.pid, signal.SIGKILL)
                return Ran(124, (), (f"no end after {timeout_s:g} s",))
        return Ran(made.returncode, tuple(out.splitlines()), tuple(err.splitlines()))

    def find_gpu(self) -> Gpu | None:
        """Return the first GPU that the driver shows; None where there is no driver, or no GPU."""
        made = self.run(_QUERY)
        fields = [text.strip() for text in made.out[0].split(",")] if made.out else []
        return Gpu(*fields) if made.code == 0 and len(fields) == 3 else None

    def versions(self) -> str:
        """Return the packages that take part, with their versions."""
        return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)

    def build(self, flavour: str, gpu: Gpu, engines: Path, data: str) -> Check:
        """Build the embedded model's engines for this GPU."""
        what = f"{flavour}: engines built"
        package = {"rtx": "tensorrt-rtx"}.get(flavour, flavour)
        if not _version(package)[0].isdigit():
            return Check(what, State.OPEN, f"open: {package} is not installed")
        command = [sys.executable, "tools/build_engine.py", "default", "--flavour", flavour, "--data", data]
        if flavour == "rtx" and gpu.capability not in RTX_DEFAULT:
            command += ["--compute-capability", gpu.capability]
        made = self.run([*command, "-o", str(engines)])
        if made.code == 0:
            held = next((line for line in made.err if "FP16 holds" in line), made.err[-1])
            return Check(what, State.PASSED, held.removeprefix("build_engine: "))
        last = made.err[-1] if made.err else f"exit code {made.code}"
        # TensorRT-RTX does not build for every card: a fact about the package, not about the engines.
        state = State.OPEN if "cannot build for compute capability" in last else State.FAILED
        return Check(what, state, last.removeprefix("build_engine: "))

    def compare(self, flavour: str, engines: Path, data: str) -> Check:
        """Hold engines on the GPU to the gate."""
        what = f"{flavour}: engines on the GPU against FP32"
        made = self.run([sys.executable, "-m", "tools.engine_parity", str(engines), "--data", data])
        said = (made.out or made.err or (f"exit code {made.code}",))[-1]
        return Check(what, State.PASSED if made.code == 0 else State.FAILED, said)

    def run_tests(self) -> Check:
        """Run the tests that need a GPU."""
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        made = self.run(command)
        said = (made.out or made.err or (f"exit code {made.code}",))[-1].strip("= ")
        if made.code == 5:  # pytest found none
            return Check("tests marked gpu", State.OPEN, "open: there are none")
        passed = made.code == 0 and re.search(r"\b[1-9]\d* passed", said) is not None
        return Check("tests marked gpu", State.PASSED if passed else State.FAILED, said)

    def time(self, engines: Path | None) -> list[Check]:
        """Time runtimes on the GPU, by turns; without engines there is nothing to time."""
        if engines is None:
            return [Check("speed on the GPU", State.OPEN, "open: no engines were built")]
        with tempfile.TemporaryDirectory(prefix="avff-bench-") as folder:
            figures = Path(folder) / "figures.json"
            command = [sys.executable, "tools/bench.py", "engine", "--only", "backends", "--no-compile"]
            made = self.run([*command, "--engines", str(engines), "--json", str(figures)])
            if not figures.is_file():
                return [Check("speed on the GPU", State.FAILED, (made.err or ("no figures",))[-1])]
            goals = json.loads(figures.read_text(encoding="utf-8"))["goals"]
        return [_as_check(Goal(**goal)) for goal in goals if "TensorRT" in goal["what"]]


def _as_check(goal: Goal) -> Check:
    what, said, limit, _ = goal.cells()
    if isinstance(goal.value, str):
        return Check(what, State.OPEN, said)
    return Check(what, State.FAILED if goal.is_missed else State.PASSED, f"{said} ({limit})")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
