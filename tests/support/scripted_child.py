"""The engine's process with a scripted GPU, which may misbehave.  Run as a script by the supervisor's tests.

``SCRIPTED_GPU`` says how: ``mode call fault``, such as ``serve launch crash``; ``SCRIPTED_GPU_LEFT`` names a
file with the number of times that it still does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from avff.engine.backends.gpu import DriverError
from avff.engine.errors import GpuUnavailable
from avff.engine.process.child import main
from tests.support.scripted_driver import MOST, ScriptedDriver

COMMAND = (sys.executable, "-P", __file__)
ROOT = Path(__file__).parents[2]
FAULT, LEFT = "SCRIPTED_GPU", "SCRIPTED_GPU_LEFT"


def environment(left: Path, fault: str = "", times: int = 1) -> dict[str, str]:
    """What the environment must hold for the process to be found, and to misbehave so many times."""
    left.write_text(str(times))
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), FAULT: fault, LEFT: str(left)}


def _run(arguments: Sequence[str]) -> int:
    mode, call, fault = (os.environ.get(FAULT) or "- - -").split()

    def before(name: str) -> None:
        if (arguments[0], name) == (mode, call) and _left():
            _do(name, fault)

    def make(flavour: str) -> ScriptedDriver:
        before("make")
        return ScriptedDriver(batches=(1, MOST), before=before)

    return main(arguments, make)


def _left() -> bool:
    path = Path(os.environ[LEFT])
    left = int(path.read_text())
    path.write_text(str(left - 1))
    return left > 0


def _do(call: str, fault: str) -> None:
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "hang":
        time.sleep(60)
    elif fault == "memory":
        raise DriverError(call, "out of memory")
    elif fault == "absent":
        raise GpuUnavailable("no GPU here")
    else:
        raise AssertionError(fault)


if __name__ == "__main__":
    os._exit(_run(sys.argv[1:]))
