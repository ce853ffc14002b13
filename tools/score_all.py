"""Run ``avffd`` on every clip of a manifest and say which ones got no score, and why.

    AVFF_DATA=../shared/data python tools/score_all.py
    python tools/score_all.py ../shared/data --limit 5 --model runs/mine/model

The daemon is started once a clip, as a user starts it.  Ends with 1 when it crashes or
hangs on a clip, or when fewer than 95 % of the clips of at least 4 s yield a score.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

LONG_S = 4.0
"""Clips from this length on are expected to yield a score."""
REQUIRED = 0.95
TIMEOUT_S = 300
"""For one clip; far beyond the longest, so that only a hang takes it."""
_ORDERLY = {0, 65}
"""Exit codes that are no crash: scored, or refused as unreadable with a message."""


@dataclass(frozen=True)
class Listed:
    """A clip as the manifest lists it: path relative to the root, and length in s."""

    path: str
    duration_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of a clip.

    Attributes:
        clip: which one.
        scored: windows with a score.
        crash: how the daemon failed, or None.
        reasons: why windows, or the whole file, got no score.
    """

    clip: Listed
    scored: int
    crash: str | None
    reasons: dict[str, int]

    @property
    def why(self) -> str:
        """The crash, or the reasons with their counts."""
        if self.crash is not None:
            return f"CRASHED: {self.crash}"
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.items()) or "no window at all"


def read_clips(root: Path) -> list[Listed]:
    """Return the clips of ``root/manifest.csv`` in its order.

    Raises:
        OSError, KeyError, ValueError: there is no manifest, or it lacks the columns.
    """
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [Listed(row["path"], float(row["duration_s"] or 0)) for row in csv.DictReader(file)]


def score(clip: Listed, root: Path, model: Path | None) -> Outcome:
    """Run the daemon on one clip."""
    command = [
        sys.executable, "-m", "avff.daemon", "--source", str(root / clip.path),
        "--format", "jsonl", "--engine", "onnx",
    ]  # fmt: skip
    command += ["--threads", "1", *(["--model", str(model)] if model else [])]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        events = [json.loads(line) for line in run.stdout.splitlines()]
    except subprocess.TimeoutExpired:
        return Outcome(clip, 0, f"not done after {TIMEOUT_S} s", {})
    except ValueError as error:
        return Outcome(clip, 0, f"a line that is no JSON ({error})", {})
    if run.returncode not in _ORDERLY or "Traceback" in run.stderr:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return Outcome(clip, 0, f"exit code {run.returncode}: {last}", {})
    hops = [e for e in events if e["type"] == "score"]
    reasons = Counter(str(e["reason"]) for e in hops if e["score"] is None)
    if run.returncode:
        reasons[run.stderr.strip()] += 1
    return Outcome(clip, sum(e["score"] is not None for e in hops), None, dict(reasons.most_common()))


def summarise(outcomes: Sequence[Outcome]) -> tuple[str, bool]:
    """Return the report, and whether everything is as it should be."""
    crashed = [o for o in outcomes if o.crash is not None]
    long = [o for o in outcomes if o.clip.duration_s >= LONG_S]
    yielding = sum(o.scored > 0 for o in long)
    share = yielding / len(long) if long else 1.0
    rows = {
        "clips": f"{len(outcomes)}",
        "crashed or hung": f"{len(crashed)}",
        f"of at least {LONG_S:g} s": f"{len(long)}",
        "  with at least one score": f"{yielding} ({share:.1%}, required {REQUIRED:.0%})",
        "shorter, with at least one score": f"{sum(o.scored > 0 for o in outcomes) - yielding}",
    }
    lines = [f"{name:<34}{value}" for name, value in rows.items()]
    without = [o for o in outcomes if not o.scored]
    if without:
        lines += ["", "without a score:"]
        lines += [f"  {o.clip.duration_s:6.2f} s  {o.clip.path}  {o.why}" for o in without]
    return "\n".join(lines), not crashed and share >= REQUIRED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("root", nargs="?", type=Path, help="folder of manifest.csv (default $AVFF_DATA)")
    parser.add_argument("--model", type=Path, help="directory of a model; the embedded one by default")
    parser.add_argument("--limit", type=int, help="only this many clips, evenly spread over the manifest")
    parser.add_argument("--workers", type=int, default=2, help="daemons at a time (default 2)")
    arguments = parser.parse_args(argv)
    root = arguments.root or Path(os.environ.get("AVFF_DATA") or "")
    try:
        clips = spread(read_clips(root), arguments.limit)
    except (OSError, KeyError, ValueError) as error:
        sys.stderr.write(f"score_all: {error}; give the folder of manifest.csv, or set AVFF_DATA\n")
        return 2
    with ThreadPoolExecutor(arguments.workers) as pool:
        running = pool.map(partial(score, root=root, model=arguments.model), clips)
        report, fine = summarise(list(tqdm(running, total=len(clips), unit="clip")))
    sys.stdout.write(report + "\n")
    return 0 if fine else 1


def spread(clips: Sequence[Listed], limit: int | None) -> list[Listed]:
    """Return at most ``limit`` clips, evenly spread over the list."""
    count = len(clips) if limit is None else min(limit, len(clips))
    return [clips[k * len(clips) // count] for k in range(count)]


if __name__ == "__main__":
    raise SystemExit(main())
