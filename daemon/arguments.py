"""Types of options that several commands share."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """Read a whole number from 1 to 256."""
    return whole_number(text, 1, 256)


def whole_number(text: str, lowest: int, highest: int) -> int:
    """Read a whole number.

    Raises:
        argparse.ArgumentTypeError: it is none, or out of bounds.
    """
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {lowest} to {highest}")
    return int(text)
