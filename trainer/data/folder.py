"""A folder of prepared clips as ``avff-prepare`` leaves it, and what guards it while it is written."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from avff.engine.spec import SPEC
from avff.trainer.data.entry import CODECS
from avff.trainer.data.manifest import Clip, read_manifest, write_manifest
from avff.trainer.data.shard_index import ShardError
from avff.trainer.data.shards import ShardStore
from avff.trainer.durable import write_durably

MANIFEST = "manifest.jsonl"
BAD = "bad_samples.jsonl"
DIED = "its process died (a crash in a decoder, or too little memory)"
_FACTS = "prepared.json"
_USUAL_BYTES_PER_S = 100_000
"""Of a compressed clip, where no container says how long it is: the 0.8 Mbit/s of a small video."""


def finish_folder(out: Path, clips: Iterable[Clip], picture: str) -> None:
    """Write ``manifest.jsonl`` of the prepared clips, and what ``open_prepared`` goes by."""
    write_manifest(out / MANIFEST, clips)
    facts = {"spec": SPEC.fingerprint(), "picture": picture}
    _write_text(out / _FACTS, json.dumps(facts) + "\n")


def open_prepared(path: Path) -> tuple[list[Clip], ShardStore]:
    """Open a folder that ``avff-prepare`` has finished.

    Raises:
        ShardError: it is none, is damaged, or was prepared by another preprocessing.
        ManifestError: its manifest is missing or wrong.
    """
    try:
        facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        spec, picture = str(facts["spec"]), str(facts["picture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: holds no finished preparation; run avff-prepare with -o {path}") from error
    if spec != SPEC.fingerprint():
        raise ShardError(
            f"{path}: was prepared by other preprocessing ({spec[:8]}, this program's is "
            f"{SPEC.fingerprint()[:8]}); run avff-prepare again"
        )
    clips = read_manifest(path / MANIFEST)
    return clips, ShardStore(path, clips, picture=picture)


def write_bad(out: Path, bad: Iterable[tuple[Clip, str]], *, asked: Container[str]) -> None:
    """List the clips that could not be prepared, with reasons; the file is there even when there are none.

    Those that were decoded in vain have their SHA-256 filled in, and are not tried again.

    Args:
        out: the folder.
        bad: clips of this run, each with its reason.
        asked: uids of all clips of this run; what an earlier one found of others stays.
    """
    spec = SPEC.fingerprint()
    rows = [row for row in _rows_of(out) if row["uid"] not in asked]
    rows += [
        {"uid": clip.uid, "path": clip.path, "sha256": clip.sha256, "spec": spec, "reason": reason}
        for clip, reason in bad
    ]
    _write_text(out / BAD, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def failed_before(out: Path) -> dict[str, str]:
    """Return, by SHA-256, why files could not be decoded in an earlier run with this preprocessing.

    A process that died is no verdict: the same clip may fit into memory another time.
    """
    lasting = (r for r in _rows_of(out) if r["spec"] == SPEC.fingerprint() and r["reason"] != DIED)
    return {r["sha256"]: r["reason"] for r in lasting if r["sha256"]}


def _rows_of(out: Path) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in (out / BAD).read_text(encoding="utf-8").splitlines()]
        return [{name: row[name] for name in ("uid", "path", "sha256", "spec", "reason")} for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{out / BAD}: was changed by hand; delete it to try its clips again") from error


def check_room(out: Path, footage: Sequence[tuple[float, int]], picture: str) -> None:
    """Print how much will be written, and refuse to begin what cannot fit.

    Args:
        out: the folder.
        footage: length in s (0 when no container says) and size in bytes of each clip.
        picture: name of the picture codec.

    Raises:
        ShardError: the disk is too small.
    """
    stated = [(seconds, size) for seconds, size in footage if seconds > 0]
    # Where a container does not say how long it is, its size does, at the rate of the others.
    rate = sum(z for _, z in stated) / sum(s for s, _ in stated) if stated else _USUAL_BYTES_PER_S
    footage_s = sum(seconds if seconds > 0 else size / rate for seconds, size in footage)
    numbers_bytes = 4 * (468 * 3 + 6)
    needed = footage_s * (SPEC.fps * (CODECS[picture].picture_bytes + numbers_bytes) + 4 * SPEC.rate_hz)
    free = shutil.disk_usage(out).free
    say(
        f"{len(footage)} clips, {footage_s / 3600:.2f} h of footage: "
        f"about {needed / 1e9:.2f} GB in {out}, which has {free / 1e9:.2f} GB free"
    )
    if needed > free:
        raise ShardError(f"{out}: too little room; make some, choose another folder, or store jpeg")


@contextmanager
def nobody_else(out: Path) -> Iterator[None]:
    """Wait until no other process writes to the folder; the lock ends with the process, however it ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that writes to {out}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """Tell the user, beside the progress bars."""
    sys.stderr.write(f"prepare: {text}\n")


def _write_text(path: Path, text: str) -> None:
    write_durably(path, lambda file: file.write(text.encode()))
