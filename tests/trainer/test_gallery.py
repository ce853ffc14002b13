"""The gallery that may be passed on: the worst errors over time, and nothing cut out of a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avff.trainer.evaluate import WindowScore
from avff.trainer.gallery import timeline, write_gallery
from tests.trainer.scored_clips import make_score

THRESHOLD = 0.6


def windows_of(uid: str, logits: list[float | None], modality: str = "av") -> list[WindowScore]:
    """A window each 320 ms."""
    return [
        WindowScore(
            uid, 1, 0.32 * k, 0.32 * (k + 8), logit, "" if logit is not None else "too_short",
            modality if logit is not None else "", 0,
        )
        for k, logit in enumerate(logits)
    ]  # fmt: skip


def test_worst_errors_are_listed_with_reasons_and_a_plot(tmp_path: Path) -> None:
    """Farthest from the threshold first; right answers are not there; plots of an earlier page go."""
    scores = [
        make_score("right", 1, 3.0),
        make_score("missed", 1, -2.0, abstained={"too_short": 1, "no_face": 4}),
        make_score("alarm", 0, 1.0),
    ]
    windows = [
        *windows_of("missed", [None, -2.0, -2.0]),
        *windows_of("right", [3.0]),
        *windows_of("alarm", [1.0], "audio"),
    ]
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "09.png").write_bytes(b"old")
    page = write_gallery(tmp_path, scores, windows, threshold=THRESHOLD).read_text()
    assert page.index("## 1. `missed`") < page.index("## 2. `alarm`")
    assert "`right`" not in page
    assert "2 of\n2." in page
    assert "| generated | real · A | 0.119 | 5 | no_face 4, too_short 1 |" in page
    assert "Scores rest on picture and sound (2 windows)." in page
    assert "Scores rest on sound alone (1 windows)." in page
    assert sorted(p.name for p in (tmp_path / "failures").iterdir()) == ["01.png", "02.png"]
    few = write_gallery(tmp_path, scores, windows, threshold=THRESHOLD, count=1).read_text()
    assert "1 of\n2." in few
    assert [p.name for p in (tmp_path / "failures").iterdir()] == ["01.png"]


def test_timeline_has_the_windows_scores_and_no_picture() -> None:
    """Probabilities at the windows' ends, a gap where there is none; not one image in the figure."""
    figure = timeline(windows_of("a", [None, 0.0, 2.0]), THRESHOLD)
    (axes,) = figure.axes
    assert axes.get_images() == []
    drawn = axes.get_lines()[0]
    np.testing.assert_allclose(np.asarray(drawn.get_xdata(), float), [2.56, 2.88, 3.2])
    shown = np.asarray(drawn.get_ydata(), float)
    assert np.isnan(shown[0])
    np.testing.assert_allclose(shown[1:], [0.5, 0.8808], atol=1e-4)
