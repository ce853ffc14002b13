"""Kill a training run at random moments, resume it, and compare its weights with an undisturbed run's.

    python tools/soak_train.py --kills 20 --inside-saves 5

One tiny run is trained to its end.  Then, for every kill, a fresh one with the same settings is ended by
SIGKILL and the same call repeated, which goes on from what the dead process left.  Weights are compared
by the SHA-256 of the tensors in ``best_model.pth`` and ``last.pth``.  A kill inside a save comes where
a checkpoint is flushed to the disk, with the file cut to a random length as if it was still being written.
The clips are synthetic: what they show makes no difference to what a kill can break.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import cv2
import numpy as np
import torch

from avff.engine.spec import SPEC
from avff.engine.threads import stay_in_caller
from avff.trainer.checkpoints import CheckpointError, load_verified
from avff.trainer.config import RunSettings
from avff.trainer.data.entry import FRAME_SAMPLES, Prepared, encode
from avff.trainer.data.manifest import Clip
from avff.trainer.data.shards import ShardStore, ShardWriter, entry_key
from avff.trainer.data.splits import Split
from avff.trainer.paths import RunPaths
from avff.trainer.run import fit
from avff.trainer.run_data import RunData

_PROCESSES = multiprocessing.get_context("forkserver")
"""Its server has imported all a run needs, which takes longer than the run, and has trained nothing: PyTorch
refuses gradients in a fork of a process that has."""
_PROCESSES.set_forkserver_preload(["avff.trainer.run"])
_PICTURES = 2 * SPEC.window_frames
_EPOCHS = 3
_PATIENCE_S = 300.0
"""A tiny run that takes longer hangs."""
_KILLED = "killed"


class SoakError(Exception):
    """Nothing can be compared: the run that nobody disturbs has failed."""


@dataclass(frozen=True)
class Kill:
    """How a run was killed, and what became of it.

    Attributes:
        moment: in words.
        epochs: that were whole by then, over both stages.
        outcome: ``equal``, or what went wrong.
    """

    moment: str
    epochs: int
    outcome: str


class Rig:
    """Trains the same tiny run again and again, each time in a process of its own.

    Args:
        folder: for clips and runs.
        seed: of clips and training.

    Raises:
        SoakError: it cannot be trained even without a kill.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._data = tiny_data(folder / "data", seed)
        started = time.monotonic()
        self._flushes = _PROCESSES.Value("i", 0)
        paths = self._paths("undisturbed")
        failure = self._train(paths, partial(_count_flushes, self._flushes))
        if failure:
            raise SoakError(f"the undisturbed run failed: {failure}")
        self.duration_s = time.monotonic() - started
        self._wanted = weights_sha256(paths)

    def killed_at(self, number: int, delay_s: float) -> Kill | None:
        """Kill a run from outside after ``delay_s``; None if it had ended by then."""
        paths = self._paths(f"run-{number}")
        moment = f"after {delay_s:.2f} s"
        failure = self._train(paths, _nothing, kill_after_s=delay_s)
        if failure == _KILLED:
            return self._resumed(paths, moment)
        return Kill(moment, _epochs(paths), failure) if failure else None

    def killed_inside_a_save(self, number: int, rng: np.random.Generator) -> Kill:
        """Let a run kill itself where it flushes a checkpoint, at one of the undisturbed run's flushes."""
        paths = self._paths(f"run-{number}")
        flush = int(rng.integers(1, self._flushes.value + 1))
        share = float(rng.random())
        moment = f"in flush {flush} of {self._flushes.value}"
        failure = self._train(paths, partial(_die_in_flush, flush, share))
        if failure != _KILLED:
            return Kill(moment, _epochs(paths), failure or "was not killed")
        return self._resumed(paths, moment)

    def _resumed(self, paths: RunPaths, moment: str) -> Kill:
        epochs = _epochs(paths)
        failure = self._train(paths, _nothing)
        if failure:
            return Kill(moment, epochs, failure)
        try:
            found = weights_sha256(paths)
        except CheckpointError as error:
            return Kill(moment, epochs, str(error))
        shutil.rmtree(paths.root)
        return Kill(moment, epochs, "equal" if found == self._wanted else "other weights")

    def _train(self, paths: RunPaths, prepare: Callable[[], None], *, kill_after_s: float = 0.0) -> str:
        """Train in a process of its own; return what went wrong, empty if nothing did."""
        log = self._folder / f"{paths.root.name}.log"
        process = _PROCESSES.Process(
            target=self._child, args=(tiny_settings(paths.root, self._seed), paths, prepare, log)
        )
        process.start()
        process.join(kill_after_s or _PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
            return _KILLED if kill_after_s else f"hung for {_PATIENCE_S:.0f} s"
        if process.exitcode == -signal.SIGKILL:
            return _KILLED
        lines = log.read_text(errors="replace").splitlines()
        return "" if process.exitcode == 0 else f"exit {process.exitcode}: {lines[-1] if lines else ''}"

    def _child(self, settings: RunSettings, paths: RunPaths, prepare: Callable[[], None], log: Path) -> None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        warnings.simplefilter("ignore")  # Lightning's advice on loaders; errors end the process
        stay_in_caller()
        torch.set_num_threads(1)
        prepare()
        fit(settings, self._data, paths)

    def _paths(self, name: str) -> RunPaths:
        return RunPaths(self._folder / name, "soak")


def soak(kills: int, inside_saves: int, seed: int) -> list[Kill]:
    """Kill ``kills`` runs, ``inside_saves`` of them inside a save, and print a line for each.

    Raises:
        SoakError: even the undisturbed run failed.
    """
    rng = np.random.default_rng(seed)
    found: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="avff-soak-") as folder:
        rig = Rig(Path(folder), seed)
        print(f"undisturbed run: {rig.duration_s:.1f} s, seed {seed}")
        print(f"{'kill':>4}  {'moment':20}  {'whole epochs':>12}  weights after resuming")
        attempt = 0
        while len(found) < kills:
            attempt += 1
            if len(found) < inside_saves:
                kill: Kill | None = rig.killed_inside_a_save(attempt, rng)
            else:
                kill = rig.killed_at(attempt, float(rng.uniform(0.02, rig.duration_s)))
            if kill is not None:  # else it was done before the kill came: another moment is drawn
                found.append(kill)
                line = f"{len(found):4}  {kill.moment:20}  {kill.epochs:12}  {kill.outcome}"
                print(line, flush=True)
    return found


def tiny_settings(output: Path, seed: int) -> RunSettings:
    """Return two short stages with what a resumed run must get right: dropout, average, schedule."""
    return RunSettings.model_validate(
        {
            "name": "soak",
            "output": output,
            "data": {"workers": 0},
            "mix": {"generated": 1.0, "vocoder": 1.0, "freeze": 1.0},
            "model": {"width": 16, "heads": 2, "depth": 1, "dropout": 0.3},
            "encoders": {"epochs": 1, "slices_per_epoch": 4, "batch": 2},
            "train": {
                "epochs": _EPOCHS,
                "windows_per_epoch": 4,
                "batch": 2,
                "validation_windows": 1,
                "seed": seed,
                "ema": 0.9,
            },
        }
    )


def tiny_data(root: Path, seed: int) -> RunData:
    """Write prepared clips of four people and two generators, half of them for validation."""
    rng = np.random.default_rng(seed)
    sides = [[_clip(f"{side}-{k}", rng, fake=k == 2) for k in range(3)] for side in ("train", "validation")]
    clips = [clip for side in sides for clip in side]
    with ShardWriter(root, shard_bytes=2**30) as writer:
        for clip in clips:
            files = encode(_prepared(rng), "bmp", {"clip": asdict(clip)})
            writer.add(entry_key(clip.sha256, "bmp"), files, "bmp")
    split = Split(tuple(sides[0]), tuple(sides[1]))
    return RunData(root, None, ShardStore(root, clips), split, ())


def weights_sha256(paths: RunPaths) -> str:
    """Return the SHA-256 of all tensors of a finished run's weights, best and last."""
    digest = hashlib.sha256()
    for name in ("best_model.pth", "last.pth"):
        state: dict[str, torch.Tensor] = load_verified(paths.checkpoints / name)["state_dict"]
        for key, value in sorted(state.items()):
            digest.update(f"{name} {key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when every resumed run ended with the undisturbed run's weights."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20, help="runs to kill (default 20)")
    parser.add_argument("--inside-saves", type=int, default=5, help="of these, inside a save (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of clips, training and moments (default 0)")
    options = parser.parse_args(argv)
    if not 0 <= options.inside_saves <= options.kills or not options.kills:
        parser.error("--kills must be at least 1 and not less than --inside-saves")
    try:
        found = soak(options.kills, options.inside_saves, options.seed)
    except SoakError as error:
        print(f"soak_train: {error}", file=sys.stderr)
        return 1
    equal = sum(kill.outcome == "equal" for kill in found)
    print(f"{equal}/{len(found)} equal")
    return 0 if equal == len(found) else 1


def _clip(name: str, rng: np.random.Generator, *, fake: bool) -> Clip:
    return Clip(
        uid=name, path=f"{name}.mp4", dataset="soak", label=int(fake),
        label_video=int(fake), label_audio=0, kind="full-synthesis" if fake else "real",
        generators=("noise",) if fake else (), identities=() if fake else (name,),
        duration_s=_PICTURES / SPEC.fps, sha256=rng.bytes(32).hex(),
    )  # fmt: skip


def _prepared(rng: np.random.Generator) -> Prepared:
    """Return a surface that moves, points and a swelling noise in place of a face and a voice."""
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    surface = cv2.resize(coarse, (SPEC.face_px, SPEC.face_px), interpolation=cv2.INTER_CUBIC)
    samples = SPEC.context_samples + _PICTURES * FRAME_SAMPLES
    swell = 0.1 * np.sin(np.linspace(0, 60, samples)) ** 2
    return Prepared(
        faces=np.stack([np.roll(surface, k, axis=1) for k in range(_PICTURES)]),
        ok=np.ones(_PICTURES, np.bool_),
        landmarks=rng.uniform(0, SPEC.face_px, (_PICTURES, 468, 3)).astype(np.float32),
        motion=rng.normal(0, 1, (_PICTURES, 6)).astype(np.float32),
        audio=(rng.normal(0, 1, samples) * swell).astype(np.float32),
        audio_ok=np.ones(_PICTURES // SPEC.slice_frames, np.float32),
    )


def _epochs(paths: RunPaths) -> int:
    return len(paths.history.read_text().splitlines()) if paths.history.is_file() else 0


def _nothing() -> None:
    """Train as it is."""


def _watch_flushes(before: Callable[[int], None]) -> None:
    """Call ``before`` with the handle whenever a checkpoint, its hashes or their folder are flushed."""
    original = os.fsync

    def fsync(handle: int) -> None:
        if "checkpoints" in Path(os.readlink(f"/proc/self/fd/{handle}")).parts:
            before(handle)
        original(handle)

    os.fsync = fsync  # type: ignore[assignment]


def _count_flushes(count: Synchronized[int]) -> None:
    def note(handle: int) -> None:
        del handle
        count.value += 1

    _watch_flushes(note)


def _die_in_flush(number: int, share: float) -> None:
    """Die in flush ``number``, counted from 1, of a file of which ``share`` has been written."""
    seen = 0

    def die(handle: int) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            facts = os.fstat(handle)
            if stat.S_ISREG(facts.st_mode):  # a folder's handle cannot be cut
                os.ftruncate(handle, int(share * facts.st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    _watch_flushes(die)


if __name__ == "__main__":
    raise SystemExit(main())
