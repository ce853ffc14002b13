from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from avff import engine
from avff.engine.contract import Affine, Calibration, parse_contract
from avff.engine.model import CONTRACT_FILE, DEFAULT_MODEL

EMBEDDED = Path(engine.__file__).parent / "weights" / DEFAULT_MODEL


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, or an untrained one as long as there is none."""
    if (EMBEDDED / CONTRACT_FILE).is_file():
        return EMBEDDED
    directory = tmp_path_factory.mktemp("model")
    _export_untrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_args(model_dir: Path) -> list[str]:
    """Options of ``avffd`` that choose the model."""
    return [] if model_dir == EMBEDDED else ["--model", str(model_dir)]


@pytest.fixture(scope="session")
def scored(model_dir: Path) -> frozenset[str]:
    """The modalities that the model is calibrated for: ``av``, ``video``, ``audio``."""
    contract = parse_contract((model_dir / CONTRACT_FILE).read_text(encoding="utf-8"))
    return frozenset(contract.calibration.any)


def _export_untrained(directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        from avff.trainer.export import export_model
        from avff.trainer.model.avff import Avff, AvffConfig

        as_is = Affine(1.0, 0.0)
        calibration = Calibration(
            any={"av": as_is, "video": as_is},
            parts={"video": as_is, "audio": as_is, "desync": as_is},
            threshold=0.5,
        )
        export_model(
            Avff(AvffConfig(width=32, depth=1)),
            directory,
            name="untrained",
            calibration=calibration,
            provenance={},
        )
