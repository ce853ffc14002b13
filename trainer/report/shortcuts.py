"""The section on shortcut controls: tables, what each control can show, and what it did show."""

from __future__ import annotations

import math

from avff.trainer.perturb import REENCODED, TRIMMED
from avff.trainer.perturb.twins import TWIN_KBPS, TWIN_PX
from avff.trainer.report.tables import shown, table
from avff.trainer.shortcuts import CHANCE, LENGTH, MARGIN, Shortcuts, Teller
from avff.trainer.sweep import Cell

_TWINS = f"""\
A twin is the same clip without something that may tell genuine and generated clips apart and is no forgery.
**Leading silence**: some generators' clips start silent, or genuine ones do; picture and sound up to the
first loud sample are cut off (AVH-Align's rule: above 5e-4 of full scale at 16 kHz), at least 40 ms of every
clip. **Re-encode**: every clip, genuine or generated, goes through the same chain: 25 pictures a second,
{TWIN_PX[0]}x{TWIN_PX[1]} with black bars, H.264, Opus at {TWIN_KBPS} kbit/s. Size, rates, codecs and bit rate
then say nothing more; the length of a clip stays. An AUC that falls with a twin rested on what the twin took
away. One that stays shows that it did not; it does not show what it rests on instead. The difference is
paired: its interval (95 %) resamples groups of clips that share a person or footage, each with both of its
scores."""
_FACTS = f"""\
A random forest that sees no picture and hears no sound, only what the container says (length, size, frame
rate, audio rate, bytes, bit rate), fitted to other people and footage of the judged clips. *Across* compares
clips of different collections, as the model's AUC does: what the forest reaches there, the origin of the
clips gives away. *Within pairs* compares a generated clip with the genuine clip of the same footage, where
origin is the same: what is left there is the generator's own container.
Near chance is {CHANCE} ± {MARGIN}."""
_NAMES = {TRIMMED: "leading silence cut off", REENCODED: "every clip encoded anew, alike"}


def shortcut_section(made: Shortcuts) -> list[str]:
    """Return the section as paragraphs and tables."""
    twins = [
        [_NAMES[c.perturbation.name], f"{c.scored} of {c.clips}", shown(c.clean), shown(c.auc), shown(c.drop)]
        for c in made.twins
    ]
    tellers = [[t.name, shown(t.across), shown(t.within)] for t in (*made.facts, made.model)]
    return [
        "## Controls",
        _TWINS,
        table(["twin", "scored both ways", "AUC as they are", "AUC of the twin", "difference"], twins),
        _FACTS,
        table(["told by", "AUC across clips", f"in order within {made.pairs} pairs"], tellers),
        "\n".join(f"- {line}" for line in verdicts(made)),
    ]


def verdicts(made: Shortcuts) -> list[str]:
    """Return what the controls showed, each by a rule: an interval off its mark, a figure off chance."""
    return [
        *map(_on_twin, made.twins),
        *_on_model(made),
        *(_on_facts(teller, made) for teller in made.facts),
    ]


def _on_model(made: Shortcuts) -> list[str]:
    """Say whether what the model gets across clips holds on the same footage."""
    across, within = made.model.across, made.model.within
    if not (across.low > CHANCE and math.isfinite(within.value)):
        return []
    figures = f"AUC {shown(across)} across clips, {shown(within)} of pairs in order"
    if within.low > CHANCE:
        return [f"The model tells generated clips from genuine ones of the same footage too: {figures}."]
    if within.high < CHANCE:
        return [
            f"**A shortcut**: {figures}. On the same footage the model puts the generated clip lower more "
            "often than not, so its AUC rests on which collections the clips come from. Train on pairs of "
            "one footage."
        ]
    return [f"Not shown on the same footage: {figures}; the AUC may rest on the collections."]


def _on_twin(cell: Cell) -> str:
    name = _NAMES[cell.perturbation.name]
    if cell.drop.low > 0:
        return (
            f"**A shortcut**: {name}, the AUC falls by {shown(cell.drop)}. Part of the figure rests on what "
            "was taken away; quote the twin's."
        )
    if cell.drop.high < 0:
        return (
            f"No shortcut to the model's favour: {name}, the AUC rises; the difference is {shown(cell.drop)}."
        )
    return f"No shortcut seen: {name}, the AUC changes by no more than chance would ({shown(cell.drop)})."


def _on_facts(teller: Teller, made: Shortcuts) -> str:
    across, within = teller.near_chance
    if across and within:
        return f"{teller.name}: near chance both ways."
    said = (
        f"{teller.name}: {shown(teller.across)} across clips, {shown(teller.within)} within pairs. "
        f"{_where(teller)}"
    )
    twin = next((c for c in made.twins if c.perturbation.name == REENCODED), None)
    if teller.name == LENGTH:
        return (
            f"{said} A clip's score is the mean of its windows, all of one length: it does not know how many."
        )
    if twin is None:
        return said
    return (
        f"{said} The model sees no container; with all containers alike its AUC is {shown(twin.auc)} instead "
        f"of {shown(twin.clean)}, and that these facts cannot explain but by what goes with them."
    )


def _where(teller: Teller) -> str:
    across, within = teller.near_chance
    if not math.isfinite(teller.within.value):
        return (
            "The deviation comes from the clips' origin; there are no pairs to tell whether from collections."
        )
    if across:
        return "The generators' containers differ from those of their footage."
    if within:
        return "The deviation comes from the collections: it goes where both clips are of the same footage."
    return "The deviation comes from the collections, and from the generators' containers too."
