"""What can stop the build of an engine; every message is one line, every kind has its exit code.

    BuildError          the builder refused, for a reason of its own
    ├── OperatorError   the builder does not know an operator of the graph
    ├── PackageError    the builder's package is not installed
    ├── VersionError    it is, but in a version that this program does not know
    ├── WindowsError    the clips do not give enough windows to judge by
    └── ParityError     the FP16 graphs do not give the model's answers

``trainer/commands.py`` reads ``exit_code``; errors of the model and of the disk have theirs there.
"""

from __future__ import annotations


class BuildError(Exception):
    """No engine can be built; nothing was written."""

    exit_code = 70


class OperatorError(BuildError):
    """The graph has an operator, or a use of one, that the builder cannot turn into an engine."""

    exit_code = 71


class PackageError(BuildError):
    """The builder, or what it needs to know the GPU, is not installed."""

    exit_code = 69


class VersionError(BuildError):
    """The installed builder is older than what this program was written for."""

    exit_code = 76


class WindowsError(BuildError):
    """Too few windows with a score, or only of one class."""

    exit_code = 65


class ParityError(BuildError):
    """The gate found a difference that is not allowed; the message names the layer it comes from."""

    exit_code = 1
