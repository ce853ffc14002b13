"""What TensorBoard shows of a finished run, read back from its event files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]

from avff.trainer import metrics
from avff.trainer.report import Evidence, write_report
from avff.trainer.report.board import flat, write_board
from tests.trainer.scored_clips import CONTRACT, make_history, make_scores
from tests.trainer.test_report import RUN

RECIPE = {
    "name": "trial",
    "data": {"held_out_generators": ["G"], "validation_split": None},
    "train": {"batch": 32, "frozen_encoders": False, "optim": {"learning_rate": 1e-3}},
}


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals have no part in this."""
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROUNDS", 20)


def reported(outputs: Path) -> dict[str, Any]:
    """Write a report into a run's outputs; return its figures."""
    outputs.mkdir()
    write_report(outputs, RUN, CONTRACT, make_scores(), "dev", Evidence(history=make_history()))
    figures: dict[str, Any] = json.loads((outputs / "figures.json").read_text())
    return figures


def read_back(folder: Path) -> Any:
    """All that lies in a folder of events."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_run_is_a_row_with_figures_and_plots(tmp_path: Path) -> None:
    """Settings by dotted key, every figure of the judging clips, every plot as it lies in assets."""
    outputs, logs = tmp_path / "outputs", tmp_path / "logs"
    figures = reported(outputs)
    folder = write_board(logs, outputs, RECIPE)
    assert folder.parent == logs
    events = read_back(folder)
    content = events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    kept = HParamsPluginData.FromString(content).session_start_info.hparams
    found = {name: v.string_value or v.number_value for name, v in kept.items()}
    assert found == {
        "name": "trial",
        "data.held_out_generators": '["G"]',
        "train.batch": 32,
        "train.frozen_encoders": "false",
        "train.optim.learning_rate": 1e-3,
    }
    (auc,) = events.Scalars("judging/auc")
    assert auc.value == pytest.approx(figures["auc"]["value"], rel=1e-6)
    (threshold,) = events.Scalars("judging/threshold")
    assert threshold.value == pytest.approx(figures["threshold"], rel=1e-6)
    plots = sorted((outputs / "assets").glob("*.png"))
    assert events.Tags()["images"] == [plot.stem for plot in plots]
    for plot in plots:
        (event,) = events.Images(plot.stem)
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        drawn = cv2.imread(str(plot))
        assert drawn is not None
        np.testing.assert_array_equal(shown, drawn[..., ::-1])


def test_later_report_replaces_the_earlier_one(tmp_path: Path) -> None:
    """One row for a run however often it is reported; a figure that was not defined is left out."""
    outputs, logs = tmp_path / "outputs", tmp_path / "logs"
    figures = reported(outputs)
    (logs / "whole").mkdir(parents=True)
    (logs / "whole" / "events").write_text("of training")
    write_board(logs, outputs, RECIPE)
    figures["auc"]["value"], figures["f1"]["value"] = None, 0.25
    (outputs / "figures.json").write_text(json.dumps(figures))
    events = read_back(write_board(logs, outputs, {"name": "again"}))
    assert "judging/auc" not in events.Tags()["scalars"]
    assert [event.value for event in events.Scalars("judging/f1")] == [0.25]
    assert (logs / "whole" / "events").read_text() == "of training"


def test_settings_are_flat() -> None:
    """As they are given on the command line; nothing set, nothing shown."""
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": True, "f": {}}) == {"a.b.c": 1, "e": "true"}


def test_run_without_a_report_is_an_error(tmp_path: Path) -> None:
    """Nothing is replaced by nothing."""
    with pytest.raises(OSError, match=r"figures\.json"):
        write_board(tmp_path / "logs", tmp_path, RECIPE)
    assert not (tmp_path / "logs").exists()
