"""What cameras, rooms, codecs and networks do to a stream, at stated severities, for the robustness sweep.

A perturbation takes the items of a decoded file and yields items again, before the front-end, so that
the daemon's own preprocessing sees the result.  It works item by item in bounded memory, and all its
chance comes from the generator it is given.  The seven picture kinds follow DeeperForensics-1.0 (Jiang
et al., CVPR 2020, arXiv:2001.03024); the others are what a call goes through.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.errors import SettingsError
from avff.engine.media import MediaItem
from avff.trainer.perturb import codecs, network, pictures, sound, twins

Stream = Callable[[Iterable[MediaItem], float, np.random.Generator], Iterator[MediaItem]]
"""From the items of a stream, the severity and a source of chance to the perturbed items."""


@dataclass(frozen=True)
class Kind:
    """One kind of perturbation.

    Attributes:
        unit: of its severities.
        severities: the levels of the sweep, the first the mildest.
        stream: does it.
    """

    unit: str
    severities: tuple[float, ...]
    stream: Stream


KINDS: dict[str, Kind] = {
    "saturation": Kind("factor", (0.4, 0.3, 0.2, 0.1, 0), pictures.each(pictures.saturation)),
    "contrast": Kind("factor", (0.85, 0.725, 0.6, 0.475, 0.35), pictures.each(pictures.contrast)),
    "blocks": Kind("blocks per 256 px", (16, 32, 48, 64, 80), pictures.each(pictures.blocks)),
    "picture-noise": Kind("variance", (0.001, 0.002, 0.005, 0.01, 0.05), pictures.each(pictures.noise)),
    "blur": Kind("px kernel", (7, 9, 13, 17, 21), pictures.each(pictures.blur)),
    "pixelation": Kind("factor", (2, 3, 4, 5, 6), pictures.each(pictures.pixelation)),
    "h264-crf": Kind("crf", (30, 32, 35, 38, 40), codecs.h264_crf),
    "h264": Kind("kbit/s", (1000, 500, 300, 150, 80), codecs.h264),
    "vp8": Kind("kbit/s", (1000, 500, 300, 150, 80), codecs.vp8),
    "resize": Kind("lines", (480, 360, 240, 180), pictures.each(pictures.resize)),
    "frame-rate": Kind("pictures/s", (30, 20, 15, 10, 7), network.frame_rate),
    "loss": Kind("% of packets, sound concealed", (1, 3, 5, 10, 20), network.loss),
    "loss-silence": Kind("% of packets, sound silent", (1, 3, 5, 10, 20), network.loss_silence),
    "av-offset": Kind("ms of sound", (0, 40, -40, 80, -80, 160, -160, 320, -320), network.av_offset),
    "opus": Kind("kbit/s", (32, 24, 16, 12, 6), codecs.opus),
    "sound-noise": Kind("dB SNR", (20, 15, 10, 5, 0), sound.white_noise),
    "reverb": Kind("s T60", (0.2, 0.4, 0.6, 0.8, 1.0), sound.reverb),
    "gain": Kind("dB", (-10, 6, -20, 12, -30), sound.gain),
}
TRIMMED, REENCODED = "leading-silence", "re-encode"
CONTROLS: dict[str, Kind] = {
    TRIMMED: Kind("of full scale", (5e-4,), twins.trim_silence),
    REENCODED: Kind("crf", (28,), twins.reencode),
}
"""Twins that a result is compared with; they are no part of the sweep."""
OFFSET = "av-offset"
"""The kind that must not raise the fake score: sound that lags is no forgery."""


@dataclass(frozen=True)
class Perturbation:
    """One cell of the sweep.

    Attributes:
        name: key of ``KINDS`` or ``CONTROLS``.
        severity: in ``unit``.
        unit: of the severity.
    """

    name: str
    severity: float
    unit: str

    def __str__(self) -> str:
        return f"{self.name} {self.severity:g} {self.unit}"

    def apply(self, items: Iterable[MediaItem], rng: np.random.Generator) -> Iterator[MediaItem]:
        """Yield the perturbed items; the same items and generator state give the same result."""
        return {**KINDS, **CONTROLS}[self.name].stream(items, self.severity, rng)


def control(name: str) -> Perturbation:
    """Return a control's twin, by its key in ``CONTROLS``."""
    kind = CONTROLS[name]
    return Perturbation(name, kind.severities[0], kind.unit)


def perturbations(names: Sequence[str] = (), levels: Sequence[int] = ()) -> list[Perturbation]:
    """Return the cells of a sweep.

    Args:
        names: kinds, or single cells as ``kind@severity``; all kinds when empty.
        levels: places in each kind's list of severities, from 1; all of them when empty.  A single cell
            is taken whatever they say.

    Raises:
        SettingsError: there is no such kind or severity, or no kind has such a level.
    """
    chosen = list(dict.fromkeys(names)) or list(KINDS)
    kinds = {name: _kind(name.partition("@")[0]) for name in chosen}
    most = max(len(kind.severities) for kind in kinds.values())
    for level in levels:
        if not 1 <= level <= most:
            raise SettingsError(f"no severity level {level}; there are 1 to {most}")
    made = [
        Perturbation(name.partition("@")[0], severity, kind.unit)
        for name, kind in kinds.items()
        for level, severity in enumerate(kind.severities, start=1)
        if (severity == _severity(name, kind) if "@" in name else not levels or level in levels)
    ]
    return list(dict.fromkeys(made))


def _kind(name: str) -> Kind:
    if name not in KINDS:
        nearest = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(KINDS)}"
        raise SettingsError(f"unknown perturbation {name!r}; {hint}")
    return KINDS[name]


def _severity(cell: str, kind: Kind) -> float:
    """Return the severity that ``kind@severity`` names; it must be one of the catalogue."""
    written = cell.partition("@")[2]
    found = [severity for severity in kind.severities if written == f"{severity:g}"]
    if not found:
        raise SettingsError(
            f"no severity {written!r} of {cell.partition('@')[0]}; there are "
            + ", ".join(f"{severity:g}" for severity in kind.severities)
        )
    return found[0]


def generator_of(uid: str, seed: int) -> np.random.Generator:
    """Return a clip's source of chance: the same at every severity, so that cells differ by that alone."""
    digest = hashlib.sha256(uid.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
