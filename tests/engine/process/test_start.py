"""Engines as a model: loaded in another process and refused by it, and the batches that go there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avff.engine.backends.engine_file import read_sidecar
from avff.engine.errors import (
    BackendError,
    ContractError,
    EngineError,
    EngineFileError,
    GpuUnavailable,
)
from avff.engine.process import start as engine_start
from avff.engine.process.start import start_engines, try_engines
from avff.engine.process.supervisor import EngineProcess, Limits
from tests.engine.process.started import (
    LIMITS,
    Started,
    assert_right,
    load_reference,
    random_inputs,
)
from tests.support import scripted_child
from tests.support.engine_files import write_onnx_engines

pytestmark = pytest.mark.timeout(60)


def test_it_answers_as_the_model_on_the_cpu(start: Callable[..., Started]) -> None:
    """All graphs; batches that are padded, split by the engine, and split for the memory."""
    started = start()
    assert started.model.contract == load_reference().contract
    for graph, count in (("video", 1), ("audio", 3), ("landmarks", 33), ("fusion", 5), ("landmarks", 70)):
        assert_right(started.model, graph, count)
    assert started.said == []


def test_answers_are_the_callers(start: Callable[..., Started]) -> None:
    """A later call, and the end, leave them as they are."""
    model = start().model
    first = model.infer("landmarks", random_inputs("landmarks", 1))["tokens"]
    kept = first.copy()
    model.infer("landmarks", random_inputs("landmarks", 2))
    model.close()
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (
            "try deserialize crash",
            BackendError,
            "loading the engines crashed: the process was ended by SIGSEGV",
        ),
        (
            "try free_graph crash",
            BackendError,
            "loading the engines crashed: the process was ended by SIGSEGV",
        ),
        ("try deserialize hang", BackendError, "the engines were not loaded within 2 s"),
        ("try enqueue memory", BackendError, "TensorRT: enqueue failed: out of memory"),
        ("try make absent", GpuUnavailable, "no GPU here"),
        ("try open absent", GpuUnavailable, "no GPU here"),
        ("try open memory", BackendError, "TensorRT: open failed: out of memory"),
        (
            "serve deserialize crash",
            BackendError,
            "the engine's process was ended by SIGSEGV while it loaded",
        ),
        ("serve enqueue memory", BackendError, "TensorRT: enqueue failed: out of memory"),
    ],
)
def test_engines_that_cannot_be_loaded_are_an_error(
    fault: str, kind: type[EngineError], words: str, start: Callable[..., Started]
) -> None:
    """The first load is in a process that is thrown away: whatever it does, it is one line here."""
    limits = replace(LIMITS, start_s=2.0) if fault.endswith("hang") else LIMITS
    with pytest.raises(EngineError) as caught:
        start(fault, 99, limits=limits)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_altered_engines_are_refused_before_any_process(tmp_path: Path) -> None:
    write_onnx_engines(tmp_path)
    path = next(tmp_path.glob("audio-*.engine"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(EngineFileError, match="has SHA-256"):
        start_engines(tmp_path, command=("/nonexistent",))


def test_other_systems_are_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(GpuUnavailable, match="on Linux only"):
        start_engines(directory)


def test_a_process_that_cannot_be_started_is_an_error(directory: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot be started \(No such file or directory\)"):
        start_engines(directory, command=("/nonexistent",))


def test_engines_that_are_replaced_while_they_are_loaded_are_not_run(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried is what was checked, and what serves is what was tried."""
    for name, value in scripted_child.environment(tmp_path / "left").items():
        monkeypatch.setenv(name, value)
    other = replace(read_sidecar(directory), parity={"new": 1})
    with pytest.raises(ContractError, match="replaced by others meanwhile"):
        try_engines(directory, other.seal, LIMITS, command=scripted_child.COMMAND)
    process = EngineProcess(
        directory,
        other,
        patient=lambda: False,
        say=lambda line: None,
        command=scripted_child.COMMAND,
        limits=LIMITS,
    )
    with pytest.raises(ContractError, match="replaced by others meanwhile"):
        process.start()


def test_the_real_process_says_what_is_missing(directory: Path) -> None:
    """Here pycuda, which has no wheels; where there is a GPU, these engines are none."""
    kind = EngineError if importlib.util.find_spec("pycuda") else GpuUnavailable
    with pytest.raises(kind) as caught:
        start_engines(directory)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BackendError | ContractError)


def test_its_last_words_are_told(directory: Path) -> None:
    """A process that fails in a way nobody thought of: the line it ends with."""
    command = (sys.executable, "-c", "raise RuntimeError('something\\nodd')")
    with pytest.raises(BackendError, match=r"the process ended with code 1 \(odd\)"):
        start_engines(directory, command=command)


@pytest.mark.parametrize(("patient", "answer_s"), [(True, 5.0), (False, 1.0)])
def test_live_streams_wait_less_for_an_answer(
    patient: bool, answer_s: float, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is dropped."""
    given: list[float] = []

    def refuse(directory: Path, seal: str, limits: Limits, *, command: Sequence[str]) -> None:
        given.append(limits.answer_s)
        raise BackendError("no")

    monkeypatch.setattr(engine_start, "try_engines", refuse)
    with pytest.raises(BackendError, match="no"):
        start_engines(directory, patient=lambda: patient)
    assert given == [answer_s]


def test_batches_of_different_sizes_are_refused(start: Callable[..., Started]) -> None:
    """One of a single item would be repeated for the others."""
    inputs = dict(random_inputs("fusion", 4))
    inputs["audio_ok"] = inputs["audio_ok"][:1]
    model = start().model
    with pytest.raises(BackendError, match=r"fusion: got batches of \[1, 4\] in one call"):
        model.infer("fusion", inputs)
    assert_right(model)
