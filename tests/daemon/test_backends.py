"""What runs the model: the choice, what is said of it, and the whole daemon on a scripted GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avff.daemon import build
from avff.daemon.backends import load_by_choice
from avff.daemon.build import daemon_from_config
from avff.daemon.config import DaemonConfig, EngineSettings
from avff.daemon.runner import EngineRunner, LoadedEngine
from avff.engine.errors import BackendError, ContractError, EngineError, EngineFileError, GpuUnavailable
from avff.engine.model import Model
from avff.engine.process import start as engine_start
from tests.support import scripted_child
from tests.support.avffd import Done, avffd
from tests.support.engine import scripted_model
from tests.support.engine_files import EMBEDDED, write_onnx_engines
from tests.support.scripted import ScriptedPredictor, loaded
from tests.support.scripted_driver import MOST

SCRIPT = Path(__file__).parent / "scripted_gpu_avffd.py"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "embedded"
    write_onnx_engines(directory, most=MOST)
    return directory


class RecordingStart:
    """Stands for the start of the engine's process: raises as told, or returns a scripted model."""

    def __init__(self, error: EngineError | None = None) -> None:
        self.model = scripted_model().model
        self.asked: list[tuple[Path, bool]] = []
        self._error = error

    def __call__(self, directory: Path, *, patient: Callable[[], bool], say: object) -> Model:
        self.asked.append((directory, patient()))
        if self._error is not None:
            raise self._error
        return self.model


def _always() -> bool:
    return True


def _config(**engine: Any) -> DaemonConfig:
    return DaemonConfig(source="demo", engine=EngineSettings(**engine))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "avff")
    return caplog


def _start(monkeypatch: pytest.MonkeyPatch, error: EngineError | None = None) -> RecordingStart:
    start = RecordingStart(error)
    monkeypatch.setattr(engine_start, "start_engines", start)
    return start


def test_without_engines_auto_is_the_cpu(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    start = _start(monkeypatch)
    _, backend = load_by_choice(_config(), patient=_always)
    assert (backend, start.asked) == ("onnx", [])
    assert said.messages == [
        "engine: ONNX Runtime on the CPU, as no folder of TensorRT engines is given (engine.directory)"
    ]


@pytest.mark.parametrize("patient", [True, False])
def test_with_engines_that_fit_auto_is_the_gpu(
    patient: bool, directory: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    start = _start(monkeypatch)
    assert load_by_choice(_config(directory=directory), patient=lambda: patient) == (start.model, "tensorrt")
    assert start.asked == [(directory, patient)]
    assert said.messages == [f"engine: TensorRT, as the engines in {directory} fit this machine"]


@pytest.mark.parametrize("words", ["pycuda cannot be loaded (no module)", "no GPU can be used (open failed)"])
def test_without_a_gpu_auto_is_the_cpu_and_says_why(
    words: str, directory: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    _start(monkeypatch, GpuUnavailable(words))
    model, backend = load_by_choice(_config(directory=directory), patient=_always)
    assert backend == "onnx"
    assert said.messages == [
        f"engine: ONNX Runtime on the CPU with {model.name}, as TensorRT cannot be used: {words}"
    ]


ERRORS = [EngineFileError("has SHA-256 12…"), BackendError("crashed"), ContractError("other preprocessing")]


@pytest.mark.parametrize(
    ("backend", "error"),
    [*(("auto", e) for e in ERRORS), *(("tensorrt", e) for e in (*ERRORS, GpuUnavailable("no GPU")))],
    ids=lambda value: type(value).__name__ if isinstance(value, EngineError) else value,
)
def test_engines_that_cannot_be_used_are_an_error_unless_fallback_is_allowed(
    backend: str,
    error: EngineError,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    """Never silently; where it is allowed, the reason is a warning."""
    _start(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        load_by_choice(_config(directory=directory, backend=backend), patient=_always)
    assert said.messages == []
    config = _config(directory=directory, backend=backend, allow_fallback=True)
    assert load_by_choice(config, patient=_always)[1] == "onnx"
    assert [record.levelname for record in said.records] == ["WARNING"]
    assert said.messages[0].endswith(f"as TensorRT cannot be used: {error}")


def test_onnx_asks_for_no_engines_and_says_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    start = _start(monkeypatch)
    assert load_by_choice(_config(directory=directory, backend="onnx"), patient=_always)[1] == "onnx"
    assert (start.asked, said.messages) == ([], [])


def test_falling_back_never_changes_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    """Engines of another model than the one that ONNX Runtime would run."""
    write_onnx_engines(tmp_path, most=MOST, name="other")
    start = _start(monkeypatch, GpuUnavailable("no GPU"))
    config = _config(directory=tmp_path, allow_fallback=True)
    with pytest.raises(ContractError) as caught:
        load_by_choice(config, patient=_always)
    assert str(caught.value) == (
        f"TensorRT cannot be used: no GPU; nor can ONNX Runtime in its place: {tmp_path}: the engines are of "
        f"another model than the one that is configured; give --model the directory that they were built from"
    )
    with pytest.raises(ContractError, match="of another model than the one that is configured"):
        load_by_choice(config.model_copy(update={"model": EMBEDDED}), patient=_always)
    assert start.asked == [(tmp_path, True)]


def test_a_side_car_that_cannot_be_read_leaves_the_configured_model(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    model, _ = load_by_choice(_config(directory=tmp_path, allow_fallback=True), patient=_always)
    assert said.messages[0].startswith(
        f"engine: ONNX Runtime on the CPU with {model.name}, as TensorRT cannot"
    )


@pytest.mark.parametrize(("source", "patient"), [("demo", True), ("webcam", False)])
async def test_only_files_wait_for_an_engine(
    source: str, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def load(config: DaemonConfig, *, patient: Callable[[], bool]) -> LoadedEngine:
        asked.append(patient())
        return loaded(ScriptedPredictor())

    monkeypatch.setattr(build, "load_engine", load)
    engine = daemon_from_config(DaemonConfig(source=source))._engine
    await engine.start()
    await engine.close()
    assert asked == [patient]


async def test_the_engine_is_closed_in_its_thread() -> None:
    """After the last prediction, before the thread ends; once."""
    closed: list[str] = []

    def load() -> LoadedEngine:
        return dataclasses.replace(
            loaded(ScriptedPredictor()), close=lambda: closed.append(threading.current_thread().name)
        )

    runner = EngineRunner(load, batch=8)
    await runner.start()
    await runner.close()
    await runner.close()
    assert closed == ["avff:engine"]


def _run(directory: Path, left: Path, *flags: object, fault: str = "", times: int = 1) -> Done:
    command = [sys.executable, SCRIPT, "--source", "demo", "--engine", "tensorrt", "--engine-dir", directory]
    began = time.monotonic()
    done = subprocess.run(
        [*map(str, command), *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | scripted_child.environment(left, fault, times),
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@pytest.fixture(scope="module")
def on_cpu() -> Done:
    """The demo clip as it is scored without engines."""
    return avffd("--source", "demo", "--engine", "onnx")


def _assert_same_scores(done: Done, on_cpu: Done) -> None:
    assert (done.code, on_cpu.code) == (0, 0), done
    assert {event["backend"] for event in (*done.scores, done.summary)} == {"tensorrt"}
    assert {event["backend"] for event in (*on_cpu.scores, on_cpu.summary)} == {"onnx"}
    for one, other in zip(done.scores, on_cpu.scores, strict=True):
        assert (one["reason"], one["t"]) == (other["reason"], other["t"])
        if one["score"] is not None:
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert done.summary["model"] == on_cpu.summary["model"]


def test_the_daemon_on_engines_gives_the_scores_of_the_cpu(
    directory: Path, tmp_path: Path, on_cpu: Done
) -> None:
    """Every event says what ran the model; with --engine there is nothing more to say."""
    done = _run(directory, tmp_path / "left")
    _assert_same_scores(done, on_cpu)
    assert [line for line in done.stderr.splitlines() if line.startswith("avffd: ")] == []


def test_a_file_waits_for_an_engine_that_broke_down(directory: Path, tmp_path: Path, on_cpu: Done) -> None:
    """Twice: no score is lost, none changes, and both breakdowns are told."""
    done = _run(directory, tmp_path / "left", fault="serve launch crash", times=2)
    _assert_same_scores(done, on_cpu)
    assert [line.split("; ")[0] for line in done.complaints] == [
        "avffd: the engine's process broke off",
        "avffd: the engine runs again",
    ] * 2


def test_a_file_that_waits_for_an_engine_ends_with_a_signal(directory: Path, tmp_path: Path) -> None:
    """The engine comes back in a minute; the daemon has 8 s to end, and what it has to say is written."""
    env = os.environ | scripted_child.environment(tmp_path / "left", "serve launch crash", 1)
    daemon = subprocess.Popen(
        [sys.executable, SCRIPT, "--source", "demo", "--engine", "tensorrt", "--engine-dir", directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env | {"SCRIPTED_GPU_PAUSE_S": "60"},
    )
    with daemon:
        assert daemon.stderr is not None
        assert "it is started again in 60 s" in daemon.stderr.readline()
        began = time.monotonic()
        daemon.terminate()
        output, complaints = daemon.communicate(timeout=30)
    done = Done(daemon.returncode, output, complaints, time.monotonic() - began)
    assert (done.code, done.seconds < 6) == (0, True), complaints
    assert {event["reason"] for event in done.scores} == {"engine_down"}
    assert (done.summary["ended"], done.summary["score"]) == ("stopped", None)


def test_an_engine_that_breaks_down_again_and_again_ends_the_daemon(directory: Path, tmp_path: Path) -> None:
    """With 70, a line that says so, and no score."""
    done = _run(directory, tmp_path / "left", fault="serve launch memory", times=99)
    assert (done.code, done.stdout) == (70, "")
    assert "that was breakdown 3, it is not started again" in done.complaints[-1]
    assert "out of memory" in done.complaints[-1]


def test_a_crash_of_the_first_load_ends_the_daemon(directory: Path, tmp_path: Path) -> None:
    """In one line, with the code of a wrong model."""
    done = _run(directory, tmp_path / "left", fault="try deserialize crash")
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (78, "", 1)
    assert "loading the engines crashed: the process was ended by SIGSEGV" in done.stderr
    fallen = _run(directory, tmp_path / "left", "--allow-fallback", fault="try deserialize crash")
    assert (fallen.code, fallen.summary["backend"]) == (0, "onnx")
    assert "engine: ONNX Runtime on the CPU with avff-s@" in fallen.stderr


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is installed here")
def test_auto_on_a_machine_without_pycuda(directory: Path) -> None:
    """The real process, which says what is missing."""
    done = avffd("--source", "demo", "--engine-dir", directory)
    assert (done.code, done.summary["backend"]) == (0, "onnx")
    assert "as TensorRT cannot be used: " in done.stderr
    assert "cannot be loaded" in done.stderr
