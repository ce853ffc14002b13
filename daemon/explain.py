"""``avffd explain FILE``: a picture of what the score of one window of a file rests on.

A command of its own, so that no stream ever waits for the hundreds of runs that a heat map takes.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from avff.daemon.arguments import at_least_one
from avff.daemon.errors import FORCED, DaemonError, ExitCode, exit_code_of

if TYPE_CHECKING:
    from avff.engine.explain import Explanation, OcclusionMap
    from avff.engine.predictor import Predictor

DESCRIPTION = """\
Draws where the score of one window of a file, 2.56 s, comes from: patches of the face, and times
and pitches of the sound, are covered one by one, and the picture shows how the score changes.
What the maps mean, and what they do not: docs/explanation.md.
"""
EPILOG = """\
examples:
  avffd explain clip.mp4                     the window with the highest score, to ./clip-explained.png
  avffd explain clip.mp4 --at 12.5 -o out/   the window around 12.5 s, to out/clip-explained.png
  avffd explain demo                         the clip that comes with the program

exit codes: those of avffd; 65 also where no window, or not the one at --at, has a score.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("file", metavar="FILE", help="a media file, or demo")
    add("--at", metavar="SECONDS", type=_seconds, help="the window around this media time")
    add("-o", "--output", metavar="PATH", help="a .png file, or a directory; here by default")
    add("--model", metavar="DIR", type=Path, help="exported model; the embedded one by default")
    add("--threads", metavar="N", type=at_least_one, default=2, help="CPU threads of the engine (default 2)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain one window of one file and return the exit code.

    Raises:
        DaemonError, EngineError: no such file, no score to explain, or the picture cannot be written.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is nothing to drain
    # Not as an exception: one that is raised within a destructor or a library's callback is lost.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(FORCED + number))
    _explain(arguments)
    return ExitCode.OK


def output_path(wanted: str | None, clip: Path) -> Path:
    """Return the file that ``-o`` stands for: itself, or one named after the clip in a directory.

    Raises:
        DaemonError: it is neither a PNG file nor a directory.
    """
    named = f"{clip.stem}-explained.png"
    if wanted is None:
        return Path(named)
    path = Path(wanted)
    if path.is_dir() or wanted.endswith("/"):
        return path / named
    if path.suffix.lower() != ".png":
        raise DaemonError(f"-o {wanted}: is neither a .png file nor a directory", ExitCode.USAGE)
    return path


def _explain(arguments: argparse.Namespace) -> None:
    clip = _clip(arguments.file)
    path = output_path(arguments.output, clip)
    _make_room(path)

    from avff.engine.explain import choose_window, explain
    from avff.engine.faces.models import load_face_models
    from avff.engine.media import NS_PER_S
    from avff.engine.offline import iterate_slices
    from avff.engine.threads import stay_in_caller

    stay_in_caller()
    predictor = _predictor(arguments.model, arguments.threads)
    faces = load_face_models(progress=sys.stderr.isatty())
    at_ns = None if arguments.at is None else round(arguments.at * NS_PER_S)
    explanation = explain(predictor, choose_window(iterate_slices(clip, faces), predictor, at_ns))
    _write(explanation, clip.name, path)
    sys.stdout.write(_told(explanation, path))


def _clip(name: str) -> Path:
    from avff.daemon.sources.file import check_path, demo_clip

    path = demo_clip() if name == "demo" and not Path(name).exists() else Path(name)
    check_path(path)
    return path


def _predictor(model: Path | None, threads: int) -> Predictor:
    from avff.engine.errors import EngineError
    from avff.engine.model import load_model
    from avff.engine.predictor import Predictor

    try:
        return Predictor(load_model(model, threads=threads))
    except EngineError as error:  # a model that cannot be loaded is a wrong setting, whoever found it out
        code = exit_code_of(error)
        raise DaemonError(str(error), ExitCode.CONFIG if code == ExitCode.ENGINE else code) from error


def _make_room(path: Path) -> None:
    """Make the directory before all the work, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DaemonError(f"{path}: cannot write ({error.strerror})", ExitCode.OUTPUT) from error


def _write(explanation: Explanation, name: str, path: Path) -> None:
    import cv2

    from avff.daemon.heatmap import draw

    picture = cv2.cvtColor(draw(explanation, name), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        raise DaemonError(f"{path}: cannot write ({error.strerror})", ExitCode.OUTPUT) from error


def _told(explanation: Explanation, path: Path) -> str:
    """Say in words where the strongest places are; ends with a line end."""
    from avff.engine.media import NS_PER_S
    from avff.engine.rolling import probability

    said = explanation.window.prediction
    start_s, end_s, logit = said.start_ns / NS_PER_S, said.end_ns / NS_PER_S, said.logit or 0.0
    lines = [f"{path}: {start_s:.2f}-{end_s:.2f} s, score {probability(logit):.2f} (log-odds {logit:+.2f})"]
    if explanation.face is not None:
        value, y, x = explanation.face.peak
        lines.append(f"  face:  at most {value:+.2f} by one patch, at x {x:.0f}, y {y:.0f} of 128 px")
    if explanation.times is not None and explanation.bands is not None:
        value, _, at_s = explanation.times.peak
        lines.append(f"  sound: at most {value:+.2f} by one time, at {start_s + at_s:.2f} s")
        lines.append(f"         at most {_of_bands(explanation.bands)}")
    return "\n".join(lines) + "\n"


def _of_bands(bands: OcclusionMap) -> str:
    import numpy as np

    from avff.engine.features import band_middles_hz

    value, band, _ = bands.peak
    mel, _ = band_middles_hz()
    hz = np.interp(band, np.arange(len(mel)) + 0.5, mel)
    return f"{value:+.2f} by one range of pitch, at {hz / 1000:.1f} kHz"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value < 1e9):
        raise argparse.ArgumentTypeError(f"'{text}' is not a time in seconds from 0")
    return value
