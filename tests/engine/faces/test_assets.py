from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from avff.engine.errors import AssetError
from avff.engine.faces import assets
from avff.engine.faces.assets import ASSETS, FACE_MESH, Asset, ensure_assets, read_asset
from avff.engine.faces.models import load_face_models

Wheel = Callable[[dict[str, bytes]], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and a pip that reaches no index: only ``tmp_path / "index"``."""
    monkeypatch.setenv("AVFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """Puts a wheel that pip takes for mediapipe, with these members, where pip looks."""

    def write(members: dict[str, bytes]) -> None:
        info = "mediapipe-0.10.21.dist-info"
        path = tmp_path / "index" / "mediapipe-0.10.21-cp311-cp311-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
            archive.writestr(f"{info}/RECORD", "")
            for name, content in members.items():
                archive.writestr(name, content)

    return write


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Stand-ins for the three files, with the SHA-256 that the program expects set to theirs."""
    made = {asset.member: f"content of {asset.name}".encode() for asset in ASSETS}
    known = tuple(Asset(m, hashlib.sha256(content).hexdigest()) for m, content in made.items())
    monkeypatch.setattr(assets, "ASSETS", known)
    return made


def test_the_cached_files_are_the_expected_ones() -> None:
    """What the tests run with is verified: the models load."""
    load_face_models()
    assert [len(read_asset(asset)) for asset in ASSETS] == [229714, 676746, 1242398]


def test_an_altered_file_is_refused(cache: Path) -> None:
    """A model file of another content is never loaded; the message tells both hashes and the way out."""
    cache.mkdir()
    (cache / FACE_MESH.name).write_bytes(b"something else")
    with pytest.raises(AssetError) as caught:
        read_asset(FACE_MESH)
    message = str(caught.value)
    found = hashlib.sha256(b"something else").hexdigest()
    assert f"face model {cache / FACE_MESH.name} has SHA-256 {found[:12]}…" in message
    assert f"expected {FACE_MESH.sha256[:12]}…" in message
    assert "delete it to fetch it again" in message
    assert "\n" not in message


def test_a_missing_file_is_named_with_its_place(cache: Path) -> None:
    """Without the file the message says which file of which wheel to put where."""
    with pytest.raises(AssetError) as caught:
        read_asset(FACE_MESH)
    message = str(caught.value)
    assert FACE_MESH.member in message
    assert "mediapipe==0.10.21" in message
    assert str(cache / "face_landmark.tflite") in message
    assert "\n" not in message


def test_offline_the_way_out_is_told(cache: Path) -> None:
    """When pip finds nothing, the error gives pip's reason and what to put where by hand."""
    with pytest.raises(AssetError) as caught:
        ensure_assets()
    message = str(caught.value)
    assert "No matching distribution found" in message
    assert ASSETS[0].member in message
    assert str(cache / ASSETS[0].name) in message
    assert "\n" not in message
    assert not cache.exists()


def test_files_are_fetched_once(cache: Path, wheel: Wheel, contents: dict[str, bytes]) -> None:
    """The files are taken out of the wheel into the cache, and a second call needs no pip."""
    wheel(contents)
    ensure_assets()
    assert sorted(path.name for path in cache.iterdir()) == sorted(asset.name for asset in ASSETS)
    assert [read_asset(asset) for asset in assets.ASSETS] == list(contents.values())
    for path in (cache.parent / "index").iterdir():
        path.unlink()
    ensure_assets()


def test_only_what_is_missing_is_written(cache: Path, wheel: Wheel, contents: dict[str, bytes]) -> None:
    """A file that a person put in place is left alone."""
    cache.mkdir()
    (cache / FACE_MESH.name).write_bytes(b"put here by hand")
    wheel(contents)
    ensure_assets()
    assert (cache / FACE_MESH.name).read_bytes() == b"put here by hand"
    assert len(list(cache.iterdir())) == 3


def test_an_altered_wheel_is_refused(cache: Path, wheel: Wheel, contents: dict[str, bytes]) -> None:
    """A file in the wheel with another SHA-256 than expected never reaches the cache."""
    wheel(contents | {FACE_MESH.member: b"something else"})
    with pytest.raises(
        AssetError, match=r"face_landmark\.tflite in mediapipe==0\.10\.21 has SHA-256 .* expected"
    ):
        ensure_assets()
    assert not (cache / FACE_MESH.name).exists()


def test_a_wheel_without_the_file_is_refused(cache: Path, wheel: Wheel) -> None:
    """A wheel that lacks a model file is an error with the way out, not a crash."""
    wheel({"mediapipe/__init__.py": b""})
    with pytest.raises(AssetError, match="could not unpack") as caught:
        ensure_assets()
    assert ASSETS[0].member in str(caught.value)


def test_an_unusable_cache_is_an_asset_error(
    cache: Path, wheel: Wheel, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache directory that cannot be made is named, in one line."""
    wheel(contents)
    cache.write_text("a file where the directory should be")
    monkeypatch.setenv("AVFF_CACHE", str(cache / "below"))
    with pytest.raises(AssetError, match="Not a directory") as caught:
        ensure_assets()
    assert str(cache / "below") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_module_fetches_ahead_of_time(
    cache: Path, wheel: Wheel, contents: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Run as a program it fetches and says where the files are; without them it exits with 69."""
    assert assets.main() == 69
    assert capfd.readouterr().err.count("\n") >= 1
    wheel(contents)
    assert assets.main() == 0
    assert str(cache) in capfd.readouterr().out
