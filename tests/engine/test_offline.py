from __future__ import annotations

from pathlib import Path

import pytest

from avff.engine.errors import MediaError
from avff.engine.offline import predictions_of_file, slices_of_file
from avff.engine.predictor import Predictor
from avff.engine.slices import Reason
from tests.support.engine import face_models, scripted_model
from tests.support.media import write_clip


def test_a_file_is_cut_to_its_end(tmp_path: Path) -> None:
    """All of a file becomes slices, the rest of at least half a slice included."""
    path = write_clip(tmp_path / "a.mkv", seconds=1.2)
    slices = slices_of_file(path, face_models())
    assert [s.index for s in slices] == [0, 1, 2, 3]
    assert [s.audio_ok for s in slices[:3]] == [1.0] * 3
    assert slices[3].audio_ok == pytest.approx(0.75)


def test_a_file_is_predicted_window_by_window(tmp_path: Path) -> None:
    """Each slice gives a prediction; a clip that shows nobody has a reason for each."""
    path = write_clip(tmp_path / "a.mkv", seconds=3.2)
    made = predictions_of_file(path, face_models(), Predictor(scripted_model().model))
    assert [p.reason for p in made] == [Reason.TOO_SHORT] * 7 + [Reason.NO_FACE] * 3


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file is a media error."""
    with pytest.raises(MediaError, match="no such file"):
        slices_of_file(tmp_path / "missing.mp4", face_models())
