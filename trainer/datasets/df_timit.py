"""DeepfakeTIMIT (Korshunov & Marcel, arXiv:1812.08685) and the genuine VidTIMIT beside it.

``DeepfakeTIMIT/{lower_quality,higher_quality}/<target>/<utterance>-video-<source>.avi`` and
``VidTIMIT/<person>/…/<utterance>.avi``.

DeepfakeTIMIT holds no genuine clip.  VidTIMIT's pictures come as JPEG files and have to be joined to
clips first, preferably with the codec of the fakes: else the codec tells the classes apart.
Faces were swapped; the sound is genuine throughout.
"""

from __future__ import annotations

from pathlib import Path

from avff.trainer.data.manifest import Clip
from avff.trainer.datasets.files import VIDEO, DatasetError, files_below, refuse_layout, relative

NAME = "df-timit"
LAYOUT = "DF-TIMIT: DeepfakeTIMIT/{lower_quality,higher_quality}/, and VidTIMIT/ for the genuine clips"
QUALITIES = ("lower_quality", "higher_quality")


def scan(root: Path) -> list[Clip]:
    """Read the folders.

    Raises:
        DatasetError: there is no fake, or a file is named in another way.
    """
    base = root / "DeepfakeTIMIT" if (root / "DeepfakeTIMIT").is_dir() else root
    clips = [_fake(root, path, q) for q in QUALITIES for path in files_below(base / q, VIDEO)]
    if not clips:
        refuse_layout(root, LAYOUT)
    return clips + [_genuine(root, path) for path in files_below(root / "VidTIMIT", VIDEO)]


def _fake(root: Path, path: Path, quality: str) -> Clip:
    utterance, mark, source = path.stem.partition("-video-")
    if not (utterance and mark and source):
        raise DatasetError(f"{path}: is not named <utterance>-video-<source>")
    inner = relative(path, root)
    return Clip(
        uid=f"{NAME}/{inner}", path=inner, dataset=NAME, label=1, label_video=1, label_audio=0,
        kind="face-swap", generators=(f"faceswap-GAN {quality}",),
        identities=(f"vidtimit:{path.parent.name}", f"vidtimit:{source}"),
        collection=f"DeepfakeTIMIT {quality}",
    )  # fmt: skip


def _genuine(root: Path, path: Path) -> Clip:
    inner = relative(path, root)
    person = path.relative_to(root / "VidTIMIT").parts[0]
    return Clip(
        uid=f"{NAME}/{inner}", path=inner, dataset=NAME, label=0, label_video=0, label_audio=0,
        kind="real", identities=(f"vidtimit:{person}",), collection="VidTIMIT",
    )  # fmt: skip
