from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from avff.engine.contract import (
    ENCODERS,
    FORMAT,
    GRAPHS,
    Affine,
    Calibration,
    Contract,
    TensorSpec,
    check_tensors,
    parse_contract,
)
from avff.engine.errors import ContractError
from avff.engine.spec import SPEC
from tests.support.engine import scripted_model

Change = Callable[[dict[str, Any]], None]
SPECS = (TensorSpec("video", "float32", (64, 4)), TensorSpec("video_ok", "float32", (64,)))


def _contract() -> Contract:
    contract = scripted_model().model.contract
    calibration = Calibration({"av": Affine(1.5, -0.25)}, {"desync": Affine(0.1, 3.0)}, 0.625, {"video": 2.5})
    return replace(contract, calibration=calibration, provenance={"manifest": "abc", "commit": "ü"})


def _changed(change: Change) -> str:
    raw = json.loads(_contract().to_json())
    change(raw)
    return json.dumps(raw)


def test_a_contract_survives_writing_and_reading() -> None:
    """What is written is read back equal, down to every tensor and every number."""
    contract = _contract()
    assert parse_contract(contract.to_json()) == contract


def test_a_contract_is_readable_text() -> None:
    """The file is indented JSON with its format number, and ends with a line feed."""
    text = _contract().to_json()
    assert json.loads(text)["format"] == FORMAT
    assert text.count("\n") > 50
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_calibration_that_is_no_number_is_not_written(number: float) -> None:
    """NaN and infinity never get into a contract file."""
    broken = replace(_contract(), calibration=Calibration({"av": Affine(number, 0.0)}, {}, 0.5))
    with pytest.raises(ValueError, match="JSON"):
        broken.to_json()


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"video": 0.75, "audio": 0.5}, "not within 0 and 1"),
        ({"video": -0.25}, "not within 0 and 1"),
        ({"video": 0.5, "motion": 0.75}, "not within 0 and 1"),
        ({"motion": -0.25}, "not within 0 and 1"),
        ({"video": 0.5}, "share of 'video', which has no calibration"),
        ({"motion": 0.5}, "share of 'motion', which has no calibration"),
    ],
    ids=["too-much", "negative", "too-much-motion", "negative-motion", "of-nothing", "of-no-motion"],
)
def test_shares_that_make_no_mean_are_refused(shares: dict[str, float], told: str) -> None:
    """A score would not be a probability."""
    with pytest.raises(ContractError, match=told):
        parse_contract(_changed(lambda raw: raw["calibration"]["any"]["av"].update(shares)))


def test_another_format_is_refused() -> None:
    """A contract of another format tells both numbers and the way out."""
    with pytest.raises(ContractError, match="has format 99, this program reads 3; export it again"):
        parse_contract(_changed(lambda raw: raw.update(format=99)))
    assert FORMAT == 3


def test_each_encoder_has_a_width_of_its_own() -> None:
    """The shape of one slice's tokens is that of the encoder's own graph."""
    contract = scripted_model(widths={"audio": 9, "landmarks": 7}).model.contract
    assert [contract.token_shape(encoder) for encoder in ENCODERS] == [(8, 4), (8, 9), (8, 7)]


def test_a_model_may_know_no_limits() -> None:
    """Without limits every window is familiar enough; what is read back has none either."""
    contract = replace(_contract(), calibration=Calibration({"av": Affine(1.0, 0.0)}, {}, 0.5))
    assert parse_contract(contract.to_json()).calibration.limits == {}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_missing_graph_is_named(graph: str) -> None:
    """Without one of its graphs a model is refused, by the graph's name."""
    with pytest.raises(ContractError, match=f"lacks the graph '{graph}'"):
        parse_contract(_changed(lambda raw: raw["graphs"].pop(graph)))


@pytest.mark.parametrize(("name", "theirs"), [("fps", 30), ("bands", 64), ("revision", 0), ("face_px", 112)])
def test_another_preprocessing_is_refused(name: str, theirs: int) -> None:
    """A model trained on other input tells the field and both values."""
    with pytest.raises(ContractError) as caught:
        parse_contract(_changed(lambda raw: raw["spec"].update({name: theirs})))
    message = str(caught.value)
    assert f"{name} = {theirs}" in message
    assert f"{name} = {getattr(SPEC, name)}" in message
    assert "use the matching version of avff or train again" in message


def _put(*keys: str, value: object) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value

    return change


def _drop(*keys: str) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        del raw[keys[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _drop("format"),
        _drop("name"),
        _drop("spec", "fps"),
        _drop("calibration", "threshold"),
        _drop("calibration", "any", "av", "scale"),
        _drop("graphs", "video", "sha256"),
        _drop("provenance"),
        _put("spec", "colour", value=3),
        _put("graphs", value=[]),
        _put("graphs", "video", value="video.onnx"),
        _put("graphs", "video", "inputs", value=3),
        _put("graphs", "video", "inputs", value=[{"name": "x", "dtype": "floaty", "shape": [1]}]),
        _put("graphs", "fusion", "gflop", value="many"),
        _put("calibration", value=None),
        _put("calibration", "any", value=["av"]),
        _put("calibration", "any", "av", value=[1, 2]),
        _put("calibration", "any", "av", "scale", value=float("nan")),
        _put("calibration", "parts", "desync", "offset", value=float("inf")),
        _put("calibration", "threshold", value=float("nan")),
        _drop("calibration", "limits"),
        _put("calibration", "limits", value=["video"]),
        _put("calibration", "limits", "video", value="far"),
        _put("calibration", "limits", "video", value=float("inf")),
        _put("provenance", value=7),
    ],
)
def test_a_damaged_contract_is_refused(change: Change) -> None:
    """A field that is missing, unknown, of another type or no number is a contract error of one line."""
    with pytest.raises(ContractError, match="not a model contract") as caught:
        parse_contract(_changed(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "nonsense", "null", "3", '"format"', "[]", "[1]", "{}", "\0", "[" * 100_000]
)
def test_garbage_is_refused(text: str) -> None:
    """What is no contract at all is a contract error too."""
    with pytest.raises(ContractError, match="not a model contract"):
        parse_contract(text)


def _zeros(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_fitting_tensors_pass_in_any_batch(batch: int) -> None:
    """The batch axis is free."""
    check_tensors("fusion", SPECS, {"video": _zeros(batch, 64, 4), "video_ok": _zeros(batch, 64)})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"video": _zeros(2, 64, 4)}, "fusion: got tensors ['video'], expected ['video', 'video_ok']"),
        (
            {"video": _zeros(2, 64, 4), "video_ok": _zeros(2, 64), "more": _zeros(2)},
            "fusion: got tensors ['more', 'video', 'video_ok'], expected ['video', 'video_ok']",
        ),
        (
            {"video": _zeros(2, 63, 4), "video_ok": _zeros(2, 64)},
            "fusion: video is float32 [2, 63, 4], expected float32 [batch, 64, 4]",
        ),
        (
            {"video": _zeros(2, 64, 5), "video_ok": _zeros(2, 64)},
            "fusion: video is float32 [2, 64, 5], expected float32 [batch, 64, 4]",
        ),
        (
            {"video": _zeros(2, 64, 4), "video_ok": _zeros(2, 64, dtype=np.float64)},
            "fusion: video_ok is float64 [2, 64], expected float32 [batch, 64]",
        ),
        (
            {"video": _zeros(2, 64, 4), "video_ok": _zeros(64)},
            "fusion: video_ok is float32 [64], expected float32 [batch, 64]",
        ),
    ],
    ids=["missing", "surplus", "length", "width", "type", "no batch"],
)
def test_a_misfit_tells_found_and_expected(tensors: dict[str, npt.NDArray[Any]], message: str) -> None:
    """A tensor of another name, type or shape is refused with what was found and what was expected."""
    with pytest.raises(ContractError) as caught:
        check_tensors("fusion", SPECS, tensors)
    assert str(caught.value) == message
