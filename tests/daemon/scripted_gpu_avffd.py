"""``avffd`` with a scripted GPU behind the engine's process; all else is real.  Run as a script."""

from __future__ import annotations

import functools
import os
import sys

from avff.daemon import cli
from avff.engine.process import start
from avff.engine.process.restarts import RestartPolicy
from avff.engine.process.start import start_engines
from avff.engine.process.supervisor import Limits
from tests.support import scripted_child

PAUSE_S = float(os.environ.get("SCRIPTED_GPU_PAUSE_S", "0.05"))
LIMITS = Limits(
    start_s=20.0, answer_s=2.0, restarts=RestartPolicy(most=2, first_s=PAUSE_S, longest_s=max(8.0, PAUSE_S))
)

if __name__ == "__main__":
    scripted = functools.partial(start_engines, command=scripted_child.COMMAND, limits=LIMITS)
    vars(start)["start_engines"] = scripted
    sys.exit(cli.main())
