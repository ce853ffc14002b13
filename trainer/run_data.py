"""The clips of a run: found, split without leaks, prepared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avff.engine.errors import SettingsError
from avff.trainer.config import DataSettings, RunSettings
from avff.trainer.data.folder import MANIFEST, open_prepared
from avff.trainer.data.manifest import Clip, read_manifest
from avff.trainer.data.prepare import prepare
from avff.trainer.data.shards import ShardStore
from avff.trainer.data.splits import (
    LeakError,
    Split,
    SplitError,
    check_split,
    group_of,
    labelled,
    shared_by,
    split_clips,
    split_groups,
    split_official,
)
from avff.trainer.datasets import DatasetError, scan
from avff.trainer.datasets.table import read_table
from avff.trainer.distributed import first_speaks, say

DATA_VARIABLE = "AVFF_DATA"


@dataclass(frozen=True)
class RunData:
    """A run's clips and where they are.

    Attributes:
        root: data root.
        manifest: the file that lists them, for its hash; None when a dataset's own layout does.
        store: prepared clips.
        split: training and validation clips.
        judges: clips that judge the finished model.
        judged_as: settings that validation windows are drawn by, for runs that are to be compared; None:
            each run's own.
    """

    root: Path
    manifest: Path | None
    store: ShardStore
    split: Split
    judges: tuple[Clip, ...]
    judged_as: RunSettings | None = None


@first_speaks()
def load_data(settings: RunSettings) -> RunData:
    """Find the clips, split them, and prepare those that training needs unless that was done before.

    Raises:
        SettingsError: no data root.
        ManifestError, SplitError, ShardError: the data is not fit for training.
    """
    data = settings.data
    root = _root(data)
    if data.prepared is not None:
        clips, store = open_prepared(data.prepared)
        split, judges = divide(clips, data, settings.train.seed)
        return RunData(root, data.prepared / MANIFEST, store, split, judges)
    clips, manifest = _listed(data, root)
    split, judges = divide(clips, data, settings.train.seed)
    done = prepare(
        [*split.train, *split.validation], root, settings.output / "cache", workers=max(1, data.workers)
    )
    for uid, reason in done.bad.items():
        say(f"left out {uid}: {reason}")
    usable = Split(
        tuple(done.clips[c.uid] for c in split.train if c.uid in done.clips),
        tuple(done.clips[c.uid] for c in split.validation if c.uid in done.clips),
    )
    check_split(usable)
    return RunData(root, manifest, done.store, usable, judges)


def check_places(data: RunData) -> None:
    """Check that the data root holds the clips that will be judged whole: no training brings them back.

    Raises:
        DatasetError: naming the first that is missing.
    """
    judged = [*data.split.validation, *data.judges]
    missing = [clip.path for clip in judged if not (data.root / clip.path).is_file()]
    if missing:
        raise DatasetError(
            f"{data.root}: holds no {missing[0]} ({len(missing)} of the {len(judged)} clips that validate or "
            f"judge are missing); set data.root or {DATA_VARIABLE} to the folder the clips lie in"
        )


def divide(clips: Sequence[Clip], data: DataSettings, seed: int) -> tuple[Split, tuple[Clip, ...]]:
    """Choose which clips train, which validate and which judge; no person or footage is in two of them.

    With ``people`` a clip that shares one with a judge is left out, aloud.  With ``official`` that is
    refused: whoever follows published lists must know that they leak.

    Raises:
        LeakError: the dataset's own lists leak; both clips are named.
        SplitError: that cannot be had.
    """
    known = labelled(clips)
    if len(known) < len(clips):
        say(f"left out {len(clips) - len(known)} clips without a label")
    if data.split == "groups":
        outer = split_groups(known, share=data.judge_share, seed=seed)
        return split_groups(outer.train, share=data.validation_share, seed=seed), outer.validation
    judges = tuple(c for c in known if c.split == data.judge_split)
    if len({c.label for c in judges}) < 2:
        raise SplitError(f"split {data.judge_split!r} needs genuine and generated clips to judge by")
    mine = [c for c in known if c.split == data.train_split]
    if data.split == "official":
        _refuse_leak(judges, [c for c in known if c.split in (data.train_split, data.validation_split)])
    mine = _apart_from(judges, mine, known)
    if data.split == "official":
        if data.validation_split is None:
            split = split_groups(mine, share=data.validation_share, seed=seed)
        else:
            pool = [c for c in known if c.split == data.validation_split]
            mine += _apart_from(judges, pool, known)
            split = split_official(mine, train=[data.train_split], validation=[data.validation_split])
    else:
        split = split_clips(mine, share=data.validation_share, held_out=data.held_out_generators, seed=seed)
    return split, judges


def _refuse_leak(judges: Sequence[Clip], others: Sequence[Clip]) -> None:
    for clip, judge, what in shared_by(others, judges):
        raise LeakError(
            f"{clip.uid} ({clip.split}) and {judge.uid} ({judge.split}), which judges, share {what}: these "
            "official lists leak; set data.split to groups to make others"
        )


def _apart_from(judges: Sequence[Clip], mine: Sequence[Clip], known: Sequence[Clip]) -> list[Clip]:
    """Leave out what shares a person or footage with a clip that judges."""
    groups = group_of(known)
    judged = {groups[c.uid]: c.uid for c in judges}
    for clip in mine:
        if groups[clip.uid] in judged:
            judge = judged[groups[clip.uid]]
            say(f"left out {clip.uid}: {judge}, which judges, shows the same person or footage")
    return [c for c in mine if groups[c.uid] not in judged]


def _root(data: DataSettings) -> Path:
    if data.root is not None:
        return data.root
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE])
    raise SettingsError(f"no data: set data.root in the configuration or {DATA_VARIABLE} in the environment")


def _listed(data: DataSettings, root: Path) -> tuple[list[Clip], Path | None]:
    """Return the clips, and the file that lists them if it is a single one."""
    if data.dataset != "table":
        found = scan(data.dataset, root)
        for warning in found.warnings:
            say(warning)
        return found.clips, None
    manifest = root / data.manifest
    return (read_table(manifest) if manifest.suffix == ".csv" else read_manifest(manifest)), manifest
