"""Goals and tables as Markdown, with words where there is no figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OPEN_GPU = "open: no NVIDIA GPU here"
OPEN_TORCH = "open: torch sees no NVIDIA GPU here"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its limit.

    Attributes:
        what: was measured.
        value: in ``unit``; in words, why there is none.
        unit: of value and limit.
        limit: that is to be kept.
        at_most: whether the limit is an upper one.
    """

    what: str
    value: float | str
    unit: str
    limit: float
    at_most: bool = True

    @property
    def is_missed(self) -> bool:
        """Whether there is a figure, beyond its limit."""
        if isinstance(self.value, str):
            return False
        # Not "value > limit": NaN is missed too.
        return not (self.value <= self.limit if self.at_most else self.value >= self.limit)

    def cells(self) -> tuple[str, str, str, str]:
        """Return a row of the table."""
        limit = f"{'≤' if self.at_most else '≥'} {self.limit:g} {self.unit}"
        if isinstance(self.value, str):
            return self.what, self.value, limit, "open"
        return self.what, f"{self.value:.3g} {self.unit}", limit, "MISSED" if self.is_missed else "met"


def goals_table(goals: Sequence[Goal]) -> str:
    """Return goals as a table."""
    return table(("figure", "value", "goal", ""), [goal.cells() for goal in goals])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all but the first column are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
