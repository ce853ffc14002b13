"""Engines in a process that crashes, hangs and runs out of memory: no wrong answer, and not our own end."""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from avff.engine.backend import Tensors
from avff.engine.backends.engine_file import read_sidecar
from avff.engine.contract import Contract
from avff.engine.errors import (
    BackendDown,
    BackendError,
)
from avff.engine.predictor import Predictor, StreamState
from avff.engine.process import serving, wire
from avff.engine.process.restarts import RestartPolicy
from avff.engine.process.serving import ServingProcess
from avff.engine.process.supervisor import EngineProcess
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from tests.engine.process.started import (
    IMPATIENT,
    LIMITS,
    Started,
    assert_right,
    child_of,
    errors_of,
    failure_of,
    load_reference,
    random_inputs,
    until_it_answers,
)
from tests.support import scripted_child
from tests.support.engines import demo_slices

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "the engine's process broke off; it was ended by SIGSEGV"),
        ("hang", "the engine gave no answer within 0.5 s; it was killed"),
        ("memory", "TensorRT: launch failed: out of memory"),
    ],
)
def test_a_breakdown_is_survived(fault: str, words: str, start: Callable[..., Started]) -> None:
    """The call it happens in, and those until it is back, have no answer; then answers are right again."""
    started = start(f"serve launch {fault}", limits=IMPATIENT)
    with pytest.raises(BackendDown) as caught:
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    assert words in str(caught.value)
    heard = until_it_answers(started.model)
    assert heard[-1] == "the engine's process is starting"
    assert [line for line in started.said if "\n" in line] == []
    assert words in started.said[0]
    assert started.said[0].endswith("it is started again in 0.05 s (1 of 2)")
    assert started.said[1:] == ["the engine runs again"]


def test_a_hang_costs_the_deadline_and_no_more(start: Callable[..., Started]) -> None:
    started = start("serve launch hang", limits=IMPATIENT)
    began = time.monotonic()
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    assert 0.5 <= time.monotonic() - began < 2.5
    began = time.monotonic()
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    assert time.monotonic() - began < 0.3


def test_who_can_wait_gets_the_answer(start: Callable[..., Started]) -> None:
    """With files nothing is lost by waiting: the same call is made again."""
    started = start("serve launch crash", times=2, patient=True)
    assert_right(started.model)
    assert [line.rpartition("(")[2] for line in started.said] == [
        "1 of 2)",
        "the engine runs again",
        "2 of 2)",
        "the engine runs again",
    ]


def test_a_live_stream_abstains_meanwhile_and_goes_on(start: Callable[..., Started], tmp_path: Path) -> None:
    """Through the predictor: the reason as long as it lasts, then scores, and none that is another."""
    started, left = start("serve launch crash", times=0), tmp_path / "left"
    predictor, reference = Predictor(started.model), Predictor(load_reference())
    states = StreamState(), StreamState()
    made, expected = [], []
    for piece in demo_slices()[:36]:
        if piece.index == 12:
            left.write_text("1")
        made += [prediction for _, prediction in predictor.predict([(states[0], piece)])]
        expected += [prediction for _, prediction in reference.predict([(states[1], piece)])]
        if made[-1].reason is Reason.ENGINE_DOWN:
            time.sleep(0.2)
    down = [p.index for p in made if p.reason is Reason.ENGINE_DOWN]
    assert down == list(range(12, down[-1] + 1))
    assert down[-1] < 26
    for one, other in zip(made, expected, strict=True):
        if one.index < 12 or one.index >= down[-1] + SPEC.window_slices:
            assert one.reason == other.reason
            assert one.logit == pytest.approx(other.logit, abs=1e-3)
    assert made[-1].logit is not None


@pytest.mark.parametrize("patient", [True, False])
def test_too_many_breakdowns_are_the_end(patient: bool, start: Callable[..., Started]) -> None:
    """An error for good, which says so, and stays."""
    started = start("serve launch crash", times=99, patient=patient)
    errors = errors_of(started.model)
    assert "that was breakdown 3, it is not started again" in errors[-1]
    assert not isinstance(failure_of(started.model), BackendDown)
    assert len([line for line in started.said if "started again in" in line]) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("serve allocate_device memory", "allocate_device failed: out of memory"),
        ("serve deserialize crash", "broke off while it loaded the engines; it was ended by SIGSEGV"),
    ],
)
def test_a_start_that_fails_counts_too(
    fault: str, words: str, start: Callable[..., Started], tmp_path: Path
) -> None:
    """The first one works; then the GPU has no room any more, say."""
    started = start("serve launch crash", times=1)
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    os.environ.update(scripted_child.environment(tmp_path / "left", fault, 99))
    errors = errors_of(started.model)
    assert words in errors[-1]
    assert "that was breakdown 3" in errors[-1]


def test_a_program_that_is_gone_counts_too(directory: Path, tmp_path: Path) -> None:
    """It was uninstalled while it ran."""
    process = _process(directory, "/nonexistent")
    heard = []
    for _ in range(3):
        with pytest.raises(BackendError) as caught:
            process.run("landmarks", random_inputs("landmarks", 1), 1)
        heard.append(type(caught.value))
        time.sleep(0.15)
    process.close()
    assert heard == [BackendDown, BackendDown, BackendError]
    assert "cannot be started (No such file or directory)" in str(caught.value)


def test_a_slow_start_is_a_breakdown(start: Callable[..., Started], tmp_path: Path) -> None:
    started = start("serve launch crash", times=1, limits=replace(LIMITS, start_s=2.0))
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    os.environ.update(scripted_child.environment(tmp_path / "left", "serve open hang", 1))
    until_it_answers(started.model)
    assert any("was not ready within 2 s; it was killed" in line for line in started.said)


@contextlib.contextmanager
def _replaced(directory: Path) -> Iterator[None]:
    """Put a folder back as it was."""
    kept = {path: path.read_bytes() for path in directory.iterdir()}
    try:
        yield
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


@pytest.mark.parametrize("change", ["model", "build"])
def test_engines_that_are_replaced_while_it_runs_are_not_run(
    change: str, start: Callable[..., Started], directory: Path
) -> None:
    """Nor those of another build of the same model: scores would change, and nobody has tried them."""
    started = start("serve launch crash")
    sidecar = read_sidecar(directory)
    contract = replace(sidecar.contract, name="other")
    other = replace(sidecar, contract=contract) if change == "model" else replace(sidecar, parity={"new": 1})
    with _replaced(directory):
        (directory / "engine.json").write_bytes(other.to_bytes())
        errors = errors_of(started.model)
    assert errors[-1] == f"{directory}: the engines were replaced by others meanwhile; start again"
    assert len([line for line in started.said if "started again in" in line]) == 1


def test_a_file_that_cannot_be_read_for_a_while_is_read_later(
    start: Callable[..., Started], directory: Path
) -> None:
    """After a new start that fails for it, which counts as a breakdown; then it goes on."""
    started = start("serve launch crash")
    path = next(directory.glob("audio-*.engine"))
    with _replaced(directory):
        path.unlink()
        with pytest.raises(BackendDown):
            started.model.infer("landmarks", random_inputs("landmarks", 1))
        deadline_s = time.monotonic() + 20
        while len(started.said) < 2 and time.monotonic() < deadline_s:
            assert isinstance(failure_of(started.model), BackendDown)
            time.sleep(0.01)
    assert "cannot be read (No such file or directory)" in started.said[1]
    assert started.said[1].endswith("(2 of 2)")
    until_it_answers(started.model)


@pytest.mark.parametrize(
    ("module", "name"),
    [(socket, "socketpair"), (os, "pipe"), (os, "memfd_create"), (os, "posix_fallocate"), (mmap, "mmap")],
)
def test_a_system_without_room_counts_as_a_breakdown(
    module: ModuleType, name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files, say: nothing that is not of the engine's errors, and nothing left open."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    process = _process(directory)
    monkeypatch.setattr(module, name, refuse)
    gc.collect()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(BackendDown, match="Too many open files"):
        process.run("landmarks", random_inputs("landmarks", 1), 1)
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


def test_an_interrupted_call_leaves_no_answer_behind(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would take it for its own."""
    started = start()

    def interrupt(self: ServingProcess, timeout_s: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ServingProcess, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            started.model.infer("landmarks", random_inputs("landmarks", 1))
    until_it_answers(started.model)
    assert_right(started.model, count=3)
    assert started.said == ["the engine runs again"]


def test_an_answer_to_another_call_is_none(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start()
    monkeypatch.setattr(ServingProcess, "receive", lambda self, timeout_s: {"done": self.asked - 1})
    with pytest.raises(BackendDown, match="the engine failed: an answer to something else"):
        started.model.infer("landmarks", random_inputs("landmarks", 1))


def test_a_successor_has_memory_of_its_own(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predecessor that could not be ended may write at any time: here just before every answer is read."""
    made: list[mmap.mmap] = []

    def make(contract: Contract) -> int:
        number = wire.shared_memory(contract)
        made.append(mmap.mmap(number, 0))
        return number

    monkeypatch.setattr(serving, "shared_memory", make)
    started = start("serve launch crash")
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", random_inputs("landmarks", 1))
    until_it_answers(started.model)
    read = ServingProcess.outputs

    def spoil(self: ServingProcess, graph: str, count: int) -> Tensors:
        made[0][:] = b"\xff" * len(made[0])
        return read(self, graph, count)

    monkeypatch.setattr(ServingProcess, "outputs", spoil)
    assert_right(started.model)
    assert len(made) == 2


def test_breakdowns_between_answers_are_forgotten(start: Callable[..., Started]) -> None:
    """Three times as many as there may be, with some work after each."""
    restarts = RestartPolicy(most=2, first_s=0.05, within_s=0.02)
    started = start(limits=replace(LIMITS, restarts=restarts))
    for _ in range(6):
        until_it_answers(started.model)
        time.sleep(0.03)
        assert_right(started.model)
        os.kill(child_of(started.model).pid, signal.SIGKILL)
        with pytest.raises(BackendDown):
            started.model.infer("landmarks", random_inputs("landmarks", 1))
    assert [line.rpartition("(")[2] for line in started.said if "started again" in line] == ["1 of 2)"] * 6


def test_patience_may_end_while_a_call_waits(
    start: Callable[..., Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal has come, and the end has a deadline."""
    asked: list[float] = []

    def patient() -> bool:
        asked.append(time.monotonic())
        return asked[-1] - asked[0] < 0.2

    model = start("serve launch crash", limits=replace(LIMITS, restarts=RestartPolicy(first_s=30.0))).model
    monkeypatch.setattr(model._release.__self__, "_patient", patient)  # type: ignore[attr-defined]
    with pytest.raises(BackendDown):
        model.infer("landmarks", random_inputs("landmarks", 1))
    assert 0.2 <= asked[-1] - asked[0] < 2.0


def _process(directory: Path, command: str = "/nonexistent") -> EngineProcess:
    return EngineProcess(
        directory,
        read_sidecar(directory),
        patient=lambda: False,
        say=lambda line: None,
        command=(command,),
        limits=LIMITS,
    )


def test_closing_ends_the_process_and_the_model(start: Callable[..., Started]) -> None:
    model = start().model
    before = set(os.listdir("/proc/self/fd"))
    model.close()
    model.close()
    assert len(before) - len(os.listdir("/proc/self/fd")) == 3  # connection, stderr, memory
    assert "closed" in str(failure_of(model))
