"""What the sections of the engine's benchmark have in common: what is measured, and what each gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from avff.engine.contract import Contract
from avff.trainer.engines.source import read_model
from tools.bench_hop import Hop, Inputs
from tools.bench_page import Goal
from tools.bench_turns import Times, by_turns

Key = tuple[str, int, int]
"""Runtime, threads (0 on a GPU), batch."""


@dataclass(frozen=True)
class Bench:
    """What is measured, and how thoroughly.

    Attributes:
        model: directory; None for the embedded model.
        batches: streams at once.
        threads: of the CPU, at most.
        rounds: turns of each contender.
        compile: whether ``torch.compile`` takes part.
        engines: folder of engines to be timed on the GPU; None: there are none.
        data: root of labelled clips, or ``demo``.
    """

    model: Path | None
    batches: tuple[int, ...]
    threads: int
    rounds: int
    compile: bool
    engines: Path | None
    data: str

    @cached_property
    def source(self) -> tuple[Contract, dict[str, bytes]]:
        """Contract and graphs."""
        return read_model(self.model)

    @cached_property
    def inputs(self) -> Inputs:
        """Of all graphs."""
        return Inputs(self.source[0])

    def cores(self) -> list[int]:
        """Return the numbers of threads to time: one, and all."""
        return list(dict.fromkeys((1, self.threads)))


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: in the JSON.
        title, text: in Markdown.
        goals: that it speaks to.
        figures: as JSON.
    """

    name: str
    title: str
    text: str
    goals: tuple[Goal, ...]
    figures: Any


def timed(bench: Bench, threads: int, hops: Mapping[str, Hop]) -> dict[Key, Times]:
    """Time hops at every batch size, by turns; nothing to time takes no time."""
    made: dict[Key, Times] = {}
    for batch in bench.batches if hops else ():
        things: dict[str, Callable[[], object]] = {n: partial(hop, batch) for n, hop in hops.items()}
        made |= {(n, threads, batch): times for n, times in by_turns(things, bench.rounds).items()}
    return made
