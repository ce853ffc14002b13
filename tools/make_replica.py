"""Write a small dataset with the exact layout of a published one, to try the trainer on.

    python tools/make_replica.py dfdc replica/dfdc
    python tools/make_replica.py fakeavceleb replica/fakeavceleb --clips 48

Every clip is cut out of the demo clip, with another look and another voice for each of its
"people".  The fakes are crude on purpose (a blurred face, a bent mouth, a vocoded voice), so that a few
epochs find them: a replica shows that the way from a download to a report works, and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from avff import engine
from avff.engine.media import Float32, UInt8
from avff.engine.spec import SPEC
from avff.trainer.pseudo.vocoder import revoice

DEMO = Path(engine.__file__).parent / "demo" / "talking_photo.mp4"
SIDE_PX = 240
_MOUTH = (119, 136, 34, 24)
"""Centre and half axes of the mouth in px, in pictures of ``SIDE_PX``."""
Change = Callable[[UInt8], UInt8]
Voice = Callable[[Float32], Float32]


def talking_clip(
    path: Path,
    *,
    seconds: float,
    start_s: float = 0.0,
    change: Change | None = None,
    pitch: float = 1.0,
    gain: float = 1.0,
    voice: Voice | None = None,
) -> Path:
    """Cut a clip out of the demo clip, with another look and another voice.

    Args:
        path: where to.
        seconds: its length.
        start_s: where in the demo clip it begins.
        change: of each picture, 240 x 240 RGB.
        pitch: factor; the sound is played that much faster and repeated to fill the clip.
        gain: factor of the sound.
        voice: change of the whole sound, float32 ``[n]`` at 16 kHz.
    """
    pictures, sound = _demo()
    first, count = round(start_s * SPEC.fps), round(seconds * SPEC.fps)
    chosen = [change(p) if change else p for p in pictures[first : first + count]]
    samples = round(seconds * SPEC.rate_hz)
    at = (np.arange(samples) * pitch + start_s * SPEC.rate_hz) % (len(sound) - 1)
    pcm = (np.interp(at, np.arange(len(sound)), sound) * gain).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=SPEC.fps, options={"preset": "ultrafast", "threads": "1"}
        )
        audio = container.add_stream("aac", rate=SPEC.rate_hz, layout="mono")
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.height, video.width = chosen[0].shape[:2]
        video.pix_fmt = "yuv420p"
        container.mux(_encoded(video, (av.VideoFrame.from_ndarray(p, format="rgb24") for p in chosen)))
        container.mux(_encoded(audio, _sound_frames(audio, voice(pcm) if voice else pcm)))
    return path


def _encoded(
    stream: av.VideoStream | av.AudioStream, frames: Iterable[av.VideoFrame | av.AudioFrame]
) -> list[av.Packet[av.VideoStream] | av.Packet[av.AudioStream]]:
    packets: list[av.Packet[av.VideoStream] | av.Packet[av.AudioStream]] = []
    for frame in frames:
        if isinstance(stream, av.VideoStream) and isinstance(frame, av.VideoFrame):
            packets += stream.encode(frame.reformat(format=stream.pix_fmt))
        elif isinstance(stream, av.AudioStream) and isinstance(frame, av.AudioFrame):
            packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _sound_frames(stream: av.AudioStream, pcm: Float32) -> Iterable[av.AudioFrame]:
    whole = av.AudioFrame.from_ndarray(pcm[None], format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = SPEC.rate_hz, 0, Fraction(1, SPEC.rate_hz)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.codec_context.format, "mono", SPEC.rate_hz, frame_size=size)
    return [*resampler.resample(whole), *resampler.resample(None)]


@functools.cache
def _demo() -> tuple[list[UInt8], Float32]:
    """The demo clip's pictures at 240 x 240, and its sound as 16 kHz mono."""
    pictures: list[UInt8] = []
    with av.open(str(DEMO)) as container:
        for frame in container.decode(video=0):
            rgb = frame.to_ndarray(format="rgb24", width=SIDE_PX, height=SIDE_PX)
            pictures.append(np.asarray(rgb, np.uint8))
    resampler = av.AudioResampler("flt", "mono", SPEC.rate_hz)
    sound: list[Float32] = []
    with av.open(str(DEMO)) as container:
        for block in container.decode(audio=0):
            sound += [piece.to_ndarray()[0] for piece in resampler.resample(block)]
    return pictures, np.concatenate(sound)


def person(number: int) -> Change:
    """Return the look of one of the people: skin and light, and every second one mirrored."""
    tint = np.random.default_rng(number).uniform(0.7, 1.2, 3)

    def change(rgb: UInt8) -> UInt8:
        turned = rgb[:, ::-1] if number % 2 else rgb
        return np.ascontiguousarray(np.clip(turned * tint, 0, 255).astype(np.uint8))

    return change


def blurred(rgb: UInt8) -> UInt8:
    """Return a picture as a face swap at low resolution leaves it."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 2.0), np.uint8)


def bent_mouth(rgb: UInt8) -> UInt8:
    """Return a picture whose mouth is bent and soft, as a poor lip-sync leaves it."""
    x, y = np.meshgrid(np.arange(SIDE_PX, dtype=np.float32), np.arange(SIDE_PX, dtype=np.float32))
    centre_x, centre_y, half_x, half_y = _MOUTH
    near = np.clip(1.5 - np.hypot((x - centre_x) / half_x, (y - centre_y) / half_y), 0, 1).astype(np.float32)
    moved = cv2.remap(rgb, x, y + near * 5 * np.sin(x / 4), cv2.INTER_LINEAR)
    return np.asarray(
        near[..., None] * cv2.GaussianBlur(moved, (0, 0), 2.0) + (1 - near[..., None]) * rgb, np.uint8
    )


def write_clip(
    path: Path, seconds: float, who: int, take: int, *, tool: Change | None = None, revoiced: bool = False
) -> None:
    """Write one clip.

    Args:
        path: where to.
        seconds: its length.
        who: number of the person, who decides look, pitch and what is said.
        take: number of the clip among those of the footage; the seed of the voice.
        tool: what was done to the picture.
        revoiced: whether the voice is a vocoder's.
    """
    look = person(who)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([who, take])
    latest_s = len(_demo()[0]) / SPEC.fps - seconds
    talking_clip(
        path,
        seconds=seconds,
        start_s=who * 1.7 % latest_s,
        change=(lambda rgb: look(tool(rgb))) if tool else look,
        pitch=0.8 + 0.05 * (who * 7 % 9),
        voice=(lambda pcm: revoice(pcm, rng)) if revoiced else None,
    )


def write_dfdc(root: Path, clips: int, seconds: float) -> None:
    """Write DFDC: two parts, and in each footage with three fakes of it, one of them in sound only."""
    ways: tuple[tuple[Change | None, bool], ...] = (
        (None, False), (blurred, False), (bent_mouth, False), (None, True),
    )  # fmt: skip
    parts: dict[str, dict[str, dict[str, str]]] = {}
    for number in range(clips):
        who, take = divmod(number, len(ways))
        folder, name = f"dfdc_train_part_{who % 2}", _letters(number)
        tool, revoiced = ways[take]
        write_clip(root / folder / name, seconds, who, take, tool=tool, revoiced=revoiced)
        row = {"label": "FAKE" if take else "REAL", "split": "train"}
        parts.setdefault(folder, {})[name] = row | ({"original": _letters(number - take)} if take else {})
    for folder, rows in parts.items():
        (root / folder / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")


def _letters(number: int) -> str:
    """Return a name of ten letters, as DFDC's are, that says nothing about the clip."""
    drawn = np.random.default_rng(number).integers(0, 26, 10)
    return "".join(chr(ord("a") + int(k)) for k in drawn) + ".mp4"


def write_fakeavceleb(root: Path, clips: int, seconds: float) -> None:
    """Write FakeAVCeleb: of each person one clip of each category; people are swapped in pairs."""
    ways: tuple[tuple[str, str, str, Change | None, bool], ...] = (
        ("A", "RealVideo-RealAudio", "real", None, False),
        ("B", "RealVideo-FakeAudio", "rtvc", None, True),
        ("C", "FakeVideo-RealAudio", "wav2lip", bent_mouth, False),
        ("D", "FakeVideo-FakeAudio", "faceswap-wav2lip", blurred, True),
    )
    base = root / "FakeAVCeleb"
    rows = [["source", "target1", "target2", "method", "category", "type", "race", "gender", "path", ""]]
    for number in range(clips):
        who, take = divmod(number, len(ways))
        letter, kind, method, tool, revoiced = ways[take]
        source, target = f"id{who:05}", f"id{who ^ 1:05}"
        swapped = "faceswap" in method
        name = f"{who:05}.mp4" if not take else f"{who:05}_{take}_{target}_{method}.mp4"
        folder = Path(kind, "African", "women", source)
        write_clip(base / folder / name, seconds, who, take, tool=tool, revoiced=revoiced)
        people = [source, target if swapped else "-", str(take) if swapped else "-"]
        place = Path("FakeAVCeleb", folder).as_posix()
        rows.append([*people, method, letter, kind, "African", "women", name, place])
    with (base / "meta_data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


WRITERS: dict[str, Callable[[Path, int, float], None]] = {
    "dfdc": write_dfdc,
    "fakeavceleb": write_fakeavceleb,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("dataset", choices=sorted(WRITERS))
    parser.add_argument("out", type=Path, help="folder to write; must not exist, or be empty")
    parser.add_argument("--clips", type=int, default=32, help="how many, at least 4 (default 32)")
    parser.add_argument("--seconds", type=float, default=3.2, help="length of each, 1 to 10 (default 3.2)")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    if arguments.clips < 4:
        parser.error(f"--clips is {arguments.clips}, not at least 4")
    if not 1 <= arguments.seconds <= 10:
        parser.error(f"--seconds is {arguments.seconds:g}, not 1 to 10")
    try:
        if out.exists() and any(out.iterdir()):
            parser.error(f"{out} is not empty; give another folder")
        WRITERS[arguments.dataset](out, arguments.clips, arguments.seconds)
    except (OSError, av.FFmpegError) as error:
        print(f"make_replica: cannot write {out}: {error.strerror or error}", file=sys.stderr)
        return 73
    print(f"{out}: {arguments.clips} clips")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
