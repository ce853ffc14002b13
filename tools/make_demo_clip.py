"""Make the demo clip: a public-domain portrait whose mouth is moved to synthetic speech.

The portrait is NASA's photograph of the astronaut Eileen Collins, which scikit-image ships as
``skimage.data.astronaut()``; the voice is espeak-ng and says that it is synthetic.  The result is
a fake by construction, so the project may hand it out as one.  No face model is needed: the
landmarks are constants, measured on the 512x512 picture (pixel edges, x right, y down).
"""

from __future__ import annotations

import argparse
import importlib
import math
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Int16 = npt.NDArray[np.int16]
EX_UNAVAILABLE, EX_CANTCREAT = 69, 73
FPS, SIDE, AUDIO_RATE_HZ = 25, 480, 48_000
TEXT = (
    "Hello. This face is a photograph, and it is not speaking. The voice is a speech synthesizer, and "
    "the mouth is moved by a small program. Nobody said these words: the voice and the mouth are synthetic."
)
VOICE, WORDS_PER_MIN, REST_S = "en-us+f2", 160, 0.4

# The canvas is the enlarged part of the portrait that the view may ever see while it sways.
CANVAS_X, CANVAS_Y, CANVAS_SPAN = 80, 0, 288
VIEW_CENTRE, VIEW_SPAN = (224.0, 136.0), 256
SCALE = 2 * SIDE / VIEW_SPAN  # canvas pixels per portrait pixel: twice the output's resolution

# Lower edge of the upper teeth: where the moving lower lip parts from the rest of the face.
SEAM_X = (203.0, 205.0, 208.0, 212.0, 218.0, 224.0, 230.0, 235.0, 240.0, 244.5)
SEAM_Y = (139.8, 142.5, 145.2, 148.0, 149.7, 149.9, 149.2, 146.9, 144.2, 140.9)
MOUTH_X, MOUTH_HALF, JAW_HALF = 223.7, 21.0, 40.0
CHIN_Y, COLLAR_Y = 172.0, 200.0  # below the chin the motion fades out, inside the black collar
SHUT_PX, WIDE_PX = -4.6, 7.6  # travel of the lower lip, in portrait pixels, at silence and at full voice
EDGE = 0.7  # slope of the soft border between two layers, per portrait pixel
BLINK_AT_S, BLINK_HALF_S = (1.9, 5.3, 8.6, 12.1), 0.14


class ClipError(Exception):
    """Something that the clip needs is missing; the message says what to install."""


class Eye(NamedTuple):
    """One eye: two parabolic lids that meet at the corners."""

    x: float
    y: float
    half: float
    tilt: float
    rise: float  # of the upper lid above the line between the corners
    drop: float  # of the lower lid below it


EYES = (Eye(202.8, 101.6, 10.6, 0.06, 2.9, 3.2), Eye(246.5, 104.2, 12.5, 0.03, 3.6, 2.7))


class Patch(NamedTuple):
    """A rectangle of the canvas, with the portrait coordinates of each of its pixels."""

    rows: slice
    cols: slice
    x: Float32
    y: Float32

    @classmethod
    def around(cls, left: float, top: float, right: float, bottom: float) -> Patch:
        """Return the patch that covers a rectangle given in portrait coordinates."""
        cols = slice(round((left - CANVAS_X) * SCALE), round((right - CANVAS_X) * SCALE))
        rows = slice(round((top - CANVAS_Y) * SCALE), round((bottom - CANVAS_Y) * SCALE))
        y, x = np.mgrid[rows, cols].astype(np.float32)
        return cls(rows, cols, (x + 0.5) / SCALE + CANVAS_X, (y + 0.5) / SCALE + CANVAS_Y)

    def sample(self, canvas: UInt8, y: Float32) -> Float32:
        """Return the canvas as seen through this patch when each pixel looks at height ``y``."""
        map_x, map_y = (self.x - CANVAS_X) * SCALE - 0.5, (y - CANVAS_Y) * SCALE - 0.5
        return cv2.remap(canvas, map_x, map_y, cv2.INTER_LINEAR).astype(np.float32)


def speak(text: str, folder: Path) -> tuple[Int16, int]:
    """Return the synthetic speech as mono samples, and its rate in Hz."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise ClipError("espeak-ng is missing: apt-get install espeak-ng")
    target = folder / "speech.wav"
    command = [program, "-v", VOICE, "-s", str(WORDS_PER_MIN), "-w", str(target), text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not target.exists():
        raise ClipError(f"espeak-ng failed ({done.returncode}): {' '.join(done.stderr.split())}")
    with wave.open(str(target)) as reader:
        rate_hz = reader.getframerate()
        pcm = np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2").astype(np.int16)
    if rate_hz % FPS or not pcm.any():
        raise ClipError(f"espeak-ng gave no usable speech ({pcm.size} samples, {rate_hz} Hz)")
    return pcm, rate_hz


def pad_to_frames(pcm: Int16, rate_hz: int) -> Int16:
    """Return the speech as ``[frames, samples]``, with silence around, one row per picture."""
    voiced = np.flatnonzero(np.abs(pcm) > 64)
    pcm = pcm[voiced[0] : voiced[-1] + 1]
    rest, per_frame = int(REST_S * rate_hz), rate_hz // FPS
    return np.pad(pcm, (rest, rest + -(2 * rest + pcm.size) % per_frame)).reshape(-1, per_frame)


def openings(rows: Int16) -> list[float]:
    """Return how far the mouth is open in each frame, 0…1, from the loudness of that frame."""
    rms = np.sqrt(np.mean(np.square(rows.astype(np.float64)), axis=1))
    target = np.clip(rms / np.percentile(rms, 92), 0.0, 1.0) ** 0.8
    level, track = 0.0, []
    for value in target.tolist():
        # Jaws open faster than they close; the lag also hides the steps of the RMS.
        level += (0.75 if value > level else 0.5) * (value - level)
        track.append(level)
    return track


def load_canvas() -> UInt8:
    """Return the enlarged part of the portrait, RGB."""
    try:
        data = importlib.import_module("skimage.data")
    except ImportError as error:
        raise ClipError(f"scikit-image is missing ({error}): pip install scikit-image") from error
    portrait = np.asarray(data.astronaut(), np.uint8)
    part = portrait[CANVAS_Y : CANVAS_Y + CANVAS_SPAN, CANVAS_X : CANVAS_X + CANVAS_SPAN]
    return cv2.resize(part, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def smoothstep(value: Float32) -> Float32:
    """Return 0 below 0, 1 above 1 and a smooth ramp between."""
    ramp: Float32 = np.clip(value, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def move_mouth(frame: UInt8, canvas: UInt8, patch: Patch, opening: float) -> None:
    """Slide everything below the lip seam down or up, and darken the gap that opens."""
    curve = np.polyfit(SEAM_X, SEAM_Y, 4)
    seam = np.polyval(curve, np.clip(patch.x, SEAM_X[0], SEAM_X[-1])).astype(np.float32)
    below = patch.y - seam
    half = MOUTH_HALF + (JAW_HALF - MOUTH_HALF) * smoothstep(below / 22.0)
    across = np.clip(1.0 - np.square((patch.x - MOUTH_X) / half), 0.0, 1.0) ** 1.3
    fade = 1.0 - smoothstep((patch.y - CHIN_Y) / (COLLAR_Y - CHIN_Y))
    travel = (SHUT_PX + (WIDE_PX - SHUT_PX) * opening) * across * fade
    lower, upper = patch.sample(canvas, patch.y - travel), patch.sample(canvas, patch.y)
    # The tongue: a little lighter and redder towards the lower lip, else the gap is a black hole.
    depth = np.clip(below / WIDE_PX, 0.0, 1.0)[..., None]
    inside = np.array((38, 12, 14), np.float32) + depth * np.array((62, 20, 22), np.float32)
    gap = (smoothstep(below * EDGE + 0.5) * np.clip(travel, 0.0, 1.0))[..., None]
    back = upper + gap * (inside - upper)
    share = smoothstep((below - travel) * EDGE + 0.5)[..., None]
    frame[patch.rows, patch.cols] = np.rint(back + share * (lower - back))


def close_eye(frame: UInt8, canvas: UInt8, patch: Patch, eye: Eye, closed: float) -> None:
    """Stretch the skin between brow and lashes down over the eye."""
    offset = patch.x - eye.x
    arch = np.clip(1.0 - np.square(offset / eye.half), 0.0, 1.0)
    corner = eye.y + eye.tilt * offset
    lid, lashes = corner - eye.rise * arch, corner + (closed * (eye.rise + eye.drop) - eye.rise) * arch
    brow = np.minimum(corner - eye.rise, lid) - 4.5
    # The power leaves the lashes as thick as they are and takes the whole stretch from the bare skin.
    slack = np.clip((patch.y - brow) / (lashes - brow), 0.0, 1.0) ** ((lashes - brow) / (lid - brow))
    skin = patch.sample(canvas, np.where(patch.y > brow, brow + slack * (lid - brow), patch.y))
    share = smoothstep((lashes - patch.y) * EDGE + 0.5)[..., None]
    under = frame[patch.rows, patch.cols].astype(np.float32)
    frame[patch.rows, patch.cols] = np.rint(under + share * (skin - under))


def sway(canvas: UInt8, time_s: float) -> UInt8:
    """Return the output picture: the canvas seen through a view that slowly drifts, tilts and zooms."""
    turn = math.radians(1.1) * math.sin(2 * math.pi * time_s / 5.3)
    zoom = 1.03 + 0.02 * math.sin(2 * math.pi * time_s / 7.7)
    x = (VIEW_CENTRE[0] + 2.0 * math.sin(2 * math.pi * time_s / 4.3 + 1.0) - CANVAS_X) * SCALE
    y = (VIEW_CENTRE[1] + 1.3 * math.sin(2 * math.pi * time_s / 3.1) - CANVAS_Y) * SCALE
    cos, sin, mid = 2.0 / zoom * math.cos(turn), 2.0 / zoom * math.sin(turn), SIDE / 2 - 0.5
    matrix = np.array(((cos, -sin, x - (cos - sin) * mid), (sin, cos, y - (sin + cos) * mid)))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(canvas, matrix, (SIDE, SIDE), flags=flags).astype(np.uint8)


def pictures(track: list[float]) -> Iterator[UInt8]:
    """Yield one RGB picture per mouth opening."""
    canvas = load_canvas()
    mouth = Patch.around(182, 128, 266, 204)
    eyes = [(eye, Patch.around(eye.x - eye.half, eye.y - 12, eye.x + eye.half, eye.y + 8)) for eye in EYES]
    for index, opening in enumerate(track):
        frame, to_blink_s = canvas.copy(), min(abs(index / FPS - at_s) for at_s in BLINK_AT_S)
        move_mouth(frame, canvas, mouth, opening)
        for eye, patch in eyes if to_blink_s < BLINK_HALF_S else ():
            close_eye(frame, canvas, patch, eye, math.cos(math.pi / 2 * to_blink_s / BLINK_HALF_S))
        yield sway(frame, index / FPS)


def write_clip(path: Path, rows: Int16, rate_hz: int) -> None:
    """Draw and encode the clip; sound and picture share one clock that starts at 0."""
    codec = next(name for name in ("libx264", "libopenh264", "mpeg4") if name in av.codecs_available)
    # One thread, so that the bytes do not depend on the cores; no B-frames, so that time starts at 0.
    x264 = {"crf": "21", "preset": "slow", "bf": "0", "threads": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        output.metadata["comment"] = "Synthetic voice and mouth; portrait: NASA, public domain"
        video = output.add_stream(codec, rate=FPS, width=SIDE, height=SIDE, pix_fmt="yuv420p", options=x264)
        audio = output.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono", bit_rate=64_000)
        for index, rgb in enumerate(pictures(openings(rows))):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            sound = av.AudioFrame.from_ndarray(rows[index : index + 1], format="s16", layout="mono")
            sound.sample_rate = rate_hz
            picture.time_base, sound.time_base = Fraction(1, FPS), Fraction(1, rate_hz)
            picture.pts, sound.pts = index, index * rows.shape[1]
            output.mux(video.encode(picture))
            output.mux(audio.encode(sound))
        for stream in (video, audio):
            output.mux(stream.encode(None))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Make the talking-photo demo clip, a fake by construction.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .mp4 file to write")
    path: Path = parser.parse_args(argv).output
    try:
        with tempfile.TemporaryDirectory() as folder:
            pcm, rate_hz = speak(TEXT, Path(folder))
        write_clip(path, pad_to_frames(pcm, rate_hz), rate_hz)
    except ClipError as error:
        print(f"make_demo_clip: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    except (OSError, av.FFmpegError) as error:
        print(f"make_demo_clip: cannot write {path}: {error.strerror or error}", file=sys.stderr)
        return EX_CANTCREAT
    print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
