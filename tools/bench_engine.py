"""Measure the inference engine: runtimes, batches and variants, against rivals and the machine's limits.

    python tools/bench.py engine [--only backends,variants,rivals,limits] [--page FILE] [--json FILE]

Prints a page in Markdown.  What is compared is timed by turns in this one run.  Exits with 1 when a goal is
missed; figures of a GPU are open, in words, where there is none.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import onnxruntime
import torch

from tools.bench_comparisons import limits_section, rivals_section
from tools.bench_page import Goal, goals_table
from tools.bench_plan import Bench, Section
from tools.bench_runtimes import backends_section
from tools.bench_variants_section import variants_section

SECTIONS = {
    "backends": backends_section, "variants": variants_section, "rivals": rivals_section,
    "limits": limits_section,
}  # fmt: skip
BATCHES = (1, 4, 8, 16, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(argv)
    bench = Bench(
        options.model, tuple(options.batches), options.threads, options.rounds, options.compile,
        options.engines, options.data,
    )  # fmt: skip
    sections = [SECTIONS[name](bench) for name in options.only]
    goals = [goal for section in sections for goal in section.goals]
    page = _page(sections, goals, options)
    sys.stdout.write(page)
    if options.page:
        options.page.write_text(page, encoding="utf-8")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {**_machine(), "goals": [asdict(g) for g in goals], **{s.name: s.figures for s in sections}}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(any(goal.is_missed for goal in goals))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py engine", description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--only", type=_names, default=list(SECTIONS), metavar="NAMES", help="some sections, by comma")
    add("--model", type=Path, help="model directory; the embedded one unless given")
    add("--engines", type=Path, metavar="DIR", help="engines of this model, to be timed on the GPU")
    add("--batches", type=_numbers, default=BATCHES, metavar="N,…", help="streams at once")
    add("--threads", type=_number, default=os.cpu_count() or 1, metavar="N", help="cores to use at most")
    add("--rounds", type=_number, default=5, metavar="N", help="turns of each contender")
    add(
        "--no-compile", dest="compile", action="store_false", help="leave torch.compile out: it takes minutes"
    )
    add("--data", default=os.environ.get("AVFF_DATA") or "demo", help="clips for variants, or 'demo'")
    add("--note", help="a line for the top of the page")
    add("--page", type=Path, metavar="FILE", help="also write the page here")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({_number(word) for word in text.split(",")}))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _machine() -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "onnxruntime": str(onnxruntime.__version__),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    """Return what the processor computes fast in, which says more than its name on a rented machine."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    return ", ".join(flag for flag in known if flag in flags) or "unknown"


def _page(sections: Sequence[Section], goals: Sequence[Goal], options: argparse.Namespace) -> str:
    facts = _machine()
    gpu = facts["gpu"] or "no NVIDIA GPU"
    head = (
        f"{facts['date']}: {facts['cores']} cores, {facts['machine']} ({facts['processor']}), {gpu}; "
        f"ONNX Runtime {facts['onnxruntime']}, torch {facts['torch']}; turns of each: {options.rounds}. Load "
        f"in the last minute: {facts['load']}, of which this command has {options.threads} at most."
    )
    parts = [
        "# Inference: speed\n",
        *([f"**{options.note}**\n"] if options.note else []),
        "Made by `make bench-engine`; what is timed, and how: [engines.md](../engines.md#benchmark).\n",
        head + "\n",
        goals_table(goals),
        *(f"## {section.title}\n\n{section.text}" for section in sections),
    ]
    return "\n".join(parts)
