"""``tools/build_engine.py`` from a finished run: its checkpoint is compared with what is compiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from avff.engine.backends.sidecar import Sidecar, parse_sidecar
from avff.engine.contract import Contract
from avff.engine.errors import BackendError
from avff.trainer.checkpoints import save_durably
from avff.trainer.config import RunSettings
from avff.trainer.engines.source import read_source
from avff.trainer.model.avff import Avff, AvffConfig
from avff.trainer.motion_stage import MotionSettings
from tests.support.engines import contract_of, graphs_in, judge_by_few, needs_rtx, small_model
from tests.support.training import WITH_MOTION, seeded_net
from tools import build_engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_by_few(monkeypatch)


def _run_folder(folder: Path, net: Avff, contract: Contract) -> Path:
    """What a finished run leaves, but for the exported model."""
    settings = RunSettings(name="small", mix={"lip_swap": 1.0}, model=net.config, motion=MotionSettings())
    texts = {"settings": settings.model_dump_json(), "contract": contract.to_json()}
    save_durably({**texts, "weights": net.state_dict()}, folder / "best_model.pth")
    return folder


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    """A finished run with its exported model."""
    folder = _run_folder(tmp_path / "run", seeded_net(config=WITH_MOTION), contract_of(model))
    shutil.copytree(model, folder / "model")
    return folder


def _sidecar(out: Path) -> Sidecar:
    return parse_sidecar((out / "engine.json").read_bytes())


@needs_rtx
def test_a_run_is_compiled_from_its_exported_model(run: Path, model: Path, tmp_path: Path) -> None:
    """With its calibration; torch and ONNX, then FP32 and FP16, are compared on the same windows."""
    out = tmp_path / "engines"
    assert build_engine.main([str(run), "-o", str(out)]) == 0
    sidecar = _sidecar(out)
    assert sidecar.contract == contract_of(model)
    assert sidecar.parity is not None
    assert set(sidecar.parity) == {"export", "fp16"}
    export, fp16 = sidecar.parity["export"], sidecar.parity["fp16"]
    assert export["windows"] == fp16["windows"] == 6
    assert export["auc_found"] == fp16["auc_expected"]
    assert 0 < export["logit"] < 1e-4 < export["limits"]["logit"] < fp16["limits"]["logit"]
    assert export["runtime"].startswith("torch, onnxruntime ")


@needs_rtx
def test_a_checkpoint_alone_is_exported_first(run: Path, model: Path, tmp_path: Path) -> None:
    """With the calibration that it keeps.  In FP32 too, torch and ONNX are compared."""
    shutil.rmtree(run / "model")
    out = tmp_path / "engines"
    assert build_engine.main([str(run / "best_model.pth"), "--precision", "fp32", "-o", str(out)]) == 0
    sidecar = _sidecar(out)
    assert sidecar.contract.calibration == contract_of(model).calibration
    assert set(sidecar.contract.provenance) == {"checkpoint_sha256", "torch"}
    assert sidecar.parity is not None
    assert set(sidecar.parity) == {"export"}


@needs_rtx
def test_graphs_of_another_network_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose exported model is not its checkpoint's."""
    _run_folder(run, seeded_net(1, WITH_MOTION), contract_of(run / "model"))
    assert build_engine.main([str(run), "-o", str(tmp_path / "engines")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "the ONNX graphs do not give the trained network's answers: largest difference of a logit" in last
    assert not (tmp_path / "engines").exists()


@needs_rtx
def test_a_checkpoint_that_cannot_be_used_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged, of an architecture for training only, no checkpoint at all, and a single graph."""

    def refused(path: Path) -> tuple[int, str]:
        code = build_engine.main([str(path), "-o", str(tmp_path / "engines")])
        assert not (tmp_path / "engines").exists()
        return code, capsys.readouterr().err.splitlines()[-1]

    code, line = refused(run / "model" / "audio.onnx")
    assert (code, "give the folder" in line) == (78, True)
    (run / "notes.txt").write_text("mine")
    code, line = refused(run / "notes.txt")
    assert (code, "is damaged" in line) == (74, True)
    file = run / "best_model.pth"
    large = RunSettings(name="b", mix={"lip_swap": 1.0}, model=AvffConfig(architecture="avff-b"))
    save_durably({"settings": large.model_dump_json(), "weights": {}}, file)
    code, line = refused(run)
    assert (code, "avff-b cannot be exported" in line) == (78, True)
    file.write_bytes(file.read_bytes()[:-1])
    code, line = refused(run)
    assert (code, "is damaged" in line) == (74, True)


def test_modules_answer_as_graphs_do(run: Path, model: Path) -> None:
    """Batches of any size, in the contract's tensors; what torch refuses is a backend's error."""
    source = read_source(run)
    assert source.network is not None
    assert source.graphs == graphs_in(model)
    spec = source.contract.graphs["landmarks"]
    backend = source.network["landmarks"]
    made = backend.infer({"landmarks": torch.zeros(3, *spec.inputs[0].shape).numpy()})
    assert {name: values.shape for name, values in made.items()} == {"tokens": (3, *spec.outputs[0].shape)}
    with pytest.raises(BackendError, match="torch failed"):
        backend.infer({"landmarks": torch.zeros(3, 7, 5).numpy()})
    for one in source.network.values():
        one.close()
