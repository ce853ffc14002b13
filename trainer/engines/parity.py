"""The gate: a graph gives the model's answers on real windows, or no engine is built of it.

Three links, each as a chain, encoders' tokens into the fusion of the same kind: the trained network in
torch and its graphs in FP32, where a checkpoint is compiled; the graphs in FP32 and in FP16; and the graphs
in FP32 and the engines on their GPU.  A build checks the first two.  The third needs the GPU that the engines
are for, and is for ``tools/engine_parity.py``, which ``make gpu-check`` runs for the embedded model.  FP16
graphs run as :mod:`avff.trainer.engines.rounded` writes them, in ONNX Runtime.  What a GPU adds to that,
another order of summing, is for the GPU to show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import onnxruntime
from onnx import load_from_string

from avff.engine.backend import Backend
from avff.engine.contract import GRAPHS, Contract
from avff.engine.model import Model
from avff.trainer.engines.agreement import Agreement, Compared, Limits, compare
from avff.trainer.engines.chain import Chain, Graphs, of_model, of_onnx
from avff.trainer.engines.divergence import Divergence, find_divergence
from avff.trainer.engines.errors import ParityError
from avff.trainer.engines.rounded import check_rounding, to_rounded
from avff.trainer.engines.windows import LabelledSlices

EXPORT_LOGIT = 0.002
"""Largest difference of a logit that an export may make: both sides are FP32, and sum in another order."""
_RUNTIME = f"onnxruntime {onnxruntime.__version__}"


def check_parity(
    contract: Contract,
    exact: Graphs,
    mixed: Graphs,
    clips: Sequence[LabelledSlices],
    limits: Limits | None = None,
) -> Agreement:
    """Compare the FP16 graphs with the FP32 ones on the windows of clips.

    Args:
        contract: of the model.
        exact, mixed: its graphs in FP32 and FP16.
        clips: of both classes.
        limits: what is allowed.

    Raises:
        WindowsError: the clips do not suffice.
        ParityError: a limit is exceeded; says which, and names the layer.
        BackendError: a graph cannot be run.
    """
    check_rounding()
    rounded = {n: to_rounded(load_from_string(mixed[n])).SerializeToString() for n in GRAPHS}
    with (
        _chain(contract, of_onnx(contract, exact)) as ours,
        _chain(contract, of_onnx(contract, rounded)) as theirs,
    ):
        compared = compare(contract, ours, theirs, clips, _RUNTIME, limits or Limits())
        excess = compared.agreement.excess()
        if excess:
            inputs = ours.inputs_of(compared.expected.windows[compared.worst()])
            cause = _cause(contract, exact, rounded, inputs)
            raise ParityError(
                f"the FP16 graphs do not give the model's answers: {'; '.join(excess)}; {cause}"
            )
    return compared.agreement


def check_export(
    contract: Contract,
    network: Mapping[str, Backend],
    exact: Graphs,
    clips: Sequence[LabelledSlices],
    limits: Limits | None = None,
) -> Agreement:
    """Compare the FP32 graphs with the trained network they were exported from.

    Args:
        contract: of the model.
        network: the network's modules, by graph; closed at the end.
        exact: the graphs.
        clips: of both classes.
        limits: what is allowed.

    Raises:
        WindowsError: the clips do not suffice.
        ParityError: a limit is exceeded.
        BackendError: a graph cannot be run.
    """
    limits = limits or Limits(logit=EXPORT_LOGIT)
    compared = _compare(contract, network, of_onnx(contract, exact), clips, f"torch, {_RUNTIME}", limits)
    return _accepted(compared, "the ONNX graphs do not give the trained network's answers")


def check_engines(
    contract: Contract,
    exact: Graphs,
    engines: Model,
    clips: Sequence[LabelledSlices],
    runtime: str,
    limits: Limits | None = None,
) -> Agreement:
    """Compare engines on their GPU with the FP32 graphs on the CPU.

    Args:
        contract: of the model.
        exact: its graphs.
        engines: the same model, served by engines; closed at the end.
        clips: of both classes.
        runtime: what runs the engines, for the report.
        limits: what is allowed.

    Raises:
        WindowsError: the clips do not suffice.
        ParityError: a limit is exceeded.
        BackendError: a graph or an engine cannot be run.
    """
    both = f"{_RUNTIME}, {runtime}"
    compared = _compare(
        contract, of_onnx(contract, exact), of_model(engines), clips, both, limits or Limits()
    )
    return _accepted(compared, "the engines do not give the model's answers")


def _chain(contract: Contract, backends: Mapping[str, Backend]) -> closing[Chain]:
    return closing(Chain(contract, backends))


def _compare(
    contract: Contract,
    ours: Mapping[str, Backend],
    theirs: Mapping[str, Backend],
    clips: Sequence[LabelledSlices],
    runtime: str,
    limits: Limits,
) -> Compared:
    with _chain(contract, ours) as expected, _chain(contract, theirs) as found:
        return compare(contract, expected, found, clips, runtime, limits)


def _accepted(compared: Compared, complaint: str) -> Agreement:
    excess = compared.agreement.excess()
    if excess:
        raise ParityError(f"{complaint}: {'; '.join(excess)}")
    return compared.agreement


def _cause(contract: Contract, exact: Graphs, rounded: Graphs, inputs: Mapping[str, Any]) -> Divergence:
    """Return where the answers for a window part, in the first graph of the chain that is to blame."""
    found = [
        find_divergence(contract.graphs[name], name, exact[name], rounded[name], inputs[name])
        for name in GRAPHS
        if name in inputs
    ]
    return next((one for one in found if one.is_large), max(found, key=lambda one: one.share))
