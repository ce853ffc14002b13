"""``tools/build_engine.py``: from a model directory to engines that the loading side takes, or one line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from avff import engine
from avff.engine.backends.engine_file import Runtime, read_engines
from avff.engine.contract import GRAPHS
from avff.engine.model import DEFAULT_MODEL
from avff.trainer.engines.builder import RTX_DEFAULT
from avff.trainer.engines.mixed import to_mixed
from avff.trainer.engines.windows import read_clips
from tests.support.engine_files import assert_damage_is_refused, random_engines, write_engines
from tests.support.engines import (
    altered,
    contract_of,
    convolutions,
    graphs_in,
    judge_by_few,
    needs_rtx,
    rescale,
    small_model,
    with_graph,
)
from tests.support.training import make_clip, talking_clip, write_manifest
from tools import build_engine
from tools.demo_data import write_demo_data

ROOT = Path(__file__).parents[2]
EMBEDDED = Path(engine.__file__).parent / "weights" / DEFAULT_MODEL


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's engines in FP32, for two GPUs and batches of two; there are no clips where it looks."""
    out = tmp_path_factory.mktemp("small") / "engines"
    arguments = [str(model), "--precision", "fp32", "--compute-capability", "8.9,8.6", "--max-batch", "2"]
    assert build_engine.main([*arguments, "--data", str(out), "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, one of them altered."""
    return write_demo_data(tmp_path_factory.mktemp("data"), clips=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's engines in FP16, as the command leaves them where there are no data."""
    out = tmp_path_factory.mktemp("built") / "engines"
    assert build_engine.main(["--data", "demo", "-o", str(out)]) == 0
    return out


def _runtime() -> Runtime:
    return Runtime("rtx", str(importlib.import_module("tensorrt_rtx").__version__), "8.9")


def _refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], out: Path) -> tuple[int, str]:
    """Run a command that fails; return its exit code and its last line.  It has written nothing."""
    code = build_engine.main([*arguments, "-o", str(out)])
    *progress, last = capsys.readouterr().err.splitlines()
    assert all(line.startswith("build_engine: ") for line in (*progress, last))
    assert not out.exists()
    return code, last


def _assert_engines_of(built: Path, model: Path) -> Mapping[str, Any]:
    """All that is to be known of FP16 engines stands beside them; return the gate's reports."""
    sidecar = read_engines(built, _runtime()).sidecar
    assert (sidecar.flavour, sidecar.precision) == ("rtx", "fp16")
    assert sidecar.compute_capabilities == RTX_DEFAULT
    assert sidecar.contract == contract_of(model)
    graphs = graphs_in(model)
    for name in GRAPHS:
        graph = sidecar.graphs[name]
        assert graph.onnx_sha256 == hashlib.sha256(graphs[name]).hexdigest()
        mixed = to_mixed(onnx.load_from_string(graphs[name])).SerializeToString()
        assert graph.compiled_sha256 == hashlib.sha256(mixed).hexdigest()
        assert dataclasses.astuple(graph.profile) == (1, 4, 32)
    assert len(list(built.iterdir())) == len(GRAPHS) + 1
    assert sidecar.parity is not None
    return sidecar.parity


def _assert_holds(report: Mapping[str, Any]) -> None:
    assert report["windows"] >= 64
    assert 0 < report["logit"] <= 0.02
    assert abs(report["auc_expected"] - report["auc_found"]) <= 0.001
    assert report["batch"] <= 0.005


@needs_rtx
def test_the_embedded_model_becomes_engines_that_can_be_loaded(built: Path) -> None:
    """Without a GPU and without data; with all that is to be known of them, and nothing else."""
    reports = _assert_engines_of(built, EMBEDDED)
    assert set(reports) == {"fp16"}
    _assert_holds(reports["fp16"])


@needs_rtx
@pytest.mark.clips
@pytest.mark.skipif(not os.environ.get("AVFF_DATA"), reason="AVFF_DATA is not set")
def test_the_embedded_model_holds_in_fp16_on_real_clips(tmp_path: Path) -> None:
    """Of many people and generators, as the command is used where there are data."""
    out = tmp_path / "engines"
    arguments = ["default", "--data", os.environ["AVFF_DATA"], "--clips", "20", "-o", str(out)]
    assert build_engine.main(arguments) == 0
    _assert_holds(_assert_engines_of(out, EMBEDDED)["fp16"])


@needs_rtx
def test_damage_to_real_engines_is_refused(small: Path, tmp_path: Path) -> None:
    """1,000 single bytes and 100 truncations of what TensorRT-RTX made."""
    copied = shutil.copytree(small, tmp_path / "engines")
    assert_damage_is_refused(copied, _runtime(), flips=1000, cuts=100, seed=1)


def test_windows_are_of_both_classes(data: Path) -> None:
    """Five a clip of a little over five seconds."""
    said: list[str] = []
    clips = read_clips(data, count=2, split="demo", say=said.append)
    assert sorted(clip.label for clip in clips) == [0, 1]
    assert all(list(clip.ends()) == [8, 10, 12, 14, 16] for clip in clips)
    assert [line.split(": ")[0] for line in said] == ["reading clip 1 of 2", "reading clip 2 of 2"]


def test_clips_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """One shorter than a window, and one that is no media, are left out."""
    talking_clip(tmp_path / "short.mp4", seconds=1.0)
    (tmp_path / "none.mp4").write_bytes(b"no media")
    write_manifest(tmp_path, [make_clip("short.mp4"), make_clip("none.mp4")])
    said: list[str] = []
    assert read_clips(tmp_path, count=2, split=None, say=said.append) == []
    assert "left out: short.mp4 is shorter than a window" in said
    assert any(line.startswith("left out: ") and "none.mp4" in line for line in said)


@needs_rtx
def test_an_overflowing_model_is_refused_with_its_layer(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, one line with the layer; engines of before stay, and nothing joins them."""
    content = altered(graphs_in(model)["audio"], lambda graph: rescale(graph, 60_000.0))
    loud = with_graph(model, tmp_path / "model", "audio", content)
    layer = convolutions(onnx.load_from_string(content))[1].name
    judge_by_few(monkeypatch)
    out = tmp_path / "engines"
    write_engines(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert build_engine.main([str(loud), "-o", str(out)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"FP16 overflows at layer {layer!r} (Conv" in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@needs_rtx
@pytest.mark.parametrize("output", ["frames", "novelty"])
def test_a_model_that_gives_infinity_is_refused_before_anything_is_built(
    output: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In another output than the score's."""

    def spoil(graph: ModelProto) -> None:
        (maker,) = (node for node in graph.graph.node if output in node.output)
        maker.output[list(maker.output).index(output)] = "own"
        graph.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), "infinity"))
        graph.graph.node.append(helper.make_node("Add", ["own", "infinity"], [output], "spoil"))

    content = altered(graphs_in(model)["fusion"], spoil)
    odd = with_graph(model, tmp_path / "model", "fusion", content)
    judge_by_few(monkeypatch)
    code = build_engine.main([str(odd), "-o", str(tmp_path / "engines")])
    *progress, last = capsys.readouterr().err.splitlines()
    assert code == 1
    assert f"fusion.{output} is not finite" in last
    assert "the model itself gives NaN or infinity, first at layer 'spoil'" in last
    assert not any("building" in line for line in progress)
    assert not (tmp_path / "engines").exists()


@needs_rtx
def test_fp32_is_built_without_clips(small: Path) -> None:
    """There is nothing to compare: the graphs are the model's own.  GPUs and batch are as asked for."""
    sidecar = read_engines(small, _runtime()).sidecar
    assert sidecar.parity is None
    assert sidecar.compute_capabilities == ("8.6", "8.9")
    for graph in sidecar.graphs.values():
        assert graph.compiled_sha256 == graph.onnx_sha256
        assert dataclasses.astuple(graph.profile) == (1, 2, 2)


def _command(model: Path, out: Path) -> list[str]:
    return [sys.executable, "tools/build_engine.py", str(model), "--precision", "fp32", "-o", str(out)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@needs_rtx
def test_a_build_that_is_killed_leaves_the_old_engines(model: Path, tmp_path: Path) -> None:
    """In the middle of compiling."""
    write_engines(tmp_path)
    before = sorted(tmp_path.iterdir())
    with subprocess.Popen(
        _command(model, tmp_path), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "building fusion" in line:
                run.send_signal(signal.SIGKILL)
                break
    assert run.returncode == -signal.SIGKILL
    assert sorted(tmp_path.iterdir()) == before
    assert read_engines(tmp_path, Runtime("rtx", "1.7.1.116", "8.9")).content == random_engines(0)[1]


@needs_rtx
def test_no_room_is_one_line_and_74(model: Path, tmp_path: Path) -> None:
    """The system refuses to write a file that large; what was there stays."""
    write_engines(tmp_path)
    before = sorted(tmp_path.iterdir())
    run = subprocess.run(
        _command(model, tmp_path), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert run.returncode == 74
    assert "File too large" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert sorted(tmp_path.iterdir()) == before


def _with_unique(model: ModelProto) -> None:
    """Add an operator that ONNX Runtime knows and TensorRT does not."""
    model.graph.node.append(helper.make_node("Unique", [model.graph.input[0].name], ["unique"], "oddity"))


@needs_rtx
def test_an_operator_that_cannot_be_compiled_is_71(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named with its layer."""
    content = altered(graphs_in(model)["audio"], _with_unique)
    odd = with_graph(model, tmp_path / "model", "audio", content)
    code, line = _refused(capsys, [str(odd), "--precision", "fp32"], tmp_path / "engines")
    assert code == 71
    assert "cannot compile the operator Unique of the layer 'oddity'" in line


@needs_rtx
def test_a_model_that_is_none_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent, another thing, or altered; and clips that are not there."""
    out = tmp_path / "engines"
    assert _refused(capsys, [str(tmp_path / "absent")], out)[0] == 66
    (tmp_path / "empty").mkdir()
    code, line = _refused(capsys, [str(tmp_path / "empty")], out)
    assert (code, "holds no model" in line) == (78, True)
    touched = with_graph(model, tmp_path / "touched", "audio", graphs_in(model)["audio"])
    (touched / "video.onnx").write_bytes(graphs_in(model)["audio"])
    code, line = _refused(capsys, [str(touched)], out)
    assert (code, "was altered or belongs to another model" in line) == (78, True)
    code, line = _refused(capsys, [str(model), "--data", str(tmp_path)], out)
    assert (code, "give --data ROOT or set AVFF_DATA" in line) == (66, True)


@needs_rtx
def test_a_split_without_clips_is_65(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the splits that there are."""
    arguments = [str(model), "--data", str(data), "--split", "dev"]
    code, line = _refused(capsys, arguments, tmp_path / "engines")
    assert code == 65
    assert "no labelled clip of the split 'dev'; it has 'demo'" in line


def test_a_package_that_is_missing_or_old_is_69_and_76(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is looked at."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    code, line = _refused(capsys, [str(model)], tmp_path / "engines")
    assert (code, "pip install 'avff[train,rtx]'" in line) == (69, True)
    old = types.ModuleType("tensorrt_rtx")
    old.__dict__["__version__"] = "1.2.0.54"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", old)
    code, line = _refused(capsys, [str(model)], tmp_path / "engines")
    assert (code, "has version 1.2.0.54, at least 1.7 is needed" in line) == (76, True)


@needs_rtx
def test_a_gpu_that_it_cannot_build_for_is_70(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(model), "--compute-capability", "9.0"]
    code, line = _refused(capsys, arguments, tmp_path / "engines")
    assert (code, "cannot build for compute capability 9.0" in line) == (70, True)


def test_a_file_in_place_of_the_folder_is_74(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found out before anything that takes long."""
    (tmp_path / "engines").write_text("mine")
    assert build_engine.main([str(model), "-o", str(tmp_path / "engines")]) == 74
    assert "is a file, engines need a folder" in capsys.readouterr().err
    assert (tmp_path / "engines").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-batch", "0"], "'0' is not a whole number above 0"),
        (["--max-batch", "33"], "33 is above 32"),
        (["--compute-capability", "8.6,ada"], "'ada' is no compute capability such as 8.6"),
        (["--flavour", "tensorrt", "--compute-capability", "8.6"], "builds for the GPU it builds on"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With what is wrong, on stderr."""
    with pytest.raises(SystemExit, match="2"):
        build_engine.main(["model", *arguments, "-o", str(tmp_path)])
    assert words in capsys.readouterr().err
