from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avff.engine.backend import Backend, Tensors
from avff.engine.backends.scripted import ScriptedBackend
from avff.engine.contract import GRAPHS, GraphSpec
from avff.engine.errors import BackendError, ContractError
from avff.engine.model import CONTRACT_FILE, Model, load_model
from avff.engine.spec import SPEC
from tests.support.engine import WIDTH, mean_tokens, scripted_model


def _content(graph: str) -> bytes:
    return f"the graph {graph}".encode()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model directory as the trainer writes it, with text for graphs."""
    contract = scripted_model().model.contract
    graphs: Mapping[str, GraphSpec] = {
        name: replace(spec, sha256=hashlib.sha256(_content(name)).hexdigest())
        for name, spec in contract.graphs.items()
    }
    (tmp_path / CONTRACT_FILE).write_text(replace(contract, graphs=graphs).to_json(), encoding="utf-8")
    for name, spec in graphs.items():
        (tmp_path / spec.file).write_bytes(_content(name))
    return tmp_path


class RecordingFactory:
    """Keeps what it is asked to load."""

    def __init__(self) -> None:
        self.loaded: list[tuple[bytes, str]] = []

    def __call__(self, content: bytes, spec: GraphSpec) -> Backend:
        self.loaded.append((content, spec.file))
        return ScriptedBackend(lambda inputs: inputs)


def _edit(directory: Path, **changes: Any) -> None:
    path = directory / CONTRACT_FILE
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["graphs"]["audio"].update(changes)
    path.write_text(json.dumps(raw), encoding="utf-8")


def _refusal(directory: Path) -> str:
    factory = RecordingFactory()
    with pytest.raises(ContractError) as caught:
        load_model(directory, factory=factory)
    assert b"the graph audio" not in [content for content, _ in factory.loaded]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_graph_is_loaded_from_its_verified_bytes(directory: Path) -> None:
    """The factory gets the content of each graph's file, and the contract is kept."""
    factory = RecordingFactory()
    model = load_model(directory, factory=factory)
    assert factory.loaded == [(_content(name), f"{name}.onnx") for name in GRAPHS]
    assert model.contract.spec == SPEC
    assert model.name == f"scripted@{hashlib.sha256(_content('fusion')).hexdigest()[:8]}"


@pytest.mark.parametrize("content", [b"the graph audiO", b"", b"the graph audio\n"])
def test_an_altered_file_is_refused(directory: Path, content: bytes) -> None:
    """A graph whose SHA-256 is not the contract's never reaches the runtime; both hashes are told."""
    (directory / "audio.onnx").write_bytes(content)
    message = _refusal(directory)
    assert f"audio.onnx has SHA-256 {hashlib.sha256(content).hexdigest()[:12]}…" in message
    assert f"the contract says {hashlib.sha256(_content('audio')).hexdigest()[:12]}…" in message
    assert str(directory) in message


def test_a_missing_file_is_named(directory: Path) -> None:
    """Without one of its files a model is refused, by the file's name."""
    (directory / "audio.onnx").unlink()
    message = _refusal(directory)
    assert "audio.onnx" in message
    assert "cannot be read (No such file or directory)" in message


@pytest.mark.parametrize("file", ["../audio.onnx", "/etc/passwd", "a/audio.onnx", "./audio.onnx"])
def test_a_file_outside_the_directory_is_refused(directory: Path, file: str) -> None:
    """A contract cannot make the program read elsewhere, not even a file with the right hash."""
    outside = directory.parent / "audio.onnx"
    outside.write_bytes(_content("audio"))
    _edit(directory, file=file)
    assert f"names the file {file!r} outside the model" in _refusal(directory)


@pytest.mark.parametrize("file", ["", ".", "..", "a\0b"])
def test_a_name_that_is_no_file_is_refused(directory: Path, file: str) -> None:
    """A graph's name that cannot be a file is a contract error."""
    _edit(directory, file=file)
    assert "cannot be read" in _refusal(directory) or "outside the model" in _refusal(directory)


@pytest.mark.parametrize("damage", ["missing", "directory", "binary", "no directory"])
def test_without_a_contract_there_is_no_model(directory: Path, damage: str) -> None:
    """A directory whose contract cannot be read holds no model, and is named."""
    path = directory / CONTRACT_FILE
    if damage != "no directory":
        path.unlink()
    if damage == "directory":
        path.mkdir()
    if damage == "binary":
        path.write_bytes(b"\xff\xfe")
    place = path if damage == "no directory" else directory
    with pytest.raises(ContractError, match=r"holds no model \(contract\.json cannot be read\)") as caught:
        load_model(place, factory=RecordingFactory())
    assert str(caught.value).startswith(f"{place}: ")


def test_a_runtime_that_refuses_is_passed_on(directory: Path) -> None:
    """What the runtime says of a graph that it cannot load reaches the caller: here, of text."""
    with pytest.raises(BackendError, match=r"video\.onnx: is not an ONNX file"):
        load_model(directory)


def _audio(count: int) -> Tensors:
    return {"audio": np.zeros((count, 2, SPEC.bands, SPEC.slice_spectra), np.float32)}


def test_inputs_are_checked_before_the_runtime_sees_them() -> None:
    """Input that does not fit the contract never reaches a graph."""
    scripted = scripted_model()
    with pytest.raises(ContractError, match=r"audio: audio is float32 \[3, 2, 80, 31\]"):
        scripted.model.infer("audio", {"audio": np.zeros((3, 2, 80, 31), np.float32)})
    assert scripted.backends["audio"].batches == []


@pytest.mark.parametrize(
    "tokens",
    [np.zeros((2, 8, WIDTH + 1), np.float32), np.zeros((2, 8, WIDTH)), np.zeros((2, 8), np.float32)],
    ids=["shape", "type", "axes"],
)
def test_outputs_are_checked_before_anyone_uses_them(tokens: Any) -> None:
    """A graph that returns something else than its contract says gives no tokens."""
    model = scripted_model(encode=lambda graph, inputs: {"tokens": tokens}).model
    with pytest.raises(ContractError, match="audio: tokens is"):
        model.infer("audio", _audio(2))


def test_fitting_tensors_come_back() -> None:
    """A run that fits gives the graph's outputs."""
    model: Model = scripted_model().model
    np.testing.assert_array_equal(
        model.infer("audio", _audio(2))["tokens"], mean_tokens("audio", _audio(2))["tokens"]
    )


def test_closing_frees_every_graph() -> None:
    """A closed model has closed all its backends."""
    scripted = scripted_model()
    scripted.model.close()
    assert [backend.closed for backend in scripted.backends.values()] == [True] * 4


def test_closing_frees_all_graphs_and_then_what_they_share() -> None:
    """Also where one of them cannot be freed, which is told."""
    freed: list[str] = []

    class StubbornBackend(ScriptedBackend):
        def close(self) -> None:
            freed.append("stubborn")
            raise BackendError("cannot be freed")

    contract = scripted_model().model.contract
    backends = {name: ScriptedBackend(lambda inputs: inputs) for name in GRAPHS}
    stubborn = backends | {"audio": StubbornBackend(lambda inputs: inputs)}
    model = Model(contract, stubborn, release=lambda: freed.append("shared"))
    with pytest.raises(BackendError, match="cannot be freed"):
        model.close()
    assert freed == ["stubborn", "shared"]
    assert [name for name in GRAPHS if not stubborn[name].closed] == ["audio"]
