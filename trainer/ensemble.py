"""Several trained networks as one model, which the engine runs like any other.

The members' encoders lie side by side: a token of the ensemble is its members' tokens joined, so its
width is the sum of theirs.  The fusion graph hands each member its share and answers with the mean of
the members' calibrated log-odds.  Their calibrations are inside the graph, because they differ by
member and modality; the masks tell which modality is asked for, since one that a window is not judged
by is masked throughout.  The contract's own calibration is therefore the identity.

Exact, but for float32 rounding: the log-odds of every window and of its parts are the mean of the
members'.  Not exact: that mean is not itself calibrated (where members err independently it is too
modest), and the threshold, the mean of the members' in log-odds, was not frozen on validation clips of
the ensemble.  Averaged log-odds are the logarithmic opinion pool (Genest and Zidek, 1986) with equal
weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from avff.engine.calibration import HYPOTHESES, shares_of
from avff.engine.contract import (
    CLIP_OUTPUTS,
    ENCODERS,
    FUSION,
    MODALITIES,
    NOVELTY_OUTPUTS,
    Affine,
    Calibration,
    Contract,
    parse_contract,
)
from avff.engine.errors import ContractError
from avff.trainer.checkpoints import load_verified
from avff.trainer.config import RunSettings
from avff.trainer.export import export_model
from avff.trainer.model.avff import Avff, AvffConfig, StreamingNet
from avff.trainer.model.fusion import FusionGraph, FusionOut, TokenHeads, without_cross
from avff.trainer.model.registry import build, export_obstacle

MODEL_FILE = "best_model.pth"
PARTS = CLIP_OUTPUTS[1:]
_HYPOTHESES = [PARTS.index(name) for name in HYPOTHESES[1:]]
_IDENTITY, _SILENT = Affine(1.0, 0.0), Affine(0.0, 0.0, gain=0.0)
_NONE = 1e-12
"""Share of a hypothesis that has none: its logarithm has to be a number."""
_NOT_FROZEN = "mean of the members' thresholds in log-odds; not frozen on validation clips of the ensemble"


class EnsembleError(Exception):
    """Networks cannot become an ensemble; the message names the member and the way out."""


@dataclass(frozen=True)
class Member:
    """One trained network of an ensemble.

    Attributes:
        name: of its run.
        net: in inference mode.
        calibration: of its exported model.
        sha256: of the file that it comes from.
    """

    name: str
    net: StreamingNet
    calibration: Calibration
    sha256: str


class SideBySide(nn.Module):
    """Encoders of one input; their tokens ``[N, 8, D_i]`` are joined to ``[N, 8, sum of D_i]``."""

    def __init__(self, encoders: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of slices."""
        return torch.cat([encode(x) for encode in self.encoders], dim=-1)


class AveragedFusion(FusionGraph):
    """The members' fusion graphs, each on its share of the tokens; answers with mean calibrated log-odds.

    ``any`` is calibrated for the modality that the masks let through, the parts as they are offered;
    what a member does not offer adds nothing, and must not be offered by the ensemble.  Logits per
    picture are the members' mean, uncalibrated as theirs are; the sync curve is the mean of those
    members that compare sound with picture.

    Args:
        members: networks and calibrations.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.split = _Split(members)
        self.width = sum(m.net.config.width for m in members)
        # Every member answers with its own linear heads; the ensemble has none.
        self.tokens = TokenHeads(self.width, sees=False, hears=False)
        self.members = nn.ModuleList(m.net.served()[FUSION] for m in members)
        self.compares = [isinstance(m.net, Avff) for m in members]
        by_modality = [[m.calibration.any.get(name, _SILENT) for name in MODALITIES] for m in members]
        by_part = [[m.calibration.parts.get(name, _SILENT) for name in PARTS] for m in members]
        self.shares: Tensor  # [members, modalities, hypotheses], as logarithms
        self.scales: Tensor  # [members, modalities, 1]
        self.offsets: Tensor  # [members, modalities, 1]
        self.gains: Tensor  # [members, modalities, 1]
        self.shifts: Tensor  # [members, modalities, 1]
        self.part_scales: Tensor  # [members, 1, parts]
        self.part_offsets: Tensor  # [members, 1, parts]
        shares = [[[shares_of(a).get(h, _NONE) for h in HYPOTHESES] for a in row] for row in by_modality]
        self.register_buffer("shares", torch.tensor(shares).log())
        self.register_buffer("scales", torch.tensor([[[a.scale] for a in row] for row in by_modality]))
        self.register_buffer("offsets", torch.tensor([[[a.offset] for a in row] for row in by_modality]))
        self.register_buffer("gains", torch.tensor([[[a.gain] for a in row] for row in by_modality]))
        self.register_buffer("shifts", torch.tensor([[[a.shift] for a in row] for row in by_modality]))
        self.register_buffer("part_scales", torch.tensor([[[a.scale for a in row]] for row in by_part]))
        self.register_buffer("part_offsets", torch.tensor([[[a.offset for a in row]] for row in by_part]))

    def forward(
        self, video: Tensor, audio: Tensor, landmarks: Tensor, video_ok: Tensor, audio_ok: Tensor
    ) -> FusionOut:
        """Fuse one batch of windows; arguments as of :meth:`avff.trainer.model.fusion.Fusion.forward`."""
        shares = self.split(video, audio, landmarks)
        outs: list[FusionOut] = [
            fusion(*tokens, video_ok, audio_ok) for fusion, tokens in zip(self.members, shares, strict=True)
        ]
        seen, heard = video_ok.amax(dim=1, keepdim=True), audio_ok.amax(dim=1, keepdim=True)  # [N, 1]
        # 1 for the modality that is asked for, in the order of MODALITIES.
        asked = torch.cat([seen * heard, seen * (1 - heard), (1 - seen) * heard], dim=-1)  # [N, 3]
        clips = torch.stack([out.all_heads() for out in outs])  # [members, N, 5]
        parts = clips[..., 1:] * self.part_scales + self.part_offsets  # [members, N, 4]
        own = clips[..., :1] * (asked @ self.scales) + asked @ self.offsets  # [members, N, 1]
        # As engine.calibration has it: the hypotheses' likelihood ratios, weighted by their shares.
        terms = torch.cat([own, parts[..., _HYPOTHESES]], dim=-1) + asked @ self.shares  # [members, N, 4]
        together = torch.logsumexp(terms, dim=-1, keepdim=True)
        log_odds = together * (asked @ self.gains) + asked @ self.shifts
        heads = torch.cat([log_odds, parts], dim=-1).mean(dim=0)
        frames = torch.stack([out.frames for out in outs]).mean(dim=0)
        answer = replace(without_cross(heads[:, :-1], frames, self.width), motion=heads[:, -1:])
        curves = [out.sync for out, compares in zip(outs, self.compares, strict=True) if compares]
        return replace(answer, sync=torch.stack(curves).mean(dim=0)) if curves else answer


class _Split(nn.Module):
    """Hands each member its share of the joined tokens."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        widths = [m.net.token_widths() for m in members]
        self.widths = [[w[encoder] for w in widths] for encoder in ENCODERS]

    def forward(self, *tokens: Tensor) -> list[tuple[Tensor, ...]]:
        """Split the tokens of the encoders, in the order of ``ENCODERS``: one tuple for each member."""
        parts = (torch.split(x, w, dim=-1) for x, w in zip(tokens, self.widths, strict=False))
        return list(zip(*parts, strict=True))


class JointNovelty(nn.Module):
    """The members' novelty in parts of their limits, the highest of each modality: above 1 is too far.

    Args:
        members: networks and calibrations.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.split = _Split(members)
        self.members = nn.ModuleList(m.net.novelty for m in members)
        limits = [[m.calibration.limits.get(name, math.inf) for name in NOVELTY_OUTPUTS] for m in members]
        self.limits: Tensor  # [members, 1, 2]
        self.register_buffer("limits", torch.tensor(limits).unsqueeze(1))

    def forward(self, video: Tensor, audio: Tensor, video_ok: Tensor, audio_ok: Tensor) -> Tensor:
        """Measure a batch of windows; arguments as of :class:`avff.trainer.model.novelty.Novelty`."""
        each = [
            novelty(*tokens, video_ok, audio_ok)
            for novelty, tokens in zip(self.members, self.split(video, audio), strict=True)
        ]
        return (torch.stack(each) / self.limits).amax(dim=0)


class EnsembleNet(StreamingNet):
    """Members side by side, for export.

    Args:
        members: networks and calibrations.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        video, audio, landmarks = (SideBySide(m.net.served()[name] for m in members) for name in ENCODERS)
        width = sum(m.net.config.width for m in members)
        super().__init__(
            AvffConfig(width=width, heads=1), video=video, audio=audio, landmarks=landmarks,
            fusion=AveragedFusion(members), novelty=JointNovelty(members),
        )  # fmt: skip
        widths = [m.net.token_widths() for m in members]
        self._widths = {name: sum(w[name] for w in widths) for name in ENCODERS}

    def token_widths(self) -> dict[str, int]:
        """Return the sums of the members' widths."""
        return self._widths

    def served(self) -> dict[str, nn.Module]:
        """Return the graphs' modules: members' own served ones are inside."""
        return {**{name: getattr(self, name) for name in ENCODERS}, FUSION: self.fusion}


def load_member(run: Path) -> Member:
    """Read a trained network with its calibration.

    Args:
        run: a run's folder under ``outputs``, or the ``best_model.pth`` in it.

    Raises:
        CheckpointError: there is none, or it is damaged.
        EnsembleError: it is of an architecture that cannot be exported, or of another version.
    """
    file = run / MODEL_FILE if run.is_dir() else run
    content = load_verified(file)
    if "settings" not in content or "weights" not in content:
        raise EnsembleError(f"{file}: is no finished run's; give outputs/<run>, or its {MODEL_FILE}")
    try:
        settings = RunSettings.model_validate(json.loads(content["settings"]))
        if obstacle := export_obstacle(settings.model):
            raise EnsembleError(f"{file}: {obstacle}")
        net = build(settings.model)
        net.load_state_dict(content["weights"])
        contract = parse_contract(content["contract"])
    except ContractError as error:  # another preprocessing is among what it refuses
        raise EnsembleError(f"{file}: {error}") from error
    except (KeyError, ValidationError, RuntimeError) as error:
        raise EnsembleError(f"{file}: was saved by another version of avff; train it again") from error
    assert isinstance(net, StreamingNet), "the only kind without an obstacle"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Member(settings.name, net.eval(), contract.calibration, digest)


def ensemble_of(members: Sequence[Member]) -> StreamingNet:
    """Return the members as one network, in inference mode; it is for export, not for training."""
    return EnsembleNet(members).eval()


def joint_calibration(members: Sequence[Member]) -> Calibration:
    """Return what an ensemble offers: the modalities and parts that every member does.

    Raises:
        EnsembleError: no modality is offered by all.
    """
    shared = [name for name in MODALITIES if all(name in m.calibration.any for m in members)]
    if not shared:
        offers = "; ".join(f"{m.name}: {', '.join(m.calibration.any) or 'none'}" for m in members)
        raise EnsembleError(f"no modality is offered by every member ({offers}); leave one out")
    parts = [name for name in PARTS if all(name in m.calibration.parts for m in members)]
    mean = sum(_log_odds(m.calibration.threshold) for m in members) / len(members)
    threshold = round(1 / (1 + math.exp(-mean)), 4)
    limits = {name: 1.0 for name in NOVELTY_OUTPUTS if any(name in m.calibration.limits for m in members)}
    return Calibration(dict.fromkeys(shared, _IDENTITY), dict.fromkeys(parts, _IDENTITY), threshold, limits)


def export_ensemble(runs: Sequence[Path], directory: Path, *, name: str) -> Contract:
    """Write the graphs and the contract of an ensemble.

    Args:
        runs: of two or more members; see :func:`load_member`.
        directory: where the files go.
        name: in events.

    Raises:
        CheckpointError, EnsembleError: a member cannot be had, or they do not go together; nothing is
            written.
    """
    members = [load_member(run) for run in runs]
    if len(members) < 2:
        raise EnsembleError("an ensemble has two members or more; give another run")
    if len({m.sha256 for m in members}) < len(members):
        raise EnsembleError("the same model is given twice; give each member once")
    calibration = joint_calibration(members)
    return export_model(
        ensemble_of(members), directory, name=name, calibration=calibration, provenance=_provenance(members)
    )


def _provenance(members: Sequence[Member]) -> Mapping[str, str]:
    facts = {f"member_{n}": f"{m.name} {m.sha256}" for n, m in enumerate(members, start=1)}
    return {**facts, "threshold": _NOT_FROZEN, "torch": str(torch.__version__)}


def _log_odds(probability: float) -> float:
    # A threshold of 0 or 1, at which everything or nothing is fake, has no finite log-odds.
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))
