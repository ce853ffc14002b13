"""Real windows to judge an engine by: the first seconds of labelled clips, cut as the daemon cuts them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avff.engine.errors import MediaError
from avff.engine.faces.models import load_face_models
from avff.engine.offline import iterate_slices
from avff.engine.slices import Slice
from avff.engine.spec import SPEC
from avff.trainer.datasets.table import FILE, read_table
from avff.trainer.engines.errors import WindowsError
from avff.trainer.sweep import stratified

CLIP_SLICES = 16
"""Slices of a clip that are looked at, 5.12 s."""
HOP_SLICES = 2
"""From one window of a clip to the next: up to five a clip, neighbours three quarters the same."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlices:
    """The beginning of a clip.

    Attributes:
        uid: of the clip.
        label: 1 when anything in it is generated, else 0.
        slices: in order, without a gap, at least one window's.
    """

    uid: str
    label: int
    slices: tuple[Slice, ...]

    def ends(self) -> range:
        """Return how many slices from the start each window ends."""
        return range(SPEC.window_slices, len(self.slices) + 1, HOP_SLICES)


def read_clips(
    root: Path, *, count: int, split: str | None, say: Callable[[str], None]
) -> list[LabelledSlices]:
    """Read clips of a data root's ``manifest.csv``, half of them genuine as far as there are.

    A clip that cannot be read, or is shorter than a window, is left out and named.

    Args:
        root: of the data.
        count: of clips at most.
        split: of the manifest; None for all.
        say: is told of the progress.

    Raises:
        FileNotFoundError: there is no manifest.
        ManifestError: it has a wrong row.
        AssetError: the face models are missing.
        WindowsError: no labelled clip.
    """
    if not (root / FILE).is_file():
        raise FileNotFoundError(
            f"{root / FILE}: no such manifest; what is built is checked on labelled clips, "
            f"give --data ROOT or set AVFF_DATA; --data demo makes some of the demo clip"
        )
    listed = read_table(root / FILE)
    clips = [c for c in listed if split in (None, c.split) and c.label is not None]
    if not clips:
        splits = ", ".join(sorted({repr(c.split) for c in listed})) or "none"
        raise WindowsError(f"{root / FILE}: no labelled clip of the split {split!r}; it has {splits}")
    models = load_face_models(progress=True)
    read: list[LabelledSlices] = []
    for number, clip in enumerate(chosen := stratified(clips, count, seed=0), start=1):
        say(f"reading clip {number} of {len(chosen)}: {clip.uid}")
        try:
            slices = tuple(itertools.islice(iterate_slices(root / clip.path, models), CLIP_SLICES))
        except MediaError as error:
            say(f"left out: {error}")
            continue
        if len(slices) < SPEC.window_slices:
            say(f"left out: {clip.uid} is shorter than a window")
            continue
        read.append(LabelledSlices(clip.uid, int(clip.is_fake), slices))
    return read


def count_windows(clips: Sequence[LabelledSlices]) -> int:
    """Return how many windows clips have, with a score or without."""
    return sum(len(clip.ends()) for clip in clips)
