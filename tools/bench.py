"""Measure the daemon on this machine against its budgets, and print a table and JSON.

python tools/bench.py [--model DIR] [--json FILE]
python tools/bench.py train ...     training's own figures, see tools/bench_train.py
python tools/bench.py engine ...    the network in every runtime, see tools/bench_engine.py

Every figure comes from this run: the daemon is started as a user starts it, on a
640x360 clip made from the demo clip.  Exits with 1 when a budget is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import av
import numpy as np

from avff.engine.faces.models import load_face_models
from avff.engine.media import NS_PER_S
from avff.engine.model import Model, load_model
from avff.engine.offline import slices_of_file
from avff.engine.predictor import Predictor, StreamState
from avff.engine.slices import Slice
from avff.engine.spec import SPEC

CLIP_S = 30.0
LONG_CLIP_S = 120.0
_REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One measurement and its budget.

    Attributes:
        what: measured quantity.
        value: in ``unit``.
        unit: of value and budget.
        budget: limit, or None for a figure that only informs.
        at_most: whether the budget is an upper limit.
    """

    what: str
    value: float
    unit: str
    budget: float | None = None
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the budget holds."""
        return self.budget is None or (
            self.value <= self.budget if self.at_most else self.value >= self.budget
        )


def main() -> int:
    """Run every measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model directory; the embedded one by default")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clip = make_clip(Path(scratch) / "bench.mp4", CLIP_S)
        long_clip = make_clip(Path(scratch) / "long.mp4", LONG_CLIP_S)
        rows = [*network_costs(load_model(options.model, threads=1)), *caching(clip, options.model)]
        rows += daemon_figures(clip, long_clip, options.model)
    print_table(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({**machine, "rows": [asdict(r) for r in rows]}, indent=1) + "\n")
    return 0 if all(r.met for r in rows) else 1


def make_clip(path: Path, length_s: float) -> Path:
    """Write a 640x360, 25 fps H.264 + AAC clip of a given length by repeating the demo clip."""
    with as_file(files("avff.engine") / "demo" / "talking_photo.mp4") as demo, av.open(str(path), "w") as out:
        video = out.add_stream("libx264", 25, width=640, height=360, pix_fmt="yuv420p")
        audio = out.add_stream("aac", 48_000, layout="mono")
        pictures = sounds = 0
        while pictures < length_s * 25:
            with av.open(str(demo)) as source:
                for frame in source.decode(video=0, audio=0):
                    if pictures >= length_s * 25:
                        break
                    if isinstance(frame, av.VideoFrame):
                        out.mux(video.encode(_letterboxed(frame, pictures)))
                        pictures += 1
                    elif isinstance(frame, av.AudioFrame):
                        frame.pts, sounds = sounds, sounds + frame.samples
                        out.mux(audio.encode(frame))
            # Both tracks start the next round together.
            sounds = pictures * 48_000 // 25
        out.mux([*video.encode(None), *audio.encode(None)])
    return path


def _letterboxed(frame: av.VideoFrame, index: int) -> av.VideoFrame:
    canvas = np.zeros((360, 640, 3), np.uint8)
    canvas[:, 140:500] = frame.reformat(360, 360, "rgb24").to_ndarray()
    picture = av.VideoFrame.from_ndarray(canvas, format="rgb24").reformat(format="yuv420p")
    picture.pts = index
    return picture


def network_costs(model: Model) -> list[Row]:
    """Return the graphs' cost per hop with cached tokens, and per window without."""
    cost = {name: graph.gflop for name, graph in model.contract.graphs.items()}
    slice_cost = sum(cost.values()) - cost["fusion"]
    return [
        Row("network per hop (cached tokens)", slice_cost + cost["fusion"], "GFLOP", 1.0),
        Row("network per window (recomputed)", SPEC.window_slices * slice_cost + cost["fusion"], "GFLOP"),
    ]


def caching(clip: Path, model: Path | None) -> list[Row]:
    """Time a hop with cached tokens and with the whole window recomputed, alternating in one run."""
    slices = slices_of_file(clip, load_face_models())[:40]
    predictor = Predictor(load_model(model, threads=1))
    cached, recomputed = [], []
    for _ in range(_REPEATS):
        cached.append(_time_cached(predictor, slices))
        recomputed.append(_time_recomputed(predictor, slices))
    # The minimum of several runs: noise of a shared machine only ever adds time.
    fast, slow = min(cached), min(recomputed)
    return [
        Row("hop, one thread, cached tokens", fast * 1e3, "ms"),
        Row("hop, one thread, recomputed", slow * 1e3, "ms"),
        Row("caching saves", slow / fast, "x", 2.5, at_most=False),
    ]


def _time_cached(predictor: Predictor, slices: list[Slice]) -> float:
    state, times = StreamState(), []
    for piece in slices:
        started = time.perf_counter()
        predictor.predict([(state, piece)])
        times.append(time.perf_counter() - started)
    return float(np.median(times[SPEC.window_slices :]))


def _time_recomputed(predictor: Predictor, slices: list[Slice]) -> float:
    recent: deque[Slice] = deque(maxlen=SPEC.window_slices)
    times = []
    for piece in slices:
        recent.append(piece)
        if len(recent) == SPEC.window_slices and piece.index % 4 == 0:
            last = StreamState()
            started = time.perf_counter()
            predictor.predict([(last, s) for s in recent])
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def daemon_figures(clip: Path, long_clip: Path, model: Path | None) -> list[Row]:
    """Start the daemon as a user does: help, files at full speed, the short one in real time.

    The machine is shared, and noise only ever adds time: each speed is the best of three.
    """
    command = [sys.executable, "-m", "avff.daemon"]
    help_s = min(_timed([*command, "--help"])[0] for _ in range(3))
    options = ["--format", "jsonl", *(["--model", str(model)] if model else [])]
    score, score_long = ([*command, "--source", str(path), *options] for path in (clip, long_clip))
    short_s, long_s = (min(_timed(run)[0] for _ in range(3)) for run in (score, score_long))
    rss_mb = _peak_mb(score_long)
    first_s, events = _watch([*score, "--realtime"])
    latency = [e["latency_ms"] for e in events if e["type"] == "score" and e["score"] is not None]
    return [
        Row("avffd --help", help_s, "s", 0.5),
        Row(_speed_of(LONG_CLIP_S), LONG_CLIP_S / long_s, "x real time", 10.0, at_most=False),
        Row(_speed_of(CLIP_S), CLIP_S / short_s, "x real time"),
        Row("window end to score, p50, real time", float(np.percentile(latency, 50)), "ms"),
        Row("window end to score, p95, real time", float(np.percentile(latency, 95)), "ms", 200.0),
        Row("first score after start, beyond the window", first_s - SPEC.window_ns / NS_PER_S, "s", 3.0),
        Row("peak memory of the daemon", rss_mb, "MB", 400.0),
    ]


def _speed_of(length_s: float) -> str:
    return f"file of {length_s:g} s at 640x360, with start-up"


def _timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, run.stdout


def _peak_mb(command: list[str]) -> float:
    """Return a command's peak memory; a small process starts it, whose own pages count as the child's."""
    launcher = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    return int(_timed([sys.executable, "-c", launcher, *command])[1]) / 1024


def _watch(command: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Return when the first score came, in s after the start, and all events."""
    started, first, events = time.perf_counter(), None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None, "it is a pipe"
        for line in run.stdout:
            events.append(json.loads(line))
            if first is None and events[-1]["score"] is not None:
                first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("the daemon gave no score for the benchmark clip")
    return first, events


def print_table(rows: list[Row]) -> None:
    """Print the figures as a Markdown table."""
    lines = ["| figure | value | budget | |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        limit = "" if row.budget is None else f"{'≤' if row.at_most else '≥'} {row.budget:g} {row.unit}"
        verdict = "" if row.budget is None else "met" if row.met else "MISSED"
        lines.append(f"| {row.what} | {row.value:.3g} {row.unit} | {limit} | {verdict} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _measure(what: str, arguments: list[str]) -> int:
    """Measure something else.  Imported only when asked for: a user's environment has no torch."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    measure: Callable[[list[str]], int] = importlib.import_module(f"tools.bench_{what}").main
    return measure(arguments)


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in ("train", "engine") else None
    raise SystemExit(_measure(asked, sys.argv[2:]) if asked else main())
