"""Checkpoints that survive a crash at any moment, and are never loaded when damaged.

A new checkpoint is written beside the old one, flushed to the disk, and takes its name
only then; the one before is kept under ``NAME.previous``.  The SHA-256 of both stand in
``NAME.sha256``, which is renewed before any name changes, so whichever files a crash
leaves can be checked.  Loading never unpickles code (``weights_only=True``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from avff.trainer.durable import flush, scratch_of, take_name, write_durably


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message names the file and the way out."""


class DurableCheckpointIO(CheckpointIO):
    """Lightning's reader and writer of checkpoints, with the guarantees of this module."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: the disk is full, or not writable; the old one is still there.
        """
        del storage_options
        save_durably(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that is known to be whole.

        Raises:
            CheckpointError: it is damaged.
        """
        del weights_only  # never anything else
        return load_verified(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint with its hashes and its predecessor."""
        for file in (Path(path), previous_of(Path(path)), _hashes_of(Path(path))):
            file.unlink(missing_ok=True)


def save_durably(content: Mapping[str, Any], path: Path) -> None:
    """Write ``content`` (tensors and plain values) to ``path``, keeping the file before as well.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    scratch = scratch_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            torch.save(dict(content), file)
            flush(file)
        before = next((p for p in (path, previous_of(path)) if p.is_file() and is_whole(p)), None)
        known = [_sha256(scratch), *([_sha256(before)] if before else [])]
        write_durably(_hashes_of(path), lambda file: file.write(json.dumps(known).encode()))
        if before == path:
            path.replace(previous_of(path))
        take_name(scratch)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        scratch.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}); make room and start again") from error


def load_verified(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint after comparing it with its hash.

    Raises:
        CheckpointError: missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not is_whole(path):
        raise CheckpointError(f"{path}: is damaged (its SHA-256 is not the one it was saved with)")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise CheckpointError(f"{path}: is no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is no checkpoint (it holds a {type(content).__name__})")
    return content


def newest_whole(path: Path) -> Path | None:
    """Return the checkpoint to go on from: ``path``, else the one before it, else None.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    present = [p for p in (path, previous_of(path)) if p.is_file()]
    whole = next((p for p in present if is_whole(p)), None)
    if present and whole is None:
        raise CheckpointError(
            f"{path}: is damaged, and so is the one before; delete the run's checkpoints to start anew"
        )
    return whole


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is, byte for byte, one that was saved under its name."""
    base = path.with_name(path.name.removesuffix(".previous"))
    return _sha256(path) in _known(base)


def previous_of(path: Path) -> Path:
    """Return the name under which the checkpoint before is kept."""
    return path.with_name(path.name + ".previous")


def _hashes_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _known(path: Path) -> list[str]:
    try:
        found = json.loads(_hashes_of(path).read_text())
    except (OSError, ValueError):
        return []
    return [str(h) for h in found] if isinstance(found, list) else []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
