"""``avffd`` as a user runs it: a process of its own, its exit code, its lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[2] / "src"
TIME_LIMIT_S = 30.0
CHOICE = "avffd: engine: "
"""Begins the line that says what runs the model."""


@dataclass(frozen=True)
class Done:
    """What a run left behind.

    Attributes:
        code: exit code.
        stdout, stderr: all that was written.
        seconds: how long it took.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line of stdout; each must be strict JSON."""
        return [json.loads(line, parse_constant=_refuse) for line in self.stdout.splitlines()]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The score events."""
        return [event for event in self.events if event["type"] == "score"]

    @property
    def summary(self) -> dict[str, Any]:
        """The last event, which must be the summary."""
        last = self.events[-1]
        assert last["type"] == "summary", last
        return last

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr that are errors or warnings: not the summary, nor what runs the model."""
        lines = self.stderr.splitlines()
        return [line for line in lines if line.startswith("avffd: ") and not line.startswith(CHOICE)]


def command(*arguments: object) -> list[str]:
    """Return the command line of the real program."""
    return [sys.executable, "-m", "avff.daemon", *map(str, arguments)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment, with the package importable, and ``extra``."""
    return os.environ | {"PYTHONPATH": str(SOURCES)} | dict(extra or {})


def avffd(*arguments: object, extra: Mapping[str, str] | None = None) -> Done:
    """Run to the end; a run that takes longer than ``TIME_LIMIT_S`` hangs and is an error."""
    began = time.monotonic()
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        env=environment(extra),
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


def assert_refused(done: Done, code: int, *words: str) -> None:
    """Check the code, one line with all ``words`` beside what runs the model, and only states on stdout."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(CHOICE)]
    told = [event for event in done.events if event["type"] != "state"]
    assert (done.code, told, len(lines)) == (code, [], 1), done
    assert lines[0].startswith("avffd: "), lines
    assert [word for word in words if word not in lines[0]] == [], lines


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
