"""Draw what every pseudo-fake does to the demo clip: the pictures of docs/pseudo-fakes.md.

python tools/show_pseudo.py [-o DIR] [--only NAME ...]

The clip goes through the engine's own front-end; donors are other moments of it.  Seeds are
fixed, so that the same code draws the same pictures.  Exits with 73 when DIR cannot be written.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from avff.engine.faces.models import load_face_models
from avff.engine.media import Float32
from avff.engine.offline import slices_of_file
from avff.engine.spec import SPEC
from avff.trainer.data.entry import Prepared
from avff.trainer.data.prepare import from_slices
from avff.trainer.data.rawboost import raw_boost
from avff.trainer.data.sample import Donors, Sample
from avff.trainer.pseudo import apply_recipe
from avff.trainer.pseudo.vocoder import VOCODERS
from avff.trainer.report.style import ORANGE, styled

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "engine" / "demo" / "talking_photo.mp4"
EX_CANTCREAT = 73
SEEDS = {
    "self_blend": 11, "lip_swap": 11, "talking_photo": 5, "freeze": 0,
    "splice": 0, "audio_swap": 0, "desync": 0, "local_desync": 0, "vocoder": 0, "rawboost": 0,
}  # fmt: skip
"""Draws whose outcome is typical and can be seen."""
AT, SAME, OTHER = 40, 120, 220
"""Pictures at which the window and its donors start."""
SHOWN = 8
GAIN = 4
DPI = 100
DECIBELS = (-80.0, 0.0)
"""Range of the spectrograms, below the loudest bin of both."""
STEPS = 40
"""Colours of a spectrogram: 2 dB each, and a small file."""
COLOURS = 256
"""In a picture's palette: a third of the size, and no eye sees the difference."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A window before and after a recipe.

    Attributes:
        before: genuine.
        after: made of it, with its labels.
    """

    before: Sample
    after: Sample


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "pseudo-fakes", metavar="DIR")
    parser.add_argument("--only", nargs="+", default=list(SEEDS), choices=list(SEEDS), metavar="NAME")
    options = parser.parse_args(argv)
    clip = from_slices(slices_of_file(CLIP, load_face_models()))
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            path = options.output / f"{name}.png"
            path.write_bytes(png(drawing(name, clip)))
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    except OSError as error:
        print(f"show_pseudo: {error}", file=sys.stderr)
        return EX_CANTCREAT
    return 0


def window(clip: Prepared, at: int) -> Sample:
    """Cut a window of 64 pictures out of the clip; it shares no array with it."""
    pictures = slice(at, at + SPEC.window_frames)
    per_picture = SPEC.rate_hz // SPEC.fps
    sound = slice(at * per_picture, (at + SPEC.window_frames) * per_picture + SPEC.context_samples)
    return Sample(
        clip.faces[pictures], clip.ok[pictures], clip.landmarks[pictures], clip.motion[pictures],
        clip.audio[sound], uid=CLIP.stem,
    ).copy()  # fmt: skip


def made(name: str, clip: Prepared) -> Shown:
    """Apply a recipe to the window."""
    before = window(clip, AT)
    origin = AT * SPEC.rate_hz // SPEC.fps
    donors = Donors(lambda: window(clip, SAME), lambda: window(clip, OTHER), (clip.audio, origin))
    return Shown(before, apply_recipe(name, before.copy(), np.random.default_rng(SEEDS[name]), donors))


def drawing(name: str, clip: Prepared) -> Figure:
    """Draw one recipe, or RawBoost."""
    if name == "vocoder":
        return draw_vocoders(window(clip, AT).audio)
    if name == "rawboost":
        audio = window(clip, AT).audio
        return draw_sound(Shown(window(clip, AT), _with_sound(clip, raw_boost(audio, _rng(name)))))
    shown = made(name, clip)
    changed = not np.array_equal(shown.before.faces, shown.after.faces)
    return draw_pictures(shown) if changed else draw_sound(shown)


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(SEEDS[name])


def _with_sound(clip: Prepared, audio: Float32) -> Sample:
    sample = window(clip, AT)
    sample.audio = audio
    return sample


@styled
def draw_pictures(shown: Shown) -> Figure:
    """Rows: original, made, difference; pictures labelled 1 have an orange bar below the second row."""
    before, after = shown.before.faces, shown.after.faces
    difference = np.clip(np.abs(after.astype(np.int16) - before) * GAIN, 0, 255).astype(np.uint8)
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(7.6, 3.1), layout=tight)
    grid = figure.subplots(3, SHOWN)
    moments = np.linspace(0, len(before) - 1, SHOWN).round().astype(int)
    rows = (("original", before), ("made", after), (f"difference × {GAIN}", difference))
    for line, (title, faces) in zip(grid, rows, strict=True):
        for axes, t in zip(line, moments, strict=True):
            axes.imshow(faces[t], interpolation="antialiased")
            _bare(axes)
        line[0].set_ylabel(title, fontsize=9)
    for axes, t in zip(grid[0], moments, strict=True):
        axes.set_title(f"{t / SPEC.fps:.2f} s", fontsize=9)
    for axes, t in zip(grid[1], moments, strict=True):
        if shown.after.frame_labels[t, 0] == 1:
            axes.axhline(len(before[0]) - 2, color=ORANGE, linewidth=4)
    return figure


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@styled
def draw_sound(shown: Shown) -> Figure:
    """Spectrograms of original and made side by side; an orange bar marks pictures labelled 1."""
    figure = Figure(figsize=(7.6, 2.7), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    sounds = {"original": shown.before.audio, "made": shown.after.audio}
    _spectrograms(figure, panels, sounds)
    for start, stop in _runs(shown.after.frame_labels[:, 0] == 1):
        panels[1].plot(
            [start / SPEC.fps, stop / SPEC.fps], [7.8, 7.8], color=ORANGE, lw=5, solid_capstyle="butt"
        )
    return figure


@styled
def draw_vocoders(audio: Float32) -> Figure:
    """The original and each kind of copy."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    panels = figure.subplots(3, 3, sharex=True, sharey=True).ravel()
    sounds = {"original": audio}
    for vocoder in VOCODERS:
        sounds[vocoder.__name__] = vocoder(audio, _rng("vocoder"))
    _spectrograms(figure, panels, sounds)
    return figure


def _runs(on: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of each run of True."""
    at = 0
    for value, run in groupby(on.tolist()):
        length = len(list(run))
        if value:
            yield at, at + length
        at += length


def _spectrograms(figure: Figure, panels: Sequence[Axes], sounds: dict[str, Float32]) -> None:
    levels = {title: spectrogram(audio) for title, audio in sounds.items()}
    top = max(level.max() for level in levels.values())
    for axes, (title, level) in zip(panels, levels.items(), strict=False):
        image = axes.imshow(
            level - top, origin="lower", aspect="auto", interpolation="nearest",
            cmap=colormaps["cividis"].resampled(STEPS), vmin=DECIBELS[0], vmax=DECIBELS[1],
            extent=(0, level.shape[1] * SPEC.fft_hop / SPEC.rate_hz, 0, SPEC.rate_hz / 2000),
        )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.autoscale(False)
        axes.grid(False)
        axes.tick_params(labelsize=8)
        axes.set_yticks([0, 2, 4, 6, 8])
        where = axes.get_subplotspec()
        if where is not None and where.is_last_row():
            axes.set_xlabel("time (s)", fontsize=9)
        if where is not None and where.is_first_col():
            axes.set_ylabel("frequency (kHz)", fontsize=9)
    bar = figure.colorbar(image, ax=list(panels), pad=0.01)
    bar.set_label("level (dB)", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def spectrogram(audio: Float32) -> Float32:
    """Return levels in dB, float32 ``[129, F]``: Hann windows of 16 ms every 10 ms, context left out."""
    size = 256
    sound = audio[SPEC.context_samples :]
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[:: SPEC.fft_hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    return np.asarray(10 * np.log10(power + 1e-9).T, np.float32)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG with a palette."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=DPI, metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(packed, "png", optimize=True)
    return packed.getvalue()


if __name__ == "__main__":
    sys.exit(main())
