"""``avff-train`` that offers every modality: a network after two steps is at chance, and rightly silent."""

from __future__ import annotations

import sys

from avff.engine.contract import MODALITIES, Affine
from avff.trainer import calibrate, pipeline
from avff.trainer.cli import main


def lenient(*arguments: object) -> object:
    """Calibrate as ever, and then offer what is not good enough too."""
    by_modality, by_part, figures = calibrate.calibrate(*arguments)  # type: ignore[arg-type]
    return dict.fromkeys(MODALITIES, Affine(1.0, 0.0)) | by_modality, by_part, figures


if __name__ == "__main__":
    pipeline.calibrate = lenient  # type: ignore[assignment, attr-defined]
    sys.exit(main())
