"""Where everything lies in a shard: its index, and how both get onto the disk.

An index is written after its shard, by reading it; it holds the place of every member, and
the small facts that draws are made from.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avff.trainer.data.entry import load_npy
from avff.trainer.durable import write_durably

_SHARD = re.compile(r"shard-(\d{6})\.tar")
_VERSION = 1
Index = dict[str, npt.NDArray[Any]]
"""``keys`` ``[N]`` names of entries; ``members`` int64 ``[N, 8, 2]`` first byte and size in bytes of each of
``entry.MEMBERS``; ``lengths`` int64 ``[N]`` pictures; ``ok`` and ``audio_ok`` of all entries joined."""


class ShardError(Exception):
    """A folder of prepared clips is missing, damaged or of another kind; the message names the way out."""


def write_index(path: Path) -> Index:
    """Index a shard by reading it, so that the index says what is truly there.

    Raises:
        tarfile.TarError, ValueError, EOFError: the shard is torn.
    """
    members: dict[str, list[tuple[int, int]]] = {}
    facts: dict[str, list[npt.NDArray[Any]]] = {"ok": [], "audio_ok": []}
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            key, name = info.name.split(".", 1)
            members.setdefault(key, []).append((info.offset_data, info.size))
            content = tar.extractfile(info)
            if (fact := name.removesuffix(".npy")) in facts and content is not None:
                facts[fact].append(load_npy(content.read()))
    index: Index = {
        "version": np.array(_VERSION),
        "tar_bytes": np.array(path.stat().st_size),
        "keys": np.array(list(members)),
        "members": np.array(list(members.values()), np.int64),
        "lengths": np.array([len(ok) for ok in facts["ok"]], np.int64),
        "ok": np.concatenate(facts["ok"]),
        "audio_ok": np.concatenate(facts["audio_ok"]),
    }
    write_durably(index_of(path), lambda file: np.savez(file, allow_pickle=False, **index))
    return index


def read_index(path: Path) -> Index:
    """Read a shard's index.

    Raises:
        ShardError: it is missing or damaged, or the shard has another length.
    """
    try:
        with np.load(index_of(path), allow_pickle=False) as file:
            index = {name: file[name] for name in file.files}
        whole = index["version"] == _VERSION and index["tar_bytes"] == path.stat().st_size
    except (OSError, ValueError, KeyError) as error:
        raise ShardError(f"{index_of(path)}: cannot be read; run avff-prepare again") from error
    if not whole:
        raise ShardError(f"{path}: is not what its index says; run avff-prepare again")
    return index


def shards_in(out: Path) -> list[Path]:
    """Return the finished shards of a folder, in order."""
    return sorted(path for path in out.glob("shard-*.tar") if _SHARD.fullmatch(path.name))


def next_number(shards: Sequence[Path]) -> int:
    """Return the number of a shard that comes after all these."""
    return 1 + max((int(path.name[len("shard-") : -len(".tar")]) for path in shards), default=-1)


def index_of(path: Path) -> Path:
    """Return where a shard's index is."""
    return path.with_suffix(".index.npz")
