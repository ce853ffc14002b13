"""The plots draw the numbers they are given; pixels are for people to look at."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from avff.trainer import metrics
from avff.trainer.metrics import Float64
from avff.trainer.report import plots
from avff.trainer.report.figures import Scored
from avff.trainer.report.history import Epoch
from tests.trainer.scored_clips import THRESHOLD, make_history, make_score, make_scores

SCORED = Scored.of(make_scores())


def line(axes: Axes, label: str) -> tuple[Float64, Float64]:
    """What the line whose label begins so goes through."""
    (found,) = [x for x in axes.get_lines() if str(x.get_label()).startswith(label)]
    return np.asarray(found.get_xdata(), np.float64), np.asarray(found.get_ydata(), np.float64)


def only(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def test_losses_are_drawn_by_stage_and_epoch() -> None:
    """A panel for each stage, epochs from 1."""
    figure = plots.learning_curves(make_history())
    assert [a.get_title() for a in figure.axes] == ["Loss: stage encoders", "Loss: stage whole"]
    x, y = line(figure.axes[1], "validation")
    assert x.tolist() == [1, 2, 3, 4, 5]
    assert y.tolist() == [0.6, 0.55, 0.6, 0.7, 0.8]
    assert line(figure.axes[0], "training")[1] == pytest.approx([2.0, 1.9, 1.8, 1.7, 1.6, 1.5])


def test_metrics_leave_out_stages_without_any_and_mark_the_best_f1() -> None:
    """The first stage measures none; the mark says that it chooses nothing."""
    axes = only(plots.training_metrics(make_history()))
    assert axes.get_title() == "Validation: stage whole"
    assert line(axes, "AUC")[1] == pytest.approx([0.7, 0.68, 0.66, 0.64, 0.62])
    assert [v.tolist() for v in line(axes, "best F1 (chooses nothing)")] == [[1], [0.75]]
    assert set(line(axes, "accuracy to beat, 0.600")[1]) == {0.6}


def test_missing_figure_is_a_gap() -> None:
    """A NaN is drawn as nothing, not as zero."""
    history = [Epoch("whole", n, {"train/loss": v}) for n, v in enumerate((0.5, math.nan, 0.3))]
    axes = only(plots.learning_curves(history))
    assert np.isnan(line(axes, "training")[1]).tolist() == [False, True, False]
    assert len(axes.get_lines()) == 1


@pytest.mark.parametrize(("last", "scale"), [(1e-5, "log"), (0.0, "linear")])
def test_learning_rate_is_logarithmic_unless_it_reaches_zero(last: float, scale: str) -> None:
    """A schedule that ends at zero has no logarithm there."""
    history = [Epoch("whole", n, {"lr": v}) for n, v in enumerate((1e-3, last))]
    axes = only(plots.learning_rate(history))
    assert axes.get_yscale() == scale
    assert line(axes, "learning rate")[1].tolist() == [1e-3, last]


def test_roc_is_scikit_learns_and_the_threshold_lies_on_it() -> None:
    """The point of the frozen threshold is one of the curve's."""
    axes = only(plots.roc(SCORED, THRESHOLD))
    x, y = line(axes, f"model, AUC {metrics.auc(SCORED.labels, SCORED.logits):.3f}")
    false, true, _ = roc_curve(SCORED.labels, SCORED.logits, drop_intermediate=False)
    assert x == pytest.approx(false)
    assert y == pytest.approx(true)
    point = [float(v[0]) for v in line(axes, "at threshold 0.600")]
    called = SCORED.probabilities >= THRESHOLD
    assert point == [called[SCORED.labels == 0].mean(), called[SCORED.labels == 1].mean()]
    assert any(np.allclose(point, p) for p in zip(x, y, strict=True))


def test_precision_is_drawn_over_the_prior() -> None:
    """The curve is scikit-learn's, the area below its steps the average precision."""
    axes = only(plots.precision_recall(SCORED, THRESHOLD))
    x, y = line(axes, "model, AP")
    precision, recall, _ = precision_recall_curve(SCORED.labels, SCORED.logits)
    assert x == pytest.approx(recall[::-1])
    assert y == pytest.approx(precision[::-1])
    area = np.sum(np.diff(x) * y[1:])
    assert area == pytest.approx(average_precision_score(SCORED.labels, SCORED.logits))
    assert set(line(axes, "guessing: share of fakes 0.400")[1]) == {18 / 45}


def test_precision_has_no_point_where_nothing_is_called_fake() -> None:
    """Precision is not defined there; no warning, no point."""
    axes = only(plots.precision_recall(SCORED, 0.999))
    assert not [x for x in axes.get_lines() if "threshold" in str(x.get_label())]


def test_reliability_shows_the_clips_of_each_bin() -> None:
    """Ten bins of equal mass, with their counts beside them."""
    axes = only(plots.reliability(SCORED))
    bins = metrics.reliability_bins(SCORED.labels, SCORED.probabilities, 10)
    x, y = line(axes, "model, calibration error")
    assert x.tolist() == [b.probability for b in bins]
    assert y.tolist() == [b.fakes for b in bins]
    assert [t.get_text() for t in axes.texts] == [str(b.count) for b in bins]
    assert sum(int(t.get_text()) for t in axes.texts) == 45


def test_histogram_has_all_of_both_classes() -> None:
    """Each class adds up to 100 %, on the side of the threshold where its clips are."""
    axes = only(plots.score_histogram(SCORED, THRESHOLD))
    for patch, label in zip(axes.patches, (0, 1), strict=True):
        assert str(patch.get_label()) == f"{['genuine', 'generated'][label]}, {(27, 18)[label]} clips"
        values = SCORED.probabilities[SCORED.labels == label]
        counted, _ = np.histogram(values, np.linspace(0, 1, 26))
        corners = patch.get_path().vertices
        assert np.max(np.asarray(corners)[:, 1]) == pytest.approx(100 * counted.max() / len(values))
    assert set(line(axes, "threshold 0.600")[0]) == {THRESHOLD}


def test_confusion_matrix_shows_counts_and_shares() -> None:
    """Six cells: both classes, three answers."""
    scores = [make_score("a", 0, -1.0), make_score("b", 0, None), make_score("c", 1, 3.0)]
    axes = only(plots.confusion_matrix(scores, THRESHOLD))
    assert [t.get_text().split("\n") for t in axes.texts] == [
        ["1", "50%"], ["0", "0%"], ["1", "50%"],
        ["0", "0%"], ["1", "100%"], ["0", "0%"],
    ]  # fmt: skip


def test_every_axis_says_what_it_is() -> None:
    """Titles, and a label for both axes."""
    history = make_history()
    figures = [
        plots.learning_curves(history), plots.training_metrics(history), plots.learning_rate(history),
        plots.roc(SCORED, THRESHOLD), plots.precision_recall(SCORED, THRESHOLD), plots.reliability(SCORED),
        plots.score_histogram(SCORED, THRESHOLD), plots.confusion_matrix(make_scores(), THRESHOLD),
    ]  # fmt: skip
    for figure in figures:
        assert all(a.get_title() and a.get_xlabel() for a in figure.axes)
        assert figure.axes[0].get_ylabel()


def test_legends_hide_no_curve() -> None:
    """They stand under the panels, once for all of them; a curve below chance runs through any corner."""
    history = make_history()
    for figure, entries in (
        (plots.learning_curves(history), 2), (plots.training_metrics(history), 5),
        (plots.roc(SCORED, THRESHOLD), 3), (plots.precision_recall(SCORED, THRESHOLD), 3),
        (plots.reliability(SCORED), 3), (plots.score_histogram(SCORED, THRESHOLD), 3),
    ):  # fmt: skip
        assert all(axes.get_legend() is None for axes in figure.axes)
        assert [len(legend.get_texts()) for legend in figure.legends] == [entries]
        figure.draw_without_rendering()
        top = figure.legends[0].get_window_extent().y1
        assert all(top <= axes.get_window_extent().y0 for axes in figure.axes)


def test_settings_of_matplotlib_are_left_alone() -> None:
    """A program that plots for itself finds its own style again, and no window system is asked for."""
    before = dict(mpl.rcParams)
    plots.roc(SCORED, THRESHOLD)
    assert dict(mpl.rcParams) == before


def test_only_what_there_is_data_for_is_drawn(tmp_path: Path) -> None:
    """No history, no curves; one class, no ROC; no score, only nothing."""
    assert plots.draw_all(tmp_path, [], [make_score("a", 1, None)], THRESHOLD) == []
    assert list(tmp_path.iterdir()) == []
    drawn = plots.draw_all(tmp_path, make_history()[:6], [make_score("a", 1, 1.0)], THRESHOLD)
    expected = ["confusion_matrix.png", "learning_curves.png", "reliability.png", "score_histogram.png"]
    assert sorted(drawn) == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == expected
