from __future__ import annotations

import numpy as np

from avff.engine.backends.scripted import ScriptedBackend


def test_it_answers_from_the_function_and_notes_batches() -> None:
    """The stand-in gives the function's answer and remembers the size of each batch."""
    backend = ScriptedBackend(lambda inputs: {"y": inputs["x"] * 2})
    for count in (3, 1):
        np.testing.assert_array_equal(backend.infer({"x": np.ones((count, 2), np.float32)})["y"], 2)
    assert backend.batches == [3, 1]
    assert not backend.closed
    backend.close()
    assert backend.closed
