"""The pictures of docs/pseudo-fakes.md: all there, small, and drawn from what the recipes make."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from avff.trainer.pseudo import RECIPES
from tests.support.samples import make_sample
from tools import show_pseudo
from tools.show_pseudo import SEEDS, Shown, draw_pictures, draw_sound, png, spectrogram

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pseudo-fakes.md"
PICTURES = PAGE.with_suffix("")
MOST_BYTES = 150_000


def orange(drawn: bytes) -> np.ndarray:
    """Return bool ``[height, width]``: about the colour of labels, as near as a palette comes."""
    picture = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    blue, green, red = np.moveaxis(picture, -1, 0)
    return np.asarray((blue < 40) & (green > 60) & (green < 130) & (red > 180))


def test_every_recipe_has_a_section_and_a_small_picture() -> None:
    """A new recipe is drawn and described, or this fails."""
    assert set(SEEDS) == {*RECIPES, "rawboost"}
    text = PAGE.read_text(encoding="utf-8")
    for name in SEEDS:
        assert f"](pseudo-fakes/{name}.png)" in text, name
        assert 5_000 < (PICTURES / f"{name}.png").stat().st_size < MOST_BYTES, name
    assert {path.stem for path in PICTURES.iterdir()} == set(SEEDS)


def test_tool_draws_the_demo_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture recipe and one sound recipe, from file to file, the same in a second run."""
    for folder in ("one", "two"):
        command = ["-o", str(tmp_path / folder), "--only", "talking_photo", "splice"]
        assert show_pseudo.main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for name in ("talking_photo.png", "splice.png"):
        drawn = (tmp_path / "one" / name).read_bytes()
        assert len(drawn) < MOST_BYTES
        assert drawn == (tmp_path / "two" / name).read_bytes()
        assert orange(drawn).sum() > 200


def test_unwritable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the place of the folder ends with the status for what cannot be created."""
    (tmp_path / "taken").write_text("")
    assert show_pseudo.main(["-o", str(tmp_path / "taken"), "--only", "desync"]) == 73
    assert capsys.readouterr().err.count("\n") == 1


def test_orange_marks_the_labelled_pictures() -> None:
    """Bars under the second row stand below the labelled columns only."""
    before, after = make_sample(0), make_sample(0)
    after.frame_labels[:20, 0] = 1  # columns 0 to 2 of 8
    marked = np.flatnonzero(orange(png(draw_pictures(Shown(before, after)))).any(axis=0))
    width = 760
    assert marked.size > 0
    assert marked.min() < 0.1 * width
    assert 0.3 * width < marked.max() < 0.45 * width


def test_sound_without_labelled_pictures_has_no_bar() -> None:
    """A shift of the whole sound is benign."""
    before, after = make_sample(0), make_sample(1)
    assert not orange(png(draw_sound(Shown(before, after)))).any()
    after.frame_labels[10:20, 0] = 1
    assert orange(png(draw_sound(Shown(before, after)))).sum() > 100


def test_spectrogram_puts_a_tone_in_its_place() -> None:
    """2 kHz lies a quarter of the way up, 20 ms of silence are seen as such."""
    audio = np.sin(2 * np.pi * 2000 * np.arange(41_312) / 16_000).astype(np.float32)
    audio[20_000:21_000] = 0
    levels = spectrogram(audio)
    assert levels.shape[0] == 129
    assert levels[:, 5].argmax() == 32
    column = (20_500 - 352) // 160
    assert levels[32, column] < levels[32, 5] - 60
