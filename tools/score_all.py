"""Score every clip of a manifest with the engine and say which ones got no score, and why.

    AVFF_DATA=../shared/data python tools/score_all.py
    python tools/score_all.py ../shared/data --limit 5 --model runs/mine/model

Ends with 1 when a clip crashes or hangs the engine, or when fewer than 95 % of the
clips of at least 4 s yield a score.  A clip that cannot be read is not a crash: it is
listed with the reason.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from avff.engine.errors import EngineError, MediaError
from avff.engine.faces.models import FaceModels, load_face_models
from avff.engine.model import load_model
from avff.engine.offline import predictions_of_file
from avff.engine.predictor import Predictor
from avff.engine.slices import Prediction

EX_USAGE = 2
LONG_S = 4.0
"""Clips from this length on are expected to yield a score."""
REQUIRED = 0.95
TIMEOUT_S = 300
"""For one clip; far beyond the longest, so that only a hang takes it."""


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
        crash: what the engine died of, or None.
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


class Hung(Exception):
    """A clip took longer than ``TIMEOUT_S``."""


def read_clips(root: Path) -> list[Listed]:
    """Return the clips of ``root/manifest.csv`` in its order.

    Raises:
        OSError, KeyError, ValueError: there is no manifest, or it lacks the columns.
    """
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [Listed(row["path"], float(row["duration_s"] or 0)) for row in csv.DictReader(file)]


def score_clips(
    clips: Sequence[Listed], root: Path, model: Path | None, *, workers: int
) -> Iterator[Outcome]:
    """Score clips, several at a time; a clip that kills its process ends the run as a crash of the rest."""
    setting = (root, model)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_prepare, initargs=setting
    ) as pool:
        futures = [pool.submit(_score, clip) for clip in clips]
        for clip, future in zip(clips, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                yield Outcome(clip, 0, f"process died ({error})", {})


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


_worker: tuple[Path, FaceModels, Predictor] | None = None


def _prepare(root: Path, model: Path | None) -> None:
    global _worker
    signal.signal(signal.SIGALRM, _on_alarm)
    _worker = (root, load_face_models(), Predictor(load_model(model, threads=1)))


def _score(clip: Listed) -> Outcome:
    assert _worker is not None, "_prepare ran first"
    root, faces, predictor = _worker
    signal.alarm(TIMEOUT_S)
    try:
        predictions = predictions_of_file(root / clip.path, faces, predictor)
    except MediaError as error:
        return Outcome(clip, 0, None, {str(error): 1})
    except Exception as error:  # anything else is what this tool looks for
        return Outcome(clip, 0, f"{type(error).__name__}: {error}", {})
    finally:
        signal.alarm(0)
    return _outcome(clip, predictions)


def _outcome(clip: Listed, predictions: Sequence[Prediction]) -> Outcome:
    scored = [p.logit is not None for p in predictions]
    reasons = Counter(str(p.reason) for p in predictions if p.reason is not None)
    return Outcome(clip, sum(scored), None, dict(reasons.most_common()))


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise Hung(f"not done after {TIMEOUT_S} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("root", nargs="?", type=Path, help="folder of manifest.csv (default $AVFF_DATA)")
    parser.add_argument("--model", type=Path, help="directory of a model; the embedded one by default")
    parser.add_argument("--limit", type=int, help="only this many clips, evenly spread over the manifest")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    arguments = parser.parse_args(argv)
    root = arguments.root or Path(os.environ.get("AVFF_DATA") or "")
    try:
        clips = spread(read_clips(root), arguments.limit)
        load_model(arguments.model).close()  # what is wrong with the models shows here, in one line
        load_face_models(progress=True)
    except (OSError, KeyError, ValueError, EngineError) as error:
        hint = "" if isinstance(error, EngineError) else "; give the folder of manifest.csv, or set AVFF_DATA"
        sys.stderr.write(f"score_all: {error}{hint}\n")
        return EX_USAGE
    running = score_clips(clips, root, arguments.model, workers=arguments.workers)
    report, fine = summarise(list(tqdm(running, total=len(clips), unit="clip")))
    sys.stdout.write(report + "\n")
    return 0 if fine else 1


def spread(clips: Sequence[Listed], limit: int | None) -> list[Listed]:
    """Return at most ``limit`` clips, evenly spread over the list."""
    count = len(clips) if limit is None else min(limit, len(clips))
    return [clips[k * len(clips) // count] for k in range(count)]


if __name__ == "__main__":
    raise SystemExit(main())
