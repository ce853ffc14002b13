"""``avffd``: argv to configuration to exit code.  Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import avff
from avff.daemon import calibrate, devices, explain
from avff.daemon.arguments import at_least_one, whole_number
from avff.daemon.errors import DaemonError, ExitCode, exit_code_of
from avff.daemon.worker import abandoned_threads

if TYPE_CHECKING:
    from avff.daemon.config import DaemonConfig

log = logging.getLogger("avff")

COMMANDS = {"explain": explain, "devices": devices, "calibrate-sync": calibrate}
"""What may stand in the first place, in a module each."""

EPILOG = """\
examples:
  avffd --source clip.mp4                score a file as fast as it can be read
  avffd --source clip.mp4 --realtime     ... at its own speed
  avffd --source webcam --format jsonl   one JSON line per hop on stdout (docs/events.md)
  avffd --source rtsp://camera/live      a network stream; tried again until it is there (docs/live.md)
  avffd --source demo                    the clip that comes with the program, a fake
  avffd --source clip.mp4 --engine-dir D the model as TensorRT engines, on a GPU (docs/engines.md)
  avffd --source webcam --mic lapel      a camera with a microphone of this name (avffd devices)
  avffd --source mic                     the default microphone alone
  avffd calibrate-sync > sync.yaml       how late the microphone is, from claps; then --config sync.yaml
  avffd devices                          the cameras and microphones that there are
  avffd explain clip.mp4                 a picture of what its highest score rests on (avffd explain --help)

Scores are probabilities of fake, 0 to 1; null with a reason where there is no evidence.
A file that breaks off is scored to that point, with a warning.

exit codes:
    0  done, or stopped by SIGINT or SIGTERM and drained
    2  wrong usage
   65  the media cannot be read
   66  no such input
   69  a camera, a microphone or a face model is not available
   70  the engine failed, or an internal error
   74  the output cannot be written
   78  wrong configuration or model
  130, 143  ended at once, by a second SIGINT or SIGTERM or because draining took too long

AVFF_DEBUG=1 shows the traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    A thread that could not be joined (a driver that never returns) must not hold the
    process back or crash it while the interpreter shuts down: then it ends here and now.
    """
    arguments = _parsed(sys.argv[1:] if argv is None else list(argv))
    _start_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = int(arguments.run(arguments))
    except KeyboardInterrupt:  # before the daemon caught signals: there is nothing to drain
        code = int(ExitCode.OK)
    except Exception as error:  # the last line of defence: one line instead of a traceback
        code = _failed(error)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is written; an exit code of 0 stays 0
    if abandoned_threads():
        logging.shutdown()
        os._exit(code)
    return code


def _run(arguments: argparse.Namespace) -> int:
    config = _configuration(arguments)
    from avff.daemon.build import daemon_from_config

    return asyncio.run(daemon_from_config(config).run())


def _configuration(arguments: argparse.Namespace) -> DaemonConfig:
    """Read the configuration file, if any, and put the flags over it.

    Raises:
        SettingsError: the file holds an unknown key or a wrong value.
    """
    from pydantic import ValidationError

    from avff.daemon.config import DaemonConfig

    if arguments.config is None:
        values: dict[str, Any] = {}
    else:
        from avff.engine.settings import load_settings

        values = load_settings(arguments.config, DaemonConfig).model_dump()
    for key in ("source", "name", "format", "model"):
        if getattr(arguments, key) is not None:
            values[key] = getattr(arguments, key)
    for key in ("realtime", "explain"):
        if getattr(arguments, key):
            values[key] = True
    if arguments.mic is not None:
        values["microphone"] = values.get("microphone", {}) | {"device": arguments.mic}
    engine = {
        "threads": arguments.threads,
        "hop_slices": arguments.hop,
        "backend": arguments.engine,
        "directory": arguments.engine_dir,
        "allow_fallback": arguments.allow_fallback or None,
    }
    values["engine"] = values.get("engine", {}) | {k: v for k, v in engine.items() if v is not None}
    try:
        return DaemonConfig.model_validate(values)
    except ValidationError as error:  # the file was checked, so it is a flag
        problem = error.errors()[0]
        key = str(problem["loc"][-1]).replace("device", "mic")
        raise DaemonError(f"--{key}: {problem['msg'].lower()}", ExitCode.USAGE) from error


def _failed(error: Exception) -> int:
    """Say in one line what happened and return the exit code."""
    from avff.engine.errors import EngineError

    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    known = isinstance(error, DaemonError | EngineError)
    text = str(error) if known else f"internal error: {type(error).__name__}: {error} (AVFF_DEBUG=1: where)"
    log.error("%s", " ".join(text.split()))
    if os.environ.get("AVFF_DEBUG") == "1":
        traceback.print_exception(error)
    return int(exit_code_of(error)) or ExitCode.ENGINE


def _start_logging() -> None:
    """One line a record on stderr; on a terminal it first wipes the live line."""
    handler = logging.StreamHandler(_stderr_of_our_own())
    wipe = "\r\x1b[K" if sys.stderr.isatty() else ""
    handler.setFormatter(logging.Formatter(f"{wipe}avffd: %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _stderr_of_our_own() -> TextIO:
    """Return stderr behind another descriptor: number 2 is mute while face models load (engine)."""
    if sys.stderr is None:  # the caller closed it; number 2 must not become a file of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = _text_to(2)
    return _text_to(os.dup(2))


def _text_to(fd: int) -> TextIO:
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line: everything is an option, but for a command in the first place."""
    if not argv or argv[0] not in COMMANDS:
        return _parser().parse_args(argv)
    command = COMMANDS[argv[0]]
    parser = _Parser(
        prog=f"avffd {argv[0]}",
        description=command.DESCRIPTION,
        epilog=command.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser.parse_args(argv[1:])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="avffd",
        description="Scores talking people, from a file or a camera, for audio-visual deepfakes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--source",
        metavar="URI",
        action="append",
        help="a path, webcam[:N|:/dev/videoN], mic[:NAME], screen, pipe:, rtsp://… or another URL, demo; "
        "may be repeated",
    )
    add("--mic", metavar="NAME", help="microphone beside a webcam, or none; the default one by default")
    add("--config", metavar="FILE", type=Path, help="YAML settings (configs/daemon.yaml); flags override")
    add("--name", metavar="NAME", help="name of the stream in events")
    add("--realtime", action="store_true", help="play a file at its own speed")
    add("--format", choices=("jsonl", "text"), help="of stdout; text on a terminal, else jsonl")
    add("--model", metavar="DIR", type=Path, help="exported model; the embedded one by default")
    add("--engine", choices=("auto", "tensorrt", "onnx"), help="what runs the model (default auto)")
    add("--engine-dir", metavar="DIR", type=Path, help="TensorRT engines (docs/engines.md); none by default")
    add("--allow-fallback", action="store_true", help="ONNX Runtime on the CPU if the engines cannot be used")
    add("--threads", metavar="N", type=at_least_one, help="CPU threads of the engine (default 2)")
    add("--hop", metavar="SLICES", type=_hop, help="slices of 320 ms between scores, 1 to 8 (default 1)")
    add("--explain", action="store_true", help="say in each score where it comes from (jsonl)")
    add("--version", action="version", version=f"avffd {avff.__version__}")
    parser.set_defaults(run=_run)
    return parser


def _hop(text: str) -> int:
    return whole_number(text, 1, 8)
