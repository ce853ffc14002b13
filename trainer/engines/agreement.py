"""Two runtimes, or two precisions, on the same windows: how far apart they are, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avff.engine.contract import Contract
from avff.trainer.engines.chain import Answers, Chain
from avff.trainer.engines.errors import WindowsError
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
class Agreement:
    """How far a chain's answers are from those it is held to.

    Attributes:
        clips, windows: that were looked at; only windows with a score count.
        logit: largest difference of a logit.
        auc_expected, auc_found: of the windows' scores by their clips' labels.
        batch: largest difference of a logit found between a batch of one and a full batch.
        reasons: windows that one of them scores, and the other does not or for another reason.
        outputs: largest difference by output, all graphs; NaN where one has values that are not finite.
        runtime: that computed both, or either.
        limits: that hold.
    """

    clips: int
    windows: int
    logit: float
    auc_expected: float
    auc_found: float
    batch: float
    reasons: int
    outputs: Mapping[str, float]
    runtime: str
    limits: Limits

    @property
    def drift(self) -> float:
        """Difference of the AUC."""
        return abs(self.auc_expected - self.auc_found)

    def excess(self) -> list[str]:
        """Return what is beyond its limit, in words; NaN is."""
        measured = (
            ("largest difference of a logit", self.logit, self.limits.logit),
            ("difference of the AUC", self.drift, self.limits.auc),
            ("largest difference between batch sizes", self.batch, self.limits.batch),
        )
        # Not "value > most": NaN has to count.
        exceeded = [one for one in measured if not one[1] <= one[2]]
        lines = [f"{what} {value:.4g}, at most {most:g}" for what, value, most in exceeded]
        lines += [f"{name} is not finite" for name, value in self.outputs.items() if not np.isfinite(value)]
        if self.reasons:
            lines.append(f"windows whose reason for no score differs {self.reasons}, at most 0")
        return lines


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """An agreement, and the answers it is of."""

    agreement: Agreement
    expected: Answers
    found: Answers

    def worst(self) -> int:
        """Return the window to look into: the first with NaN or infinity, else the one that differs most."""
        with np.errstate(invalid="ignore"):
            gap = np.abs(self.expected.outputs["clip"] - self.found.outputs["clip"]).max(axis=1)
        finite = self.expected.finite() & self.found.finite()
        return int(np.where(finite, gap, np.inf).argmax())


def compare(
    contract: Contract,
    ours: Chain,
    theirs: Chain,
    clips: Sequence[LabelledSlices],
    runtime: str,
    limits: Limits,
) -> Compared:
    """Run both chains on the windows of clips; nothing is refused for what it gives.

    Args:
        contract: of both.
        ours: gives what is expected.
        theirs: is judged.
        clips: of both classes.
        runtime: what computes, for the report.
        limits: what is allowed.

    Raises:
        WindowsError: the clips do not suffice.
        BackendError: a graph cannot be run.
    """
    expected = ours.run(clips)
    _check_windows(expected, limits)
    found = theirs.run(clips)
    given = found.by_name()
    outputs = {name: _largest(values, given[name]) for name, values in expected.by_name().items()}
    labels = expected.labels()
    of_ours, of_theirs = (_auc(labels, answers.scores(contract)) for answers in (expected, found))
    agreement = Agreement(
        clips=len(clips), windows=len(expected.windows), logit=outputs["fusion.clip"], auc_expected=of_ours,
        auc_found=of_theirs, batch=_alone(theirs, found), reasons=_reasons(expected, found), outputs=outputs,
        runtime=runtime, limits=limits,
    )  # fmt: skip
    return Compared(agreement, expected, found)


def _check_windows(answers: Answers, limits: Limits) -> None:
    count = len(answers.windows)
    if count < limits.windows:
        raise WindowsError(
            f"the clips have {count} windows with a score, at least {limits.windows} are needed; "
            f"give more clips or another split"
        )
    if len(set(answers.labels().tolist())) < 2:
        raise WindowsError("all windows with a score are of one class; give genuine and generated clips")


def _auc(labels: Labels, scores: Float64) -> float:
    return auc(labels, scores) if np.isfinite(scores).all() else float("nan")


def _largest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return the largest difference; NaN where either is not finite, which no limit allows."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    return float(np.abs(one - other).max(initial=0.0))


def _reasons(one: Answers, other: Answers) -> int:
    """Return how many windows have another reason for no score, or a score where the other has none."""
    both = zip(one.windows, other.windows, strict=True)
    return sum(ours.reason is not theirs.reason for ours, theirs in both)


def _alone(chain: Chain, batched: Answers) -> float:
    """Return the largest difference of a logit between a window alone and in its batch.

    NaN where any output of a window alone is not finite.
    """
    count = len(batched.windows)
    chosen = np.unique(np.linspace(0, count - 1, min(count, ALONE)).astype(int))
    # Not max(): it loses NaN behind the first.
    return float(np.max([_alone_at(chain, batched, i) for i in chosen]))


def _alone_at(chain: Chain, batched: Answers, i: int) -> float:
    made = chain.run_alone(batched.windows[i])
    if not all(np.isfinite(values).all() for values in made.values()):
        return float("nan")
    return _largest(made["clip"], batched.outputs["clip"][i : i + 1])
