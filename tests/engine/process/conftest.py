"""A folder of engines that a scripted GPU runs, and processes that misbehave as told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avff.engine.model import Model
from avff.engine.process.start import start_engines
from avff.engine.process.supervisor import Limits
from tests.engine.process.started import (
    LIMITS,
    Started,
)
from tests.support import scripted_child
from tests.support.engine_files import write_onnx_engines
from tests.support.scripted_driver import MOST


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("engines") / "embedded"
    write_onnx_engines(directory, most=MOST)
    return directory


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
            directory, patient=lambda: patient, say=said.append, command=scripted_child.COMMAND, limits=limits
        )
        models.append(model)
        return Started(model, said)

    yield begin
    for model in models:
        model.close()
