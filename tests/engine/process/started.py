"""What the tests of the engine's process share: what is asked of a model, and what is heard instead."""

from __future__ import annotations

import functools
import subprocess
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from avff.engine.backend import Tensors
from avff.engine.errors import (
    BackendDown,
    BackendError,
)
from avff.engine.model import Model, load_model
from avff.engine.process.restarts import RestartPolicy
from avff.engine.process.supervisor import Limits

LIMITS = Limits(start_s=20.0, answer_s=5.0, restarts=RestartPolicy(most=2, first_s=0.05))
IMPATIENT = replace(LIMITS, answer_s=0.5)


@dataclass
class Started:
    """A model in a scripted process, and what was said of it."""

    model: Model
    said: list[str]


def random_inputs(graph: str, count: int) -> Tensors:
    rng = np.random.default_rng(count)
    specs = load_reference().contract.graphs[graph].inputs
    return {t.name: rng.standard_normal((count, *t.shape)).astype(np.float32) for t in specs}


@functools.cache
def load_reference() -> Model:
    """The same model on the CPU, loaded once."""
    return load_model(threads=1)


def assert_right(model: Model, graph: str = "landmarks", count: int = 2) -> None:
    inputs = random_inputs(graph, count)
    expected = load_reference().infer(graph, inputs)
    for name, values in model.infer(graph, inputs).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)


def until_it_answers(model: Model) -> list[str]:
    """Ask again and again; return what was said instead of an answer, each thing once."""
    heard: dict[str, None] = {}
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            assert_right(model)
        except BackendDown as error:
            heard[str(error)] = None
            time.sleep(0.01)
        else:
            return list(heard)
    raise AssertionError("it did not come back")


def errors_of(model: Model) -> list[str]:
    """Ask until it fails for good; return all that was said."""
    heard = []
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        error = failure_of(model)
        heard.append(str(error))
        if not isinstance(error, BackendDown):
            return heard
        time.sleep(0.01)
    raise AssertionError("it did not give up")


def failure_of(model: Model) -> BackendError:
    with pytest.raises(BackendError) as caught:
        model.infer("landmarks", random_inputs("landmarks", 1))
    return caught.value


def child_of(model: Model) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = model._release.__self__._child._process  # type: ignore[attr-defined]
    return process
