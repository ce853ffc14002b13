"""The graphs as the daemon runs them: encoders, cached tokens, fusion, over the windows of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avff.engine.backend import Backend, Tensors
from avff.engine.backends.ort import OrtBackend
from avff.engine.calibration import joined
from avff.engine.contract import ENCODERS, FUSION, GRAPHS, Contract
from avff.engine.media import Bool, Float32
from avff.engine.model import Model
from avff.engine.predictor import Predictor, SliceTokens
from avff.engine.slices import Reason, Slice
from avff.engine.spec import SPEC
from avff.trainer.engines.windows import LabelledSlices
from avff.trainer.metrics import Float64, Labels

Graphs = Mapping[str, bytes]
"""ONNX files by the name of the graph."""
_SCORED = (None, Reason.UNFAMILIAR, Reason.MODEL_NAN)
"""What a prediction says when the fusion graph was run."""


class RecordingBackend:
    """Passes a graph's batches on and keeps them.

    Attributes:
        inputs: of every run, in order.
        outputs: likewise.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs: list[Tensors] = []
        self.outputs: list[Tensors] = []

    def infer(self, inputs: Tensors) -> Tensors:
        """Run the graph."""
        outputs = self._backend.infer(inputs)
        self.inputs.append(inputs)
        self.outputs.append(outputs)
        return outputs

    def close(self) -> None:
        """Free the graph."""
        self._backend.close()


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window on which the fusion graph was run.

    Attributes:
        slices: its 8.
        label: of its clip.
        modality: it is scored by.
        reason: that the daemon would give for no score; None where it would give one.
    """

    slices: tuple[Slice, ...]
    label: int
    modality: str
    reason: Reason | None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the graphs gave.

    Attributes:
        windows: those with a score, in order.
        outputs: of the fusion graph by name, float32 ``[windows, ...]``.
        tokens: of every slice of the clips, by encoder, float32 ``[slices, 8, width]``.
    """

    windows: tuple[Window, ...]
    outputs: Mapping[str, Float32]
    tokens: Mapping[str, Float32]

    def by_name(self) -> dict[str, Float32]:
        """Return all of it: ``encoder.tokens`` and ``fusion.output``."""
        tokens = {f"{encoder}.tokens": values for encoder, values in self.tokens.items()}
        return tokens | {f"{FUSION}.{name}": values for name, values in self.outputs.items()}

    def labels(self) -> Labels:
        """Return the windows' labels, int64 ``[windows]``."""
        return np.array([window.label for window in self.windows], np.int64)

    def finite(self) -> Bool:
        """Return by window whether all that the fusion graph gave for it is finite, bool ``[windows]``."""
        flat = [values.reshape(len(self.windows), -1) for values in self.outputs.values()]
        return np.asarray(np.isfinite(np.concatenate(flat, axis=1)).all(axis=1))

    def scores(self, contract: Contract) -> Float64:
        """Return the windows' calibrated log-odds, float64 ``[windows]``; NaN where the graphs gave that."""
        by, parts = contract.calibration.any, contract.calibration.parts
        rows = zip(self.windows, self.outputs["clip"].astype(np.float64), strict=True)
        with np.errstate(invalid="ignore"):
            return np.array([joined(by[window.modality], parts, row) for window, row in rows], np.float64)


class OneGraph:
    """A graph of a loaded model, by itself.

    Args:
        model: all of it, closed with the last of its graphs.
        name: of the graph.
    """

    def __init__(self, model: Model, name: str) -> None:
        self._model, self._name = model, name

    def infer(self, inputs: Tensors) -> Tensors:
        """Run the graph."""
        return self._model.infer(self._name, inputs)

    def close(self) -> None:
        """Free the model, once."""
        if self._name == GRAPHS[-1]:
            self._model.close()


def of_onnx(contract: Contract, graphs: Graphs) -> dict[str, Backend]:
    """Load graphs into ONNX Runtime, on one thread.

    Args:
        contract: of the model; graphs of another precision keep it.
        graphs: FP32 ones, or FP16 ones as :mod:`avff.trainer.engines.rounded` writes them.

    Raises:
        BackendError: a graph cannot be loaded.
    """
    return {name: OrtBackend(graphs[name], contract.graphs[name], threads=1) for name in GRAPHS}


def of_model(model: Model) -> dict[str, Backend]:
    """Return the graphs of a loaded model."""
    return {name: OneGraph(model, name) for name in GRAPHS}


class Chain:
    """Four graphs behind the engine's predictor.

    Args:
        contract: of the model.
        backends: that run the graphs, by name; freed with the chain.
    """

    def __init__(self, contract: Contract, backends: Mapping[str, Backend]) -> None:
        self._backends = {name: RecordingBackend(backends[name]) for name in GRAPHS}
        self._predictor = Predictor(Model(contract, self._backends))

    def run(self, clips: Sequence[LabelledSlices]) -> Answers:
        """Encode all slices, and fuse all windows in batches as large as the daemon's.

        Raises:
            BackendError, ContractError: a graph failed.
        """
        self._forget()
        tokens: list[SliceTokens] = []
        candidates: list[tuple[SliceTokens, ...]] = []
        whole: list[tuple[tuple[Slice, ...], int]] = []
        for clip in clips:
            encoded = self._predictor.encode(clip.slices)
            # The pictures of a clip are 25 MB as tensors; only the fusion graph's batches are wanted.
            self._forget()
            tokens += encoded
            for end in clip.ends():
                candidates.append(tuple(encoded[end - SPEC.window_slices : end]))
                whole.append((clip.slices[end - SPEC.window_slices : end], clip.label))
        scored = self._predictor.score(candidates)
        windows = [
            Window(*window, made.modality, made.reason)
            for window, made in zip(whole, scored, strict=True)
            if made.reason in _SCORED
        ]
        stacked = {name: np.stack([getattr(one, name) for one in tokens]) for name in ENCODERS if tokens}
        return Answers(tuple(windows), self._fused(), stacked)

    def run_alone(self, window: Window) -> Mapping[str, Float32]:
        """Encode a window's slices one by one and fuse it alone; return the outputs, ``[1, ...]``."""
        self._forget()
        tokens = tuple(self._predictor.encode([piece])[0] for piece in window.slices)
        self._predictor.score([tokens])
        return self._fused()

    def inputs_of(self, window: Window) -> dict[str, Tensors]:
        """Return what each graph reads for one window; an encoder without evidence is left out."""
        self._forget()
        self._predictor.score([tuple(self._predictor.encode(window.slices))])
        return {name: backend.inputs[0] for name, backend in self._backends.items() if backend.inputs}

    def close(self) -> None:
        """Free the graphs."""
        for backend in self._backends.values():
            backend.close()

    def _forget(self) -> None:
        for backend in self._backends.values():
            backend.inputs.clear()
            backend.outputs.clear()

    def _fused(self) -> dict[str, Float32]:
        made = self._backends[FUSION].outputs
        return {name: np.concatenate([batch[name] for batch in made]) for name in (made[0] if made else ())}
