"""``avff-train``: from a manifest of clips to a model directory and its report, in one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_EPILOG = """\
exit codes: 0 done, 2 wrong usage, 65 data not fit for training, 69 face models not to be had,
78 wrong configuration, 130 interrupted (run it again to resume)
"""
_ERRORS = {"SettingsError": 78, "ManifestError": 65, "SplitError": 65, "MediaError": 65, "AssetError": 69}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and return the exit code."""
    parser = argparse.ArgumentParser(
        "avff-train", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train AVFF and write the model, its report and TensorBoard logs.",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML file, e.g. configs/train/selfmade.yaml"
    )
    options, rest = parser.parse_known_args(argv)
    overrides = _overrides(parser, rest)
    try:
        # Imported here, so that --help does not wait for torch.
        from avff.trainer.pipeline import run

        return run(options.config, overrides)
    except KeyboardInterrupt:
        sys.stderr.write("avff-train: interrupted; run the same command to resume\n")
        return 130
    except ImportError as error:
        sys.stderr.write(f"avff-train: {error.name} is not installed; pip install 'avff[train]'\n")
        return 69
    except Exception as error:  # the last handler: known errors become one line, others keep their trace
        code = _ERRORS.get(type(error).__name__)
        if code is None:
            raise
        sys.stderr.write(f"avff-train: {error}\n")
        return code


def _overrides(parser: argparse.ArgumentParser, rest: Sequence[str]) -> list[tuple[str, str]]:
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
