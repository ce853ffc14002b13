"""Scores of clips that nobody had to compute, for the report, its plots and its findings."""

from __future__ import annotations

import numpy as np

from avff.engine.contract import Calibration, Contract
from avff.engine.spec import SPEC
from avff.trainer.evaluate import ClipScore
from avff.trainer.report.history import Epoch

THRESHOLD = 0.6
CONTRACT = Contract("avff", {}, SPEC, Calibration({}, {}, THRESHOLD), {})


def make_score(uid: str, label: int, logit: float | None, **more: object) -> ClipScore:
    """A clip of a group of its own, unless told otherwise."""
    row = {
        "kind": "real",
        "generator": "A" * label,
        "source_uid": "",
        "group": uid,
        "windows": 5,
        "abstained": {},
    }
    return ClipScore(**(row | {"uid": uid, "label": label, "logit": logit} | more))  # type: ignore[arg-type]


def make_scores() -> list[ClipScore]:
    """Thirty genuine clips and two generators with ten clips each; some clips have no score."""
    rng = np.random.default_rng(0)
    scores = []
    for k in range(30):
        logit = None if k % 10 == 9 else float(rng.normal(-0.5, 1))
        abstained = {"no_face": 12} if logit is None else {"too_short": 7}
        windows = 0 if logit is None else 5
        scores.append(ClipScore(f"r{k}", 0, "real", "", "", f"person {k // 2}", logit, windows, abstained))
    for number, generator in enumerate(("Ada", "Bob")):
        for k in range(10):
            logit = None if k == 0 else float(rng.normal(0.3 + number, 1))
            paired = f"r{k}" if generator == "Ada" else ""
            kind = "lip-sync" if k < 5 else "tts-or-voice-clone"
            uid = f"{generator}{k}"
            scores.append(ClipScore(uid, 1, kind, generator, paired, uid, logit, 5, {"no_face": 1}))
    return scores


def make_history() -> list[Epoch]:
    """Six epochs of a first stage that only knows losses, and five of a second that overfits."""
    first = [Epoch("encoders", n, {"train/loss": 2 - 0.1 * n, "val/loss": 2.1 - 0.1 * n}) for n in range(6)]
    losses = ((0.6, 0.6), (0.5, 0.55), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8))
    second = [
        Epoch("whole", n, {
            "train/loss": train, "val/loss": validation, "val/auc": 0.7 - 0.02 * n, "val/prior": 0.6,
            "val/accuracy": 0.6 + 0.02 * n, "val/f1": 0.75 - 0.01 * n, "lr": 1e-3 / (n + 1),
        })
        for n, (train, validation) in enumerate(losses)
    ]  # fmt: skip
    return [*first, *second]
