"""The page of the worst errors: the right clips in the right order, seen as the engine sees them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from avff.engine.contract import Affine
from avff.engine.offline import predictions_of_file, slices_of_file
from avff.engine.predictor import Predictor
from avff.engine.spec import SPEC
from avff.trainer.misclassified import face_strip, portrait, worst_errors, write_page
from tests.support.engine import face_models, make_face, make_slice, scripted_model
from tests.support.training import talking_clip
from tests.trainer.scored_clips import make_score

SECONDS = 3.2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_clip(tmp_path_factory.mktemp("clips") / "a.mp4", seconds=SECONDS)


def predictor() -> Predictor:
    """A model whose log-odds are small, so that its scores differ."""
    return Predictor(scripted_model(scored={"av": Affine(0.001, 0.0)}).model)


def test_worst_are_wrong_and_farthest_from_the_threshold() -> None:
    """Measured in log-odds from the threshold; right answers and silence are no errors."""
    scores = [
        make_score("right fake", 1, 5.0),
        make_score("right genuine", 0, -5.0),
        make_score("silent", 1, None),
        make_score("near miss", 1, 1.0),
        make_score("far miss", 1, -2.0),
        make_score("false alarm", 0, 4.0),
    ]
    # The log-odds of 0.75 are 1.1: the false alarm is 2.9 above, the misses 3.1 and 0.1 below.
    assert [s.uid for s in worst_errors(scores, 0.75)] == ["far miss", "false alarm", "near miss"]
    assert [s.uid for s in worst_errors(scores, 0.75, count=1)] == ["far miss"]
    assert [s.uid for s in worst_errors(scores, 0.999)] == ["far miss", "near miss", "right fake"]


def test_strip_takes_the_middles_of_equal_parts() -> None:
    """Faces of the pictures there; nothing where there is no face, or none in that picture."""
    faces = [make_face(seed=1), None, make_face(seed=2, ok=[0, 1, 2, 3])]
    slices = [make_slice(k, face=f) for k, f in enumerate(faces)]
    strip = face_strip(slices, 6)  # pictures 2, 6, 10, 14, 18, 22 of 24
    found = [None if f is None else int(f.astype(int).sum()) for f in strip]
    first, last = faces[0], faces[2]
    assert first is not None
    assert last is not None
    wanted = [first.faces[2], first.faces[6], None, None, last.faces[2], None]
    assert found == [None if w is None else int(w.astype(int).sum()) for w in wanted]


def test_portrait_shows_what_the_engine_saw_and_said(clip: Path) -> None:
    """Twelve faces, a spectrogram up to 8 kHz, and the probability of each window at its end."""
    slices = slices_of_file(clip, face_models())
    said = predictions_of_file(clip, face_models(), predictor())
    figure = portrait(slices, said, 0.6)
    strip, sound, line = figure.axes
    assert len(strip.get_images()) == 12
    (spectrogram,) = sound.get_images()
    bands = spectrogram.get_array()
    assert bands is not None
    assert bands.shape == (SPEC.bands, len(slices) * SPEC.slice_spectra)
    assert list(spectrogram.get_extent()) == [0, pytest.approx(SECONDS), 0, 8]
    drawn = line.get_lines()[0]
    ends_s, shown = (np.asarray(v, np.float64) for v in (drawn.get_xdata(), drawn.get_ydata()))
    assert ends_s == pytest.approx([p.end_ns / 1e9 for p in said])
    logits = [p.logit for p in said]
    assert [x is None for x in logits] == np.isnan(shown).tolist()
    assert logits.count(None) == 7, "too short until the eighth slice"
    scored = [1 / (1 + np.exp(-x)) for x in logits if x is not None]
    assert len(set(scored)) > 1
    assert shown[np.isfinite(shown)] == pytest.approx(scored)
    assert [a.get_ylabel() for a in figure.axes] == ["face", "sound, kHz", "probability\nof fake, 0…1"]
    assert line.get_xlabel() == "time, s"


def test_page_has_a_picture_for_each_error(clip: Path, tmp_path: Path) -> None:
    """Worst first, with what was said of it; a file that is gone is told, not left out."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "misclassified-07.png").write_bytes(b"of an earlier page")
    scores = [
        make_score("gone.mp4", 1, -1.0),
        make_score("a.mp4", 0, 3.0, abstained={"too_short": 7}),
        make_score("fine.mp4", 1, 3.0),
    ]
    page = write_page(
        tmp_path, scores, lambda uid: clip.parent / uid, face_models(), predictor(), threshold=0.6
    )
    text = page.read_text()
    assert re.findall(r"## (\d+)\. `(.+)`", text) == [("1", "a.mp4"), ("2", "gone.mp4")]
    assert "| genuine | real | 0.953 | 5 | too_short 7 |" in text
    assert re.search(r"Cannot be shown: .*gone\.mp4", text)
    assert re.findall(r"\((assets/.+)\)", text) == ["assets/misclassified-01.png"]
    assert [p.name for p in (tmp_path / "assets").iterdir()] == ["misclassified-01.png"]
    picture = cv2.imread(str(tmp_path / "assets" / "misclassified-01.png"))
    assert picture is not None
    assert picture.shape == (750, 1200, 3)
    assert "http" not in text


def test_page_without_errors_says_so(tmp_path: Path) -> None:
    """The threshold parts the classes: nothing to look at, and no picture."""
    scores = [make_score("a", 0, -3.0), make_score("b", 1, 3.0)]
    page = write_page(tmp_path, scores, Path, face_models(), predictor(), threshold=0.6)
    assert "No clip is on the wrong side of the threshold, 0.600." in page.read_text()
    assert list((tmp_path / "assets").iterdir()) == []
