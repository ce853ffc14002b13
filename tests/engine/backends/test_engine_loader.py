"""A folder of engines as a model: verified first, then loaded by a scripted GPU, the same as on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.backends import kernel_cache
from avff.engine.backends.engine_file import read_sidecar
from avff.engine.backends.engine_loader import load_engines
from avff.engine.backends.sidecar import SIDECAR_FILE
from avff.engine.contract import GRAPHS, Contract
from avff.engine.errors import BackendError, ContractError, EngineError, EngineFileError, GpuUnavailable
from avff.engine.model import Model, load_model
from tests.support.engine_files import write_onnx_engines
from tests.support.scripted_driver import VERSION, RecordedKernels, ScriptedDriver


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "embedded"
    write_onnx_engines(directory)
    return directory


@pytest.fixture
def directory(written: Path, tmp_path: Path) -> Path:
    """A folder of engines to do harm to."""
    return Path(shutil.copytree(written, tmp_path / "engines"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "cache_directory", lambda: tmp_path / "cache")


def _load(directory: Path, driver: ScriptedDriver) -> Model:
    return load_engines(directory, lambda flavour: driver, kernels=RecordedKernels())


def _random(contract: Contract, graph: str, count: int) -> Tensors:
    rng = np.random.default_rng(count)
    return {
        t.name: rng.standard_normal((count, *t.shape)).astype(np.float32)
        for t in contract.graphs[graph].inputs
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_it_answers_as_the_model_on_the_cpu(graph: str, written: Path) -> None:
    """The embedded model's graphs, padded or not; contract and calibration come from the side-car."""
    driver = ScriptedDriver()
    model, reference = _load(written, driver), load_model(threads=1)
    assert model.contract == reference.contract
    assert model.name == reference.name
    for count in (1, 3):
        inputs = _random(reference.contract, graph, count)
        expected = reference.infer(graph, inputs)
        for name, values in model.infer(graph, inputs).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)
    model.close()
    assert driver.unfreed == {}


def _damaged(directory: Path) -> Iterator[None]:
    """Alter one byte of each file in turns, and undo it."""
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        at = len(content) // 2
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        yield
        path.write_bytes(content)


def test_altered_files_are_refused_before_anything_is_deserialised(directory: Path) -> None:
    """An altered side-car before a driver is made."""
    made: list[ScriptedDriver] = []

    def make(flavour: str) -> ScriptedDriver:
        made.append(ScriptedDriver())
        return made[-1]

    damaged = 0
    for _ in _damaged(directory):
        damaged += 1
        with pytest.raises(EngineFileError, match=r"build it again: python tools/build_engine\.py"):
            load_engines(directory, make)
    assert damaged == 5
    assert [driver.calls for driver in made] == [["open", "close"]] * 4
    made.clear()
    (directory / SIDECAR_FILE).unlink()
    with pytest.raises(EngineFileError, match="cannot be read"):
        load_engines(directory, make)
    assert made == []


@pytest.mark.parametrize(
    ("version", "capability", "words"),
    [("1.8", "8.6", "have version 1.8, this runtime has 1.7.1.116"), (VERSION, "9.0", "this GPU has 9.0")],
)
def test_engines_for_another_runtime_are_not_deserialised(
    version: str, capability: str, words: str, tmp_path: Path
) -> None:
    write_onnx_engines(tmp_path, version=version)
    driver = ScriptedDriver(compute_capability=capability)
    with pytest.raises(EngineFileError, match=words):
        _load(tmp_path, driver)
    assert driver.calls == ["open", "close"]


def test_without_a_gpu_it_is_said_so(written: Path) -> None:
    def absent(call: str) -> None:
        if call == "open":
            raise GpuUnavailable("no GPU can be used (no device)")

    driver = ScriptedDriver(before=absent)
    with pytest.raises(GpuUnavailable, match=r"no GPU can be used \(no device\)"):
        _load(written, driver)
    assert driver.unfreed == {}


def test_a_gpu_that_refuses_is_not_an_absent_one(written: Path) -> None:
    """Out of memory, say: going on without it must not be taken for what was asked for."""
    driver = ScriptedDriver(fail_at=0)
    with pytest.raises(BackendError, match="TensorRT: open failed: scripted") as caught:
        _load(written, driver)
    assert type(caught.value) is BackendError
    assert driver.unfreed == {}


def test_other_engines_than_those_that_are_meant_are_not_deserialised(written: Path) -> None:
    """Whole ones, of the same model, that were built in the meantime."""
    seal = read_sidecar(written).seal
    load_engines(written, lambda flavour: ScriptedDriver(), seal=seal, kernels=RecordedKernels()).close()
    driver = ScriptedDriver()
    with pytest.raises(ContractError, match="replaced by others meanwhile") as caught:
        load_engines(written, lambda flavour: driver, seal="0" * 64, kernels=RecordedKernels())
    assert not isinstance(caught.value, EngineFileError)
    assert driver.calls == ["open", "close"]


def test_any_call_may_fail_and_nothing_stays_allocated(tmp_path: Path) -> None:
    """Of all four engines, with one bucket each."""
    write_onnx_engines(tmp_path, most=1)
    whole = ScriptedDriver(capturable=False, batches=(1, 1))
    _load(tmp_path, whole).close()
    for number in range(len(whole.calls)):
        driver = ScriptedDriver(capturable=False, batches=(1, 1), fail_at=number)
        error = _life(tmp_path, driver)
        assert driver.unfreed == {}, driver.calls[number]
        assert isinstance(error, BackendError) or driver.calls[number] == "kernels"
        assert driver.calls[number] in str(error) or error is None


def _life(directory: Path, driver: ScriptedDriver) -> EngineError | None:
    try:
        _load(directory, driver).close()
    except EngineError as error:
        return error
    return None


def test_a_gpu_that_is_lost_tells_the_first_error(written: Path) -> None:
    """Freeing fails too then, which is no news."""

    def lost(call: str) -> None:
        if call == "enqueue" or "enqueue" in driver.calls[:-1]:
            driver._fail_at = len(driver.calls) - 1

    driver = ScriptedDriver(before=lost)
    with pytest.raises(BackendError, match="enqueue failed"):
        _load(written, driver)
    assert driver.unfreed == {}


def test_kernels_are_kept_in_the_users_cache(written: Path, tmp_path: Path) -> None:
    """By the engine's hash; one that was damaged is compiled anew."""
    made: list[ScriptedDriver] = []

    def make(flavour: str) -> ScriptedDriver:
        made.append(ScriptedDriver(captures_itself=True))
        return made[-1]

    load_engines(written, make).close()
    kept = sorted((tmp_path / "cache" / "kernels").iterdir())
    assert len(kept) == len(GRAPHS)
    kept[0].write_bytes(b"damaged")
    load_engines(written, make).close()
    assert [driver.given.count(b"compiled") for driver in made] == [0, len(GRAPHS) - 1]
    assert made[0].given == [None] * len(GRAPHS)
    assert kept[0].read_bytes() != b"damaged"
