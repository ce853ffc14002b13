"""The gate: FP16 graphs give the model's answers on real windows, or no engine is built of them.

FP32 graphs run as they are, FP16 ones as :mod:`avff.trainer.engines.rounded` writes them, both in ONNX
Runtime and both as a chain: FP16 tokens go into the FP16 fusion.  What a GPU adds to that, another
order of summing, is for the GPU to show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from onnx import load_from_string

from avff.engine.contract import GRAPHS, Contract
from avff.trainer.engines.chain import Answers, Chain, Graphs
from avff.trainer.engines.divergence import Divergence, find_divergence
from avff.trainer.engines.errors import ParityError, WindowsError
from avff.trainer.engines.rounded import check_rounding, to_rounded
from avff.trainer.engines.windows import LabelledSlices
from avff.trainer.metrics import Float64, Labels, auc

ALONE = 16
"""Windows that are run again in batches of one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate allows.

    Attributes:
        windows: with a score, at least.
        logit: largest difference of any of the fusion graph's logits, in nats before calibration.
        auc: largest difference of the windows' AUC.
        batch: largest difference of a logit between a batch of one and a full batch.  Not zero: kernels
            for one row sum in another order, and FP16 then rounds to a neighbour here and there.
    """

    windows: int = 64
    logit: float = 0.02
    auc: float = 0.001
    batch: float = 0.005


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What the gate found; stored with the engines.

    Attributes:
        clips, windows: that it looked at; only windows with a score count.
        logit: largest difference of a logit between FP32 and FP16.
        auc_fp32, auc_fp16: of the windows' scores by their clips' labels.
        batch: largest difference of an FP16 logit between a batch of one and a full batch.
        outputs: largest difference by output, all graphs.
        runtime: that computed both.
        limits: that were kept.
    """

    clips: int
    windows: int
    logit: float
    auc_fp32: float
    auc_fp16: float
    batch: float
    outputs: Mapping[str, float]
    runtime: str
    limits: Limits = field(default_factory=Limits)

    def excess(self) -> list[str]:
        """Return what is beyond its limit, in words; NaN is."""
        drift = abs(self.auc_fp32 - self.auc_fp16)
        measured = (
            ("largest difference of a logit", self.logit, self.limits.logit),
            ("difference of the AUC", drift, self.limits.auc),
            ("largest difference between batch sizes", self.batch, self.limits.batch),
        )
        # Not "value > most": NaN has to count.
        exceeded = [one for one in measured if not one[1] <= one[2]]
        return [f"{what} {value:.4g}, at most {most:g}" for what, value, most in exceeded]


def check_parity(
    contract: Contract,
    exact: Graphs,
    mixed: Graphs,
    clips: Sequence[LabelledSlices],
    limits: Limits | None = None,
) -> ParityReport:
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
    limits = limits or Limits()
    rounded = {n: to_rounded(load_from_string(mixed[n])).SerializeToString() for n in GRAPHS}
    with closing(Chain(contract, exact)) as ours, closing(Chain(contract, rounded)) as theirs:
        expected = ours.run(clips)
        _check_windows(expected, limits)
        found = theirs.run(clips)
        report = _report(contract, clips, expected, found, _alone(theirs, found), limits)
        excess = report.excess()
        if excess:
            inputs = ours.inputs_of(expected.windows[_worst(expected, found)])
            cause = _cause(contract, exact, rounded, inputs)
            raise ParityError(
                f"the FP16 graphs do not give the model's answers: {'; '.join(excess)}; {cause}"
            )
    return report


def _check_windows(answers: Answers, limits: Limits) -> None:
    count = len(answers.windows)
    if count < limits.windows:
        raise WindowsError(
            f"the clips have {count} windows with a score, at least {limits.windows} are needed; "
            f"give more clips or another split"
        )
    if len(set(answers.labels().tolist())) < 2:
        raise WindowsError("all windows with a score are of one class; give genuine and generated clips")


def _report(
    contract: Contract,
    clips: Sequence[LabelledSlices],
    expected: Answers,
    found: Answers,
    batch: float,
    limits: Limits,
) -> ParityReport:
    theirs = found.by_name()
    outputs = {name: _largest(values, theirs[name]) for name, values in expected.by_name().items()}
    labels = expected.labels()
    auc_fp32, auc_fp16 = (_auc(labels, answers.scores(contract)) for answers in (expected, found))
    return ParityReport(
        clips=len(clips), windows=len(expected.windows), logit=outputs["fusion.clip"], auc_fp32=auc_fp32,
        auc_fp16=auc_fp16, batch=batch, outputs=outputs, runtime=f"onnxruntime {onnxruntime.__version__}",
        limits=limits,
    )  # fmt: skip


def _auc(labels: Labels, scores: Float64) -> float:
    return auc(labels, scores) if np.isfinite(scores).all() else float("nan")


def _largest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return the largest difference; NaN where either is not finite, which no limit allows."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    return float(np.abs(one - other).max(initial=0.0))


def _alone(chain: Chain, batched: Answers) -> float:
    """Return the largest difference of a logit between a window alone and in its batch."""
    count = len(batched.windows)
    chosen = np.unique(np.linspace(0, count - 1, min(count, ALONE)).astype(int))
    return max(
        _largest(chain.run_alone(batched.windows[i])["clip"], batched.outputs["clip"][i : i + 1])
        for i in chosen
    )


def _worst(expected: Answers, found: Answers) -> int:
    """Return the window to look into: the first with NaN or infinity, else the one that differs most."""
    gap = np.abs(expected.outputs["clip"] - found.outputs["clip"]).max(axis=1)
    return int(np.where(np.isfinite(gap), gap, np.inf).argmax())


def _cause(contract: Contract, exact: Graphs, rounded: Graphs, inputs: Mapping[str, Any]) -> Divergence:
    """Return where the answers for a window part, in the first graph of the chain that is to blame."""
    found = [
        find_divergence(contract.graphs[name], name, exact[name], rounded[name], inputs[name])
        for name in GRAPHS
        if name in inputs
    ]
    return next((one for one in found if one.is_large), max(found, key=lambda one: one.share))
