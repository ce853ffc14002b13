"""A data root of a few seconds: six "people" and two "generators", all cut out of the demo clip."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from avff.engine.media import UInt8
from avff.trainer.data.manifest import Clip
from tests.support.training import Change, make_clip, talking_clip, write_manifest

SECONDS = 3.0
HELD_OUT = "Blur"


def write_tiny_data(root: Path) -> Path:
    """Write the clips and ``manifest.csv``; return the root."""
    clips = []
    for clip, change, pitch, start_s in _clips():
        path = root / clip.uid
        path.parent.mkdir(parents=True, exist_ok=True)
        talking_clip(path, seconds=SECONDS, start_s=start_s, change=change, pitch=pitch)
        clips.append(dataclasses.replace(clip, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    write_manifest(root, clips)
    return root


def _clips() -> Iterator[tuple[Clip, Change, float, float]]:
    """Rows, with how each is made of the demo clip: its look, its pitch, and where it begins."""
    for k in range(6):
        clip = make_clip(f"train/real/{k}.mp4", identity=f"p{k}", duration_s=SECONDS)
        yield clip, _person(k), 0.8 + 0.08 * k, 0.5 * k
    for generator, change in (("Edge", _sharp), (HELD_OUT, _soft)):
        for k in range(2):
            yield _fake(f"train/{generator}/{k}.mp4", generator, "train"), change, 1.4, 2.0 + k
    for k in range(2):
        clip = make_clip(f"dev/real/{k}.mp4", identity=f"q{k}", duration_s=SECONDS, split="dev")
        yield clip, _person(6 + k), 0.9 + 0.2 * k, 5.0 + k
        yield _fake(f"dev/fake/{k}.mp4", "Other", "dev"), _sharp if k else _soft, 1.2, 7.0 + k


def _fake(uid: str, generator: str, split: str) -> Clip:
    return make_clip(uid, label=1, generator=generator, split=split, duration_s=SECONDS, label_video=1)


def _person(number: int) -> Change:
    """Another skin and light, every second one mirrored."""
    tint = np.random.default_rng(number).uniform(0.75, 1.15, 3)

    def change(rgb: UInt8) -> UInt8:
        turned = rgb[:, ::-1] if number % 2 else rgb
        return np.ascontiguousarray(np.clip(turned * tint, 0, 255).astype(np.uint8))

    return change


def _sharp(rgb: UInt8) -> UInt8:
    soft = cv2.GaussianBlur(rgb, (0, 0), 2)
    return np.asarray(cv2.addWeighted(rgb, 2.0, soft, -1.0, 0), np.uint8)


def _soft(rgb: UInt8) -> UInt8:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.5), np.uint8)
