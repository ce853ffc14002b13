"""``avffd`` with a scripted engine: the real command line, sources, sinks and signals, without models.

Run as a script by ``test_cli.py``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import av  # noqa: F401 - before OpenCV, as in the program itself (sources/screen.py says why)

from avff.daemon import build, cli
from avff.daemon.config import DaemonConfig
from avff.daemon.runner import LoadedEngine, SlicesFromMedia
from avff.daemon.sources.base import Source
from tests.support.scripted import ScriptedFrontend, ScriptedPredictor, loaded


def _make_frontend(source: Source) -> SlicesFromMedia:
    return ScriptedFrontend()


def _load_engine(config: DaemonConfig, *, patient: Callable[[], bool]) -> LoadedEngine:
    if os.environ.get("SCRIPTED_ENGINE") == "stuck":
        return loaded(ScriptedPredictor(delay_s=60.0))
    if os.environ.get("SCRIPTED_ENGINE") == "loading":
        time.sleep(60)
    fail_at = 10 if os.environ.get("SCRIPTED_ENGINE") == "failing" else None
    return loaded(ScriptedPredictor(fail_at=fail_at))


if __name__ == "__main__":
    build.make_frontend = _make_frontend
    build.load_engine = _load_engine
    sys.exit(cli.main())
