"""What a model expects and promises, written beside its graphs as ``contract.json``.

Every backend works from the same contract: graphs with tensor names, types, shapes
and hashes, the preprocessing they were trained with, and the calibration that turns
logits into probabilities.  Anything that does not fit is refused at load.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from avff.engine.errors import ContractError
from avff.engine.spec import SPEC, ClipSpec

FORMAT = 3
ENCODERS = ("video", "audio", "landmarks")
FUSION = "fusion"
GRAPHS = (*ENCODERS, FUSION)
MODALITIES = ("av", "video", "audio")
CLIP_OUTPUTS = ("any", "video", "audio", "desync", "motion")
"""Order of the columns of the fusion graph's ``clip`` output; 1 means fake (or out of sync)."""
NOVELTY_OUTPUTS = ("video", "audio")
"""Order of the columns of its ``novelty`` output: how far a window lies from the training data."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: name, numpy dtype name, shape after the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One graph: its file beside the contract, the file's SHA-256, its tensors, its cost."""

    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    gflop: float
    """Cost of one item of a batch, two operations per multiply-add."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Calibrated log-odds = scale * logit + offset (Platt scaling), and shares of the parts for ``any``.

    Attributes:
        scale: weight of the head's own logit.
        offset: added.
        video, audio, motion: for ``any`` only: shares 0…1 of the hypotheses that the picture's, the sound's,
            the motion's head stands for; the rest is its own head's (:mod:`avff.engine.calibration`).
        gain, shift: for ``any`` only: final scaling of what the hypotheses make together.
    """

    scale: float
    offset: float
    video: float = 0.0
    audio: float = 0.0
    motion: float = 0.0
    gain: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """From logits to probabilities, fitted on validation data and frozen.

    Attributes:
        any: by modality (``av``, ``video``, ``audio``); a modality that is missing here was
            not good enough on validation data, and gets no score.
        parts: by part (``video``, ``audio``, ``motion``, ``desync``).
        threshold: clip-level probability from which the verdict is "fake".
        limits: novelty by modality (``video``, ``audio``) above which a window is too unlike the
            training data for a score; a modality that is missing here has no limit.
    """

    any: Mapping[str, Affine]
    parts: Mapping[str, Affine]
    threshold: float
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything a backend must know of a model.

    Attributes:
        name: architecture.
        graphs: by name: ``video``, ``audio``, ``landmarks``, ``fusion``.
        spec: geometry of the input.
        calibration: see :class:`Calibration`.
        provenance: hashes and facts of the training run, for people.
    """

    name: str
    graphs: Mapping[str, GraphSpec]
    spec: ClipSpec
    calibration: Calibration
    provenance: Mapping[str, str]

    def token_shape(self, encoder: str) -> tuple[int, ...]:
        """Return the shape of one slice's tokens: 8, and the width of this encoder's."""
        (tokens,) = self.graphs[encoder].outputs
        return tokens.shape

    def to_json(self) -> str:
        """Return the contract as indented JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"


def parse_contract(text: str) -> Contract:
    """Read a contract and check it against this program.

    Raises:
        ContractError: not a contract, another format, another preprocessing, or a graph is missing.
    """
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise ContractError(
                f"model contract has format {raw['format']}, this program reads {FORMAT}; export it again"
            )
        contract = _contract(raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ContractError(f"not a model contract ({type(error).__name__}: {error})") from error
    if contract.spec != SPEC:
        raise ContractError(_difference(contract.spec))
    absent = [g for g in GRAPHS if g not in contract.graphs]
    if absent:
        raise ContractError(f"model contract lacks the graph {absent[0]!r}")
    return contract


def check_tensors(graph: str, specs: tuple[TensorSpec, ...], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check names, types and shapes of a graph's inputs or outputs.

    Raises:
        ContractError: with what was found and what was expected.
    """
    if set(tensors) != {s.name for s in specs}:
        raise ContractError(
            f"{graph}: got tensors {sorted(tensors)}, expected {sorted(s.name for s in specs)}"
        )
    for spec in specs:
        found = tensors[spec.name]
        if found.dtype != np.dtype(spec.dtype) or found.shape[1:] != spec.shape:
            raise ContractError(
                f"{graph}: {spec.name} is {found.dtype} {list(found.shape)}, "
                f"expected {spec.dtype} [batch, {', '.join(map(str, spec.shape))}]"
            )


def _contract(raw: dict[str, Any]) -> Contract:
    calibration = raw["calibration"]
    parts = {name: _affine(values) for name, values in calibration["parts"].items()}
    for modality, values in calibration["any"].items():
        _check_shares(modality, _affine(values), parts)
    return Contract(
        name=str(raw["name"]),
        graphs={name: _graph(graph) for name, graph in raw["graphs"].items()},
        spec=_spec(raw["spec"]),
        calibration=Calibration(
            any={name: _affine(values) for name, values in calibration["any"].items()},
            parts=parts,
            threshold=_finite(calibration["threshold"]),
            limits={name: _finite(calibration["limits"][name]) for name in calibration["limits"]},
        ),
        provenance={str(k): str(v) for k, v in raw["provenance"].items()},
    )


def _spec(raw: dict[str, Any]) -> ClipSpec:
    # A number that is not in the file must not be taken from this program: the two would always agree.
    absent = [field.name for field in fields(ClipSpec) if field.name not in raw]
    if absent:
        raise ValueError(f"its spec lacks {absent[0]!r}")
    return ClipSpec(**raw)


def _affine(raw: dict[str, Any]) -> Affine:
    return Affine(*(_finite(raw[field.name]) for field in fields(Affine)))


def _check_shares(modality: str, by: Affine, parts: Mapping[str, Affine]) -> None:
    shares = {"video": by.video, "audio": by.audio, "motion": by.motion}
    if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-6:
        raise ValueError(f"shares of {modality!r} in the calibration are {shares}, not within 0 and 1")
    absent = [name for name, share in shares.items() if share and name not in parts]
    if absent:
        raise ValueError(f"{modality!r} has a share of {absent[0]!r}, which has no calibration")


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} in the calibration")
    return number


def _graph(raw: dict[str, Any]) -> GraphSpec:
    inputs, outputs = (
        tuple(TensorSpec(t["name"], np.dtype(t["dtype"]).name, tuple(t["shape"])) for t in raw[side])
        for side in ("inputs", "outputs")
    )
    return GraphSpec(str(raw["file"]), str(raw["sha256"]), inputs, outputs, float(raw["gflop"]))


def _difference(found: ClipSpec) -> str:
    ours, theirs = asdict(SPEC), asdict(found)
    name = next(n for n in ours if ours[n] != theirs[n])
    return (
        f"model was trained with {name} = {theirs[name]}, this program prepares {name} = {ours[name]}; "
        f"use the matching version of avff or train again"
    )
