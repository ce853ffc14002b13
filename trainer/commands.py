"""What the trainer's commands have in common: known errors become one line and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

_CODES = {
    "LeakError": 2, "DatasetError": 65, "ManifestError": 65, "MediaError": 65, "ShardError": 65,
    "SplitError": 65, "FileNotFoundError": 66, "AssetError": 69, "BackendError": 70, "OutOfMemoryError": 70,
    "MemoryError": 70, "TrainingError": 70, "CheckpointError": 74, "HistoryError": 74, "OSError": 74,
    "ContractError": 78, "EnsembleError": 78, "ExportError": 78, "SettingsError": 78,
}  # fmt: skip
"""Exit codes by name of the error's class: importing the classes would load torch for ``--help``."""

_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch's RuntimeError says on a CPU, where it has no class of its own for this."""


def run_command(name: str, work: Callable[[], int]) -> int:
    """Carry out a command and return its exit code.

    Args:
        name: of the command, before every message.
        work: the command; it imports what is heavy.
    """
    try:
        return work()
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; run the same command to go on\n")
        return 130
    except ImportError as error:
        sys.stderr.write(f"{name}: {error.name} is not installed; pip install 'avff[train]'\n")
        return 69
    except Exception as error:  # the last handler: known errors become one line, others keep their trace
        code = exit_code_of(error)
        if code is None:
            raise
        sys.stderr.write(f"{name}: {_line_of(error)}\n")
        return code


def exit_code_of(error: BaseException) -> int | None:
    """Return the exit code of a known error; a signal that ended a run brings its own."""
    own = getattr(error, "exit_code", None)
    if own is not None:
        return int(own)
    if lacks_memory(error):
        return _CODES["MemoryError"]
    return next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), None)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or the machine, did not suffice."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or _NO_MEMORY in str(error)


def _line_of(error: Exception) -> str:
    if lacks_memory(error):
        what = " ".join(str(error).split()) or type(error).__name__
        return f"out of memory ({what}); make some free and run the same command to go on"
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; mend that and run the same command to go on"
    return str(error)


def read_overrides(parser: argparse.ArgumentParser, rest: Sequence[str]) -> list[tuple[str, str]]:
    """Read ``--key value`` and ``--key=value`` pairs."""
    pairs: list[tuple[str, str]] = []
    words = iter(rest)
    for word in words:
        if not word.startswith("--"):
            parser.error(f"unexpected {word!r}; settings are given as --key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                parser.error(f"--{key} needs a value")
            value = following
        pairs.append((key, value))
    return pairs
