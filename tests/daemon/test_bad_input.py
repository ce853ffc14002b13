"""What cannot be scored ends with one line that names it, a documented exit code, and no traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.avffd import assert_refused, avffd
from tests.support.engine import DEMO
from tests.support.media import truncate, write_clip

pytestmark = pytest.mark.timeout(60)


def _directory(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("Dear all,\nplease find the film attached.\n" * 50)


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(65_536))


def _without_index(path: Path) -> None:
    truncate(write_clip(path, seconds=1), 0.6)  # the index (moov) is written last


def _without_media(path: Path) -> None:
    whole = DEMO.read_bytes()
    path.write_bytes(whole[: whole.index(b"mdat") + 4])


def _pipe(path: Path) -> None:
    os.mkfifo(path)


REFUSED: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "missing": ("nope.mp4", lambda path: None, 66, "no such file"),
    "directory": ("clips", _directory, 66, "is a directory; give one media file"),
    "empty": ("clip.mp4", Path.touch, 65, "is empty"),
    "text": ("clip.mp4", _text, 65, "not readable as audio or video"),
    "noise": ("clip.bin", _noise, 65, "not readable as audio or video"),
    "no-index": ("clip.mp4", _without_index, 65, "not readable as audio or video"),
    "no-media": ("clip.mp4", _without_media, 65, "nothing in it could be decoded"),
    "pipe": ("clip.mp4", _pipe, 65, "is not a regular file"),
}


@pytest.mark.parametrize(("name", "make", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_media_is_named(
    tmp_path: Path, model_args: list[str], name: str, make: Callable[[Path], object], code: int, words: str
) -> None:
    """The path, what is wrong with it, and an exit code that tells missing from unreadable."""
    path = tmp_path / name
    make(path)
    done = avffd("--source", path, *model_args)
    assert_refused(done, code, str(path), words)
    assert done.seconds < 10


def test_torn_file_is_scored_to_the_tear(tmp_path: Path, model_args: list[str]) -> None:
    """With its index in front, half a file gives half the scores and a warning, not an error."""
    path = Path(shutil.copy(DEMO, tmp_path / "torn.mp4"))
    done = avffd("--source", truncate(path, 0.5), *model_args)
    assert done.code == 0, done
    assert len(done.complaints) == 1
    assert done.complaints[0].startswith(f"avffd: {path}: broke off after ")
    assert "scored to that point" in done.complaints[0]
    assert done.summary["ended"] == "lost"
    assert 4 < done.summary["t"] < 12
    assert any(event["score"] is not None for event in done.scores)


def test_missing_camera_is_named(model_args: list[str]) -> None:
    """The message lists the cameras there are."""
    done = avffd("--source", "webcam:/dev/video97", *model_args)
    assert_refused(done, 69, "there is no camera /dev/video97; ", "found")


def test_file_that_is_no_camera_is_refused(model_args: list[str]) -> None:
    """A device that is something else ends like a busy camera, at once."""
    done = avffd("--source", "webcam:/dev/null", *model_args)
    assert_refused(done, 69, "camera /dev/null cannot be opened", "no camera")


def test_unknown_option_is_named() -> None:
    """One line with the way to the list of options, instead of the list."""
    assert_refused(avffd("--sauce", "x"), 2, "unrecognized arguments: --sauce x", "avffd --help")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sorce: demo\n", ["line 1", "unknown key 'sorce'", "did you mean 'source'?"]),
        ("source: demo\nengine:\n  threads: two\n", ["line 3", "engine.threads", "'two'"]),
        ("source: demo\nrealtime: 1\n", ["line 2", "realtime", "found 1"]),
    ],
    ids=["misspelt", "text-for-number", "number-for-switch"],
)
def test_wrong_setting_is_named_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    """File, line, key, and the nearest key or what was found."""
    path = tmp_path / "daemon.yaml"
    path.write_text(text)
    assert_refused(avffd("--config", path), 78, str(path), *words)


def _no_model(directory: Path) -> None:
    shutil.rmtree(directory)


def _flipped_bit(directory: Path) -> None:
    graph = directory / "fusion.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)


def _no_graph(directory: Path) -> None:
    (directory / "audio.onnx").unlink()


def _torn_contract(directory: Path) -> None:
    truncate(directory / "contract.json", 0.5)


def _foreign_contract(directory: Path) -> None:
    contract = directory / "contract.json"
    contract.write_text(contract.read_text().replace('"fps": 25', '"fps": 30'))


MODELS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "missing": (_no_model, ["holds no model"]),
    "altered": (_flipped_bit, ["fusion.onnx has SHA-256", "altered or belongs to another model"]),
    "incomplete": (_no_graph, ["audio.onnx", "cannot be read"]),
    "torn-contract": (_torn_contract, ["not a model contract"]),
    "other-preprocessing": (_foreign_contract, ["fps"]),
}


@pytest.mark.parametrize(("spoil", "words"), MODELS.values(), ids=MODELS)
def test_wrong_model_is_refused_before_anything_is_scored(
    tmp_path: Path, model_dir: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    """A model that is not what its contract says is a configuration error."""
    directory = Path(shutil.copytree(model_dir, tmp_path / "model"))
    spoil(directory)
    done = avffd("--source", "demo", "--model", directory)
    assert_refused(done, 78, str(directory), *words)
