"""What can go wrong in the daemon, and the exit code it ends with.

    DaemonError          message for people, exit code for programs
    ├── SourceError      a file, device or stream cannot be opened or went away
    ├── EngineFailed     the model could not be loaded, or predicting raised
    └── DrainExpired     after a signal, the stages did not empty in time

Engine errors (:mod:`avff.engine.errors`) are mapped at the seams by
:func:`exit_code_of`; none of them is ever turned into a score.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How ``avffd`` ends.  The numbers are those of ``sysexits.h`` and are an interface."""

    OK = 0
    USAGE = 2
    MEDIA = 65
    NO_INPUT = 66
    UNAVAILABLE = 69
    ENGINE = 70
    OUTPUT = 74
    CONFIG = 78


FORCED = 128
"""Added to the signal number when a signal forces the end: 130 for SIGINT, 143 for SIGTERM."""


class DaemonError(Exception):
    """An error with a one-line message and an exit code.

    Attributes:
        exit_code: what the process ends with when this error ends it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = int(exit_code)


class SourceError(DaemonError):
    """A source cannot be opened, or broke while it ran.

    Exit code 0 marks a source that broke off after useful media: a warning, not a failure.  For a live
    source, 2 and 78 mean that trying again is of no use (:mod:`avff.daemon.sources.reconnect`).

    Attributes:
        reason: one word for programs; ``docs/events.md`` lists them.
    """

    def __init__(self, message: str, exit_code: int, reason: str = "source_lost") -> None:
        super().__init__(message, exit_code)
        self.reason = reason


class EngineFailed(DaemonError):
    """The model could not be loaded or run; nothing is scored any more."""


class DrainExpired(DaemonError):
    """Stages were not empty when the time to drain was over."""


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for any error that leaves a stage.

    The engine's tree is looked up by name of its branch here and nowhere else.
    """
    from avff.engine import errors as engine

    if isinstance(error, DaemonError):
        return error.exit_code
    codes: tuple[tuple[type[Exception], ExitCode], ...] = (
        (engine.MediaError, ExitCode.MEDIA),
        (engine.ExplainError, ExitCode.MEDIA),
        (engine.SyncError, ExitCode.MEDIA),
        (engine.AssetError, ExitCode.UNAVAILABLE),
        (engine.SettingsError, ExitCode.CONFIG),
        (engine.ContractError, ExitCode.CONFIG),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), ExitCode.ENGINE)
