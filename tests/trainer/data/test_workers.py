"""Worker processes: results in order, and an item that kills its process takes nobody along."""

from __future__ import annotations

import os
import time

from avff.trainer.data.workers import in_order

DEADLY = 3


def square(number: int) -> int:
    """Ends the process at one number, as a crash in a decoder would; the first items take longest."""
    if number == DEADLY:
        os._exit(1)
    time.sleep(0.02 * max(0, 4 - number))
    return number * number


def test_item_that_kills_its_process_fails_alone() -> None:
    """The others are done, none twice, all in the order given."""
    found = list(in_order(square, range(8), workers=2, died=-1))
    assert found == [(n, -1 if n == DEADLY else n * n) for n in range(8)]
