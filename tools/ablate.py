"""Train shortened forms of a recipe, each without one of its parts, and lay what they learn side by side.

    AVFF_DATA=../shared/data python -m tools.ablate --into runs/ablations
    python -m tools.ablate --config configs/train/selfmade.yaml --only recipe,lip_swap --epochs 2

First the encoders on single slices, then the fusion graph on whole windows, on the encoders that the first
row has left.  What is measured is the AUC of validation windows, of people and generators that nothing was
trained on; the clips that judge have no part.  The same command goes on where it was stopped; other settings
are other runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch

from avff.engine.settings import Override, load_settings
from avff.engine.threads import stay_in_caller
from avff.trainer.commands import read_overrides, run_command
from avff.trainer.config import RunSettings
from avff.trainer.control_runs import digest_of
from avff.trainer.data.slices import PICTURE_KINDS
from avff.trainer.model.registry import build
from avff.trainer.paths import RunPaths
from avff.trainer.report.history import read_history
from avff.trainer.report.tables import number, table
from avff.trainer.run import encoder_stage, load_weights, pretrain_stage, supervised_stage
from avff.trainer.run_data import RunData, load_data
from avff.trainer.stages import FINAL, Stage, run_stage

RECIPE = "recipe"
STAGE_1 = "stage_1_first"
_KINDS = ("generated", "self_blend", "lip_swap", "talking_photo", "vocoder")
_PRETRAIN = ("pretrain", "{epochs: 8, windows_per_epoch: 512, batch: 32, validation_windows: 32}")


@dataclass(frozen=True)
class Variant:
    """A form of the recipe.

    Attributes:
        name: of its row.
        encoders: settings that its encoders' stage departs in; None where that is the recipe's own.
        fusion: settings that its fusion stage departs in; None where it has none of its own.
    """

    name: str
    encoders: tuple[Override, ...] | None
    fusion: tuple[Override, ...] | None


VARIANTS = (
    Variant(RECIPE, (), ()),
    *(Variant(f"without_{kind}", ((f"mix.{kind}", "0"),), None) for kind in PICTURE_KINDS),
    Variant(STAGE_1, (_PRETRAIN,), ()),
    Variant("no_modality_dropout", None, (("train.modality_dropout", "0"),)),
    Variant("no_cross_prediction", None, (("train.loss.cross", "0"),)),
    Variant("no_synchrony_loss", None, (("train.loss.sync", "0"),)),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Train the variants that are asked for, write ``ablations.md``, and return the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    unknown = sorted(set(options.only) - {v.name for v in VARIANTS})
    if unknown:
        parser.error(f"no variant {unknown[0]!r}; there are {', '.join(v.name for v in VARIANTS)}")
    return run_command("ablate", lambda: _run(options, read_overrides(parser, rest)))


def _run(options: argparse.Namespace, overrides: Sequence[Override]) -> int:
    short = (
        ("encoders.epochs", str(options.epochs)), ("train.epochs", str(options.fusion_epochs)),
        ("model.motion", "false"), ("motion", "null"), ("output", str(options.into)),
        *overrides,
    )  # fmt: skip
    chosen = [v for v in VARIANTS if v.name == RECIPE or not options.only or v.name in options.only]
    data = load_data(load_settings(options.config, RunSettings, short))
    encoders, fusion = {}, {}
    left: dict[str, Path] = {}
    for variant in chosen:
        if variant.encoders is not None:
            settings = load_settings(options.config, RunSettings, (*short, *variant.encoders))
            encoders[variant.name], left[variant.name] = _train_encoders(settings, data, variant.name)
        if variant.fusion is not None:
            settings = load_settings(options.config, RunSettings, (*short, *variant.fusion))
            base = left.get(variant.name, left[RECIPE])
            fusion[variant.name] = _train_fusion(settings, data, base, f"{variant.name}-fusion")
    kinds = sorted({k.removeprefix("auc/") for row in fusion.values() for k in row if k.startswith("auc/")})
    pages = [
        "## Encoders on single slices",
        _table(encoders, {**{k: f"auc/video/{k}" for k in _KINDS[:-1]}, "vocoder": "auc/audio/vocoder"}),
        "## Fusion of whole windows",
        _table(fusion, {**{k: f"auc/{k}" for k in kinds}, "loss of synchrony": "val/sync"}),
    ]
    page = options.into / "ablations.md"
    page.write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    sys.stderr.write(f"ablate: tables in {page}\n")
    return 0


def _train_encoders(settings: RunSettings, data: RunData, name: str) -> tuple[Mapping[str, float], Path]:
    """Train encoders, after the self-supervised stage where the settings have one.

    Returns:
        the figures after the last epoch, and the checkpoint.
    """
    net, paths = _fresh(settings), RunPaths(settings.output, f"{name}-{digest_of(settings)}")
    stages = [make(settings, data, net) for make in (pretrain_stage, encoder_stage)]
    for stage in stages:
        if stage is not None:
            kept = _finish(stage, settings, paths, net)
    return _last(paths, "encoders"), kept


def _train_fusion(settings: RunSettings, data: RunData, base: Path, name: str) -> Mapping[str, float]:
    """Train the fusion graph on the encoders of a checkpoint; return the figures after the last epoch."""
    net, paths = _fresh(settings), RunPaths(settings.output, f"{name}-{digest_of(settings)}")
    load_weights(net, base)
    _finish(supervised_stage(settings, data, net), settings, paths, net)
    return _last(paths, FINAL)


def _fresh(settings: RunSettings) -> torch.nn.Module:
    torch.set_num_threads(settings.train.threads)
    stay_in_caller()
    lightning.seed_everything(settings.train.seed, workers=True, verbose=False)
    return build(settings.model)


def _finish(stage: Stage, settings: RunSettings, paths: RunPaths, net: torch.nn.Module) -> Path:
    kept = paths.checkpoints / run_stage(stage, settings, paths).checkpoint
    load_weights(net, kept)
    return kept


def _last(paths: RunPaths, stage: str) -> Mapping[str, float]:
    return [epoch for epoch in read_history(paths.history) if epoch.stage == stage][-1].values


def _table(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> str:
    head = ["variant", *columns]
    return table(
        head,
        [
            [name.replace("_", " "), *(number(row[key]) if key in row else "–" for key in columns.values())]
            for name, row in rows.items()
        ],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("configs/train/selfmade.yaml"))
    parser.add_argument("--into", type=Path, default=Path("runs/ablations"), help="where the runs are kept")
    parser.add_argument("--epochs", type=int, default=4, help="of the encoders")
    parser.add_argument("--fusion-epochs", type=int, default=3, help="of the fusion graph")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="VARIANT,…")
    return parser


if __name__ == "__main__":
    sys.exit(main())
