"""Engines in a process that crashes, hangs and runs out of memory: no wrong answer, and not our own end."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.errors import (
    BackendDown,
    BackendError,
    ContractError,
    EngineError,
    EngineFileError,
    GpuUnavailable,
)
from avff.engine.model import Model, load_model
from avff.engine.predictor import Predictor, StreamState
from avff.engine.process.handle import ChildProcess
from avff.engine.process.restarts import RestartPolicy
from avff.engine.process.start import start_engines
from avff.engine.process.supervisor import EngineProcess, Limits
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from tests.support import scripted_child
from tests.support.engine_files import write_onnx_engines
from tests.support.engines import demo_slices
from tests.support.scripted_driver import MOST

pytestmark = pytest.mark.timeout(60)
LIMITS = Limits(start_s=20.0, answer_s=5.0, restarts=RestartPolicy(most=2, first_s=0.05))
IMPATIENT = replace(LIMITS, answer_s=0.5)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "embedded"
    write_onnx_engines(directory, most=MOST)
    return directory


@dataclass
class Started:
    """A model in a scripted process, and what was said of it."""

    model: Model
    said: list[str]


@pytest.fixture
def start(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Started]]:
    """Start a process that misbehaves as told."""
    models: list[Model] = []

    def begin(fault: str = "", times: int = 1, *, limits: Limits = LIMITS, patient: bool = False) -> Started:
        for name, value in scripted_child.environment(tmp_path / "left", fault, times).items():
            monkeypatch.setenv(name, value)
        said: list[str] = []
        model = start_engines(
            directory, patient=patient, say=said.append, command=scripted_child.COMMAND, limits=limits
        )
        models.append(model)
        return Started(model, said)

    yield begin
    for model in models:
        model.close()


def _inputs(graph: str, count: int) -> Tensors:
    rng = np.random.default_rng(count)
    specs = load_reference().contract.graphs[graph].inputs
    return {t.name: rng.standard_normal((count, *t.shape)).astype(np.float32) for t in specs}


_REFERENCE: list[Model] = []


def load_reference() -> Model:
    """The same model on the CPU, loaded once."""
    if not _REFERENCE:
        _REFERENCE.append(load_model(threads=1))
    return _REFERENCE[0]


def _assert_right(model: Model, graph: str = "landmarks", count: int = 2) -> None:
    inputs = _inputs(graph, count)
    expected = load_reference().infer(graph, inputs)
    for name, values in model.infer(graph, inputs).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)


def _until_it_answers(model: Model) -> list[str]:
    """Ask again and again; return what was said instead of an answer, each thing once."""
    heard: dict[str, None] = {}
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            _assert_right(model)
        except BackendDown as error:
            heard[str(error)] = None
            time.sleep(0.01)
        else:
            return list(heard)
    raise AssertionError("it did not come back")


def test_it_answers_as_the_model_on_the_cpu(start: Callable[..., Started]) -> None:
    """All graphs; batches that are padded, split by the engine, and split for the memory."""
    started = start()
    assert started.model.contract == load_reference().contract
    for graph, count in (("video", 1), ("audio", 3), ("landmarks", 33), ("fusion", 5), ("landmarks", 70)):
        _assert_right(started.model, graph, count)
    assert started.said == []


def test_answers_are_the_callers(start: Callable[..., Started]) -> None:
    """A later call, and the end, leave them as they are."""
    model = start().model
    first = model.infer("landmarks", _inputs("landmarks", 1))["tokens"]
    kept = first.copy()
    model.infer("landmarks", _inputs("landmarks", 2))
    model.close()
    np.testing.assert_array_equal(first, kept)


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
        started.model.infer("landmarks", _inputs("landmarks", 1))
    assert words in str(caught.value)
    heard = _until_it_answers(started.model)
    assert heard[-1] == "the engine's process is starting"
    assert [line for line in started.said if "\n" in line] == []
    assert words in started.said[0]
    assert started.said[0].endswith("it is started again in 0.05 s (1 of 2)")
    assert started.said[1:] == ["the engine runs again"]


def test_a_hang_costs_the_deadline_and_no_more(start: Callable[..., Started]) -> None:
    started = start("serve launch hang", limits=IMPATIENT)
    began = time.monotonic()
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", _inputs("landmarks", 1))
    assert 0.5 <= time.monotonic() - began < 2.5
    began = time.monotonic()
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", _inputs("landmarks", 1))
    assert time.monotonic() - began < 0.3


def test_who_can_wait_gets_the_answer(start: Callable[..., Started]) -> None:
    """With files nothing is lost by waiting: the same call is made again."""
    started = start("serve launch crash", times=2, patient=True)
    _assert_right(started.model)
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
    errors = _errors(started.model)
    assert "that was breakdown 3, it is not started again" in errors[-1]
    assert not isinstance(_failure(started.model), BackendDown)
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
        started.model.infer("landmarks", _inputs("landmarks", 1))
    os.environ.update(scripted_child.environment(tmp_path / "left", fault, 99))
    errors = _errors(started.model)
    assert words in errors[-1]
    assert "that was breakdown 3" in errors[-1]


def test_a_program_that_is_gone_counts_too(directory: Path, tmp_path: Path) -> None:
    """It was uninstalled while it ran."""
    contract = load_reference().contract
    process = EngineProcess(
        directory, contract, patient=False, say=lambda line: None, command=("/nonexistent",), limits=LIMITS
    )
    heard = []
    for _ in range(3):
        with pytest.raises(BackendError) as caught:
            process.run("landmarks", _inputs("landmarks", 1), 1)
        heard.append(type(caught.value))
        time.sleep(0.15)
    process.close()
    assert heard == [BackendDown, BackendDown, BackendError]
    assert "cannot be started (No such file or directory)" in str(caught.value)


def test_a_slow_start_is_a_breakdown(start: Callable[..., Started], tmp_path: Path) -> None:
    started = start("serve launch crash", times=1, limits=replace(LIMITS, start_s=2.0))
    with pytest.raises(BackendDown):
        started.model.infer("landmarks", _inputs("landmarks", 1))
    os.environ.update(scripted_child.environment(tmp_path / "left", "serve open hang", 1))
    _until_it_answers(started.model)
    assert any("was not ready within 2 s; it was killed" in line for line in started.said)


def _errors(model: Model) -> list[str]:
    """Ask until it fails for good; return all that was said."""
    heard = []
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        error = _failure(model)
        heard.append(str(error))
        if not isinstance(error, BackendDown):
            return heard
        time.sleep(0.01)
    raise AssertionError("it did not give up")


def _failure(model: Model) -> BackendError:
    with pytest.raises(BackendError) as caught:
        model.infer("landmarks", _inputs("landmarks", 1))
    return caught.value


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
        ("try open memory", GpuUnavailable, "no GPU can be used"),
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


def test_engines_that_are_replaced_while_it_runs_are_not_run(
    start: Callable[..., Started], directory: Path, tmp_path: Path
) -> None:
    """By those of another model: its answers would be taken for the first one's."""
    started = start("serve launch crash")
    sidecar = write_onnx_engines(tmp_path / "other", most=MOST, name="other")
    kept = {path: path.read_bytes() for path in directory.iterdir()}
    try:
        (directory / "engine.json").write_bytes(sidecar.to_bytes())
        errors = _errors(started.model)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert errors[-1].endswith("the engines are of another model than a moment ago")


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


def test_a_process_that_talks_too_much_is_not_held_up(directory: Path) -> None:
    """stderr is a pipe that nobody reads until the end."""
    talk = (
        "import os\nfor _ in range(100):\n try: os.write(2, b'x' * 10_000)\n except BlockingIOError: pass\n"
    )
    child = ChildProcess("try", directory, command=(sys.executable, "-c", talk + "raise SystemExit(3)"))
    assert child.close(20.0).startswith("ended with code 3 (xxx")


_PARENT = """\
import os, sys, threading
from pathlib import Path
from avff.engine.process.start import start_engines
from avff.engine.slices import Reason
from avff.engine.spec import SPEC
from tests.support import scripted_child
import numpy as np
model = start_engines(Path(sys.argv[1]), command=scripted_child.COMMAND)
process = model._release.__self__._child._process
print(process.pid, flush=True)
if sys.argv[2] == "hang":
    spec = model.contract.graphs["landmarks"].inputs[0]
    ask = lambda: model.infer("landmarks", {spec.name: np.zeros((1, *spec.shape), np.float32)})
    threading.Thread(target=ask, daemon=True).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "hang"])
def test_it_ends_with_its_parent(state: str, directory: Path, tmp_path: Path) -> None:
    """Even if the parent is killed, and even within a call that never returns."""
    fault = "serve launch hang" if state == "hang" else ""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(directory), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | scripted_child.environment(tmp_path / "left", fault),
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        os.kill(pid, signal.SIGINT)  # the daemon's to handle
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert _runs(pid)
        parent.kill()
    deadline_s = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_closing_ends_the_process_and_the_model(start: Callable[..., Started]) -> None:
    model = start().model
    before = set(os.listdir("/proc/self/fd"))
    model.close()
    model.close()
    assert len(before) - len(os.listdir("/proc/self/fd")) == 3  # connection, stderr, memory
    assert "closed" in str(_failure(model))
