"""Text and tables of the README and the model card, made of an evaluation's JSON.

A document marks where they go, ``<!-- results:NAME -->…<!-- /results -->``; what stands between is
replaced.  So no figure there is typed by hand, and a test can tell a stale one.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from avff.trainer.metrics import Interval
from avff.trainer.report.goals import card_goals
from avff.trainer.report.intervals import cell_name
from avff.trainer.report.tables import NOTHING, number, shown, table
from avff.trainer.shortcuts import CHANCE, MODEL

_REGION = re.compile(r"(<!-- results:(?P<name>[\w-]*) -->\n)(?P<body>.*?)(\n?<!-- /results -->)", re.DOTALL)
_MARK = re.compile(r"<!-- /?results[^>]*-->")
WIDTH = 110
MIN_CLIPS = 5
"""Fewer clips of a generator say nothing of it."""
MAX_RISE = 0.02
"""A change of the probability of fake that is worth a word."""
Facts = Mapping[str, Any]
"""``evaluation``: the evaluation's JSON; ``data``: counts of the clips, see ``tools/results.py``."""


class RegionError(ValueError):
    """A document's marks do not pair up, or name what is not made; the message says which."""


def fill(text: str, facts: Facts) -> str:
    """Return a document with every marked region made anew.

    Raises:
        RegionError: a mark without its partner, or of an unknown name.
    """
    names = [m["name"] for m in _REGION.finditer(text)]
    if len(_MARK.findall(text)) != 2 * len(names):
        raise RegionError("a mark <!-- results:NAME --> or <!-- /results --> has no partner")
    unknown = sorted(set(names) - set(REGIONS))
    if unknown:
        raise RegionError(f"no such region: {unknown[0]!r}; there are {', '.join(REGIONS)}")
    return _REGION.sub(lambda m: f"{m[1]}{REGIONS[m['name']](facts)}\n<!-- /results -->", text)


def interval_of(figure: Mapping[str, float | None]) -> Interval:
    """Return a figure of the JSON; NaN where it says null."""
    value, low, high = (figure[k] for k in ("value", "low", "high"))
    return Interval(*(math.nan if x is None else x for x in (value, low, high)))


def worth(auc: Interval) -> str:
    """Say in words what an AUC is worth, by stated levels."""
    if not auc.low > CHANCE:
        return "On these clips it cannot be told from guessing"
    levels = {
        0.7: "A little better than chance, and no more",
        0.8: "Better than chance, and wrong too often to be relied on",
        0.9: "Good enough to be one sign among others, and no verdict",
    }
    return next((words for level, words in levels.items() if auc.value < level), "Good, on these clips")


def headline(facts: Facts) -> str:
    """What the README says of the embedded model's worth."""
    made, data = facts["evaluation"], facts["data"]
    clips, auc = made["clips"], interval_of(made["clips"]["auc"])
    genuine, generated = (_of(clips["called"][label]) for label in ("genuine", "generated"))
    sentences = [
        f"**How good is the embedded model?** {worth(auc)}. On {clips['count']} clips, the generated ones of "
        f"{len(clips['generators'])} generators that took no part in its making, the area under the ROC",
        f"curve is **{auc.value:.2f}** (95 % interval {auc.low:.2f}–{auc.high:.2f}; 0.5 is chance); at the",
        f"threshold frozen beforehand it calls {genuine} genuine clips fake and finds {generated} generated",
        "ones.",
        _spread(clips["generators"]),
        f"By kind: {_listed(clips['kinds'])}.",
        *_origin(made["controls"], auc),
        f"Its training data held {data['genuine_training_minutes']:.0f} minutes of genuine footage.",
    ]
    return textwrap.fill(" ".join(filter(None, sentences)), WIDTH, break_on_hyphens=False)


def _of(row: Mapping[str, int]) -> str:
    return f"{row['fake']} of {sum(row.values())}"


def _spread(generators: Mapping[str, Any]) -> str:
    known = {g: p["auc"]["value"] for g, p in generators.items() if p["scored"] >= MIN_CLIPS}
    known = {g: value for g, value in known.items() if value is not None}
    if len(known) < 2:
        return ""
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return f"By generator it goes from {known[low]:.2f} ({low}) to {known[high]:.2f} ({high})."


def _listed(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {interval_of(part['auc']).value:.2f}" for name, part in parts.items())


def _origin(controls: Facts | None, auc: Interval) -> list[str]:
    """Say how far the clips' origin alone gets, and the model with all clips encoded alike."""
    if not controls:
        return []
    told = next(t for t in controls["tellers"] if t["name"] == "container facts")
    across = interval_of(told["across"]).value
    twin = next((t for t in controls["twins"] if t["name"] == "re-encode"), None)
    lines = [
        f"The collections differ so much in length, size and rates that those alone reach {across:.2f}"
        if across > auc.value
        else f"Length, size and rates alone reach {across:.2f}"
    ]
    if twin is not None:
        lines.append(f"with every clip encoded anew, alike, the model gets {twin['auc']['value']:.2f}")
    return ["; ".join(lines) + ".", *_pairs(controls, auc)]


def _pairs(controls: Facts, auc: Interval) -> list[str]:
    """Say what is left of the figure where both clips are of the same footage."""
    model = next(t for t in controls["tellers"] if t["name"] == MODEL)
    within = interval_of(model["within"])
    if not math.isfinite(within.value):
        return []
    line = (
        f"Of {controls['pairs']} pairs of a generated and a genuine clip of the same footage the model puts "
        f"{100 * within.value:.0f} % in the right order"
    )
    if auc.low > CHANCE and within.high < CHANCE:
        line += ", fewer than chance would: its area rests on which collections the clips come from"
    return [line + "."]


_CARD_FIGURES = (
    ("auc", "AUC"), ("tpr_at_5", "TPR at 5 % FPR"), ("eer", "equal error rate"),
    ("balanced_accuracy", "balanced accuracy at the threshold"), ("calibration_error", "calibration error"),
    ("even_calibration_error", "calibration error at even odds, which scores are for"),
)  # fmt: skip


def card_figures(facts: Facts) -> str:
    """The head table of the model card."""
    made = facts["evaluation"]
    levels = [made[level] for level in ("clips", "windows")]
    rows = [["scored", *(f"{level['scored']} of {level['count']}" for level in levels)]]
    for key, title in _CARD_FIGURES:
        rows.append([title, *(shown(interval_of(of[key])) if key in of else NOTHING for of in levels)])
    for label, what in (("genuine", "genuine called fake"), ("generated", "generated called fake")):
        rows.append([f"{what} at {made['threshold']:.3f}", *(_of(of["called"][label]) for of in levels)])
    head = f"Model `{made['model']}`, split `{made['split']}`; 95 % intervals resample people and footage."
    return f"{head}\n\n{table(['figure', 'clips', 'windows'], rows)}"


def card_parts(facts: Facts) -> str:
    """AUC by generator, kind and modality."""
    clips = facts["evaluation"]["clips"]
    rows = [
        [title, name, f"{part['scored']} of {part['count']}", shown(interval_of(part["auc"]))]
        for title, key in (("generator", "generators"), ("kind", "kinds"), ("generated", "modalities"))
        for name, part in clips[key].items()
    ]
    return table(["by", "part", "scored", "AUC against all genuine clips"], rows)


def card_controls(facts: Facts) -> str:
    """The controls in one table."""
    controls = facts["evaluation"]["controls"]
    if not controls:
        return "Not measured."
    rows = [
        [f"twin: {cell_name(t)}", shown(interval_of(t["auc"])), f"{shown(interval_of(t['drop']))} less"]
        for t in controls["twins"]
    ]
    rows += [
        [t["name"], shown(interval_of(t["across"])), f"{shown(interval_of(t['within']))} within pairs"]
        for t in controls["tellers"]
    ]
    return table(["control", "AUC across clips", f"beside it ({controls['pairs']} pairs)"], rows)


def card_robustness(facts: Facts) -> str:
    """Every cell of the sweep."""
    sweep = facts["evaluation"]["sweep"]
    if not sweep:
        return "Not measured."
    rows = [
        [
            cell_name(c),
            f"{c['scored']} of {c['clips']}",
            *(shown(interval_of(c[k])) for k in ("auc", "drop", "rise")),
        ]
        for c in sweep["cells"]
    ]
    head = f"{sweep['clips']} of {sweep['out_of']} clips, the same in every cell."
    return f"{head}\n\n{table(['perturbation', 'scored', 'AUC', 'drop', 'change of the fake score'], rows)}"


def card_alarms(facts: Facts) -> str:
    """False alarms and found clips, in two sentences."""
    alarms = facts["evaluation"]["alarms"]
    genuine, found = alarms["genuine"], alarms["generated"]
    joined = genuine["all_clips_one_stream"]
    return (
        f"On {number(genuine['hours'])} hours of genuine footage, end to end, the default rule raises "
        f"{joined['count']} alarms ({shown(interval_of(joined['per_hour']))} per hour). Of {found['clips']} "
        f"generated clips {found['alarmed']} raise one."
    )


def card_data(facts: Facts) -> str:
    """Clips by split, class and licence."""
    data = facts["data"]
    rows = [[r["licence"], *(str(r[k]) for k in data["sides"])] for r in data["licences"]]
    totals = [["**all**", *(f"**{data['clips'][k]}**" for k in data["sides"])]]
    minutes = [["minutes", *(f"{data['minutes'][k]:.1f}" for k in data["sides"])]]
    return table(["licence as stated at the source", *data["sides"]], [*rows, *totals, *minutes])


REGIONS: dict[str, Callable[[Facts], str]] = {
    "headline": headline,
    "figures": card_figures,
    "parts": card_parts,
    "controls": card_controls,
    "robustness": card_robustness,
    "alarms": card_alarms,
    "goals": card_goals,
    "data": card_data,
}


def stands_out(made: Facts) -> list[str]:
    """Return what a reader should see first, each by a rule: an interval off its mark."""
    clips, auc = made["clips"], interval_of(made["clips"]["auc"])
    lines = [f"{worth(auc)}: AUC {shown(auc)} on whole clips."]
    weak = [
        f"{g} {number(interval_of(p['auc']).value)}"
        for g, p in clips["generators"].items()
        if p["scored"] >= MIN_CLIPS and not interval_of(p["auc"]).low > 0.5
    ]
    if weak:
        lines.append(f"Generators that cannot be told from genuine clips: {', '.join(weak)}.")
    if made["controls"]:
        lines += _pairs(made["controls"], auc)
    cells = (made["sweep"] or {}).get("cells", [])
    fallen = [
        f"{cell_name(c)} by {number(c['drop']['value'])}" for c in cells if interval_of(c["drop"]).low > 0
    ]
    if fallen:
        lines.append(f"The AUC surely falls under {', '.join(fallen)}.")
    moved = [
        f"{cell_name(c)} by {c['rise']['value']:+.3f}"
        for c in cells
        if interval_of(c["rise"]).low > MAX_RISE or interval_of(c["rise"]).high < -MAX_RISE
    ]
    if moved:
        lines.append(f"The fake score, of whatever clip, moves under {', '.join(moved)}.")
    return lines
