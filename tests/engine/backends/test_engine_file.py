"""Engines from disk: whole and for this runtime and GPU, or refused with what to do about it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avff.engine.backends import engine_file
from avff.engine.backends.engine_file import RTX_TARGETS, Runtime, check_engines, read_engines
from avff.engine.backends.sidecar import SIDECAR_FILE, CompiledGraph, Sidecar, capability, parse_sidecar
from avff.engine.contract import GRAPHS
from avff.engine.errors import ContractError, EngineFileError
from tests.support.engine_files import assert_damage_is_refused, random_engines, write_engines
from tests.support.engines import needs_rtx

RUNTIME = Runtime("rtx", "1.7.1.116", "8.6")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "engines"
    write_engines(directory)
    return directory


@pytest.fixture
def directory(written: Path, tmp_path: Path) -> Path:
    """A folder of engines to do harm to."""
    return Path(shutil.copytree(written, tmp_path / "engines"))


def _refusal(directory: Path, runtime: Runtime = RUNTIME) -> str:
    with pytest.raises(EngineFileError) as caught:
        read_engines(directory, runtime)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _reseal(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the side-car anew after a change, with a seal that is right."""
    path = directory / SIDECAR_FILE
    raw = json.loads(path.read_bytes())
    del raw["seal"]
    change(raw)
    body = json.dumps(raw, indent=1).encode().removesuffix(b"\n}")
    path.write_bytes(body + b',\n "seal": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n')


def test_what_was_written_is_read(directory: Path) -> None:
    """The bytes of every engine, and all that the side-car says."""
    read = read_engines(directory, RUNTIME)
    assert read.sidecar == write_engines(directory)
    assert read.sidecar == parse_sidecar((directory / SIDECAR_FILE).read_bytes())
    for name in GRAPHS:
        assert read.content[name] == (directory / read.sidecar.graphs[name].file).read_bytes()
    assert sorted(read.content) == sorted(GRAPHS)


def test_any_damage_is_refused(directory: Path) -> None:
    """1,000 single bytes flipped and 100 truncations, of engines and side-car."""
    assert_damage_is_refused(directory, RUNTIME, flips=1000, cuts=100, seed=0)


def test_every_bit_of_the_side_car_counts(directory: Path) -> None:
    """Also of its blanks, of its seal, and of figures that nothing is computed from."""
    path = directory / SIDECAR_FILE
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for bit in range(8):
            with pytest.raises(EngineFileError):
                parse_sidecar(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    for extra in (b"\n", b" ", b"x", content):
        with pytest.raises(EngineFileError):
            parse_sidecar(content + extra)


@pytest.mark.parametrize("missing", [SIDECAR_FILE, "engine"])
def test_a_missing_file_is_named(missing: str, directory: Path) -> None:
    """The side-car, or an engine that it names."""
    path = directory / SIDECAR_FILE if missing == SIDECAR_FILE else next(directory.glob("video-*.engine"))
    path.unlink()
    message = _refusal(directory)
    assert message.startswith(f"{path}: cannot be read (No such file or directory); build it again: ")


@pytest.mark.parametrize("name", [SIDECAR_FILE, "engine"])
def test_what_is_no_file_is_not_waited_for(name: str, directory: Path) -> None:
    """A pipe that nobody writes to would hold up the start for ever; a device has no end."""
    path = directory / SIDECAR_FILE if name == SIDECAR_FILE else next(directory.glob("video-*.engine"))
    path.unlink()
    os.mkfifo(path)
    assert _refusal(directory).startswith(f"{path}: is no regular file; build it again: ")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert _refusal(directory).startswith(f"{path}: is no regular file; build it again: ")


@pytest.mark.parametrize("name", [SIDECAR_FILE, "engine"])
def test_what_is_too_large_is_not_read(name: str, directory: Path) -> None:
    """By its size alone: a terabyte that is not there would fill memory with zeros."""
    path = directory / SIDECAR_FILE if name == SIDECAR_FILE else next(directory.glob("video-*.engine"))
    os.truncate(path, 1 << 40)
    assert f"{path}: has {1 << 40} bytes, expected " in _refusal(directory)


@pytest.mark.parametrize("read", [check_engines, lambda directory: read_engines(directory, RUNTIME).sidecar])
def test_a_build_that_lands_in_between_is_no_damage(
    read: Callable[[Path], Sidecar], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes the engines of before when the side-car of before has been read; its own are read then."""
    verify, calls = engine_file._verified, list[str]()

    def build_at_the_third(directory: Path, graph: CompiledGraph, rebuild: str) -> bytes:
        calls.append(graph.file)
        if len(calls) == 3:
            write_engines(directory, seed=1)
        return verify(directory, graph, rebuild)

    monkeypatch.setattr(engine_file, "_verified", build_at_the_third)
    assert read(directory) == random_engines(1)[0]
    assert len(calls) == 3 + len(GRAPHS)


def test_a_seal_tells_engines_of_the_same_model_apart() -> None:
    """It is the side-car's own, which has their hashes."""
    one, other = random_engines(0)[0], random_engines(1)[0]
    assert one.contract == other.contract
    assert one.seal == random_engines(0)[0].seal != other.seal
    assert one.seal.encode() in one.to_bytes()


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (replace(RUNTIME, flavour="tensorrt"), "have flavour rtx, this runtime has tensorrt"),
        (replace(RUNTIME, version="1.8.0.1"), "have version 1.7.1.116, this runtime has 1.8.0.1"),
        (
            replace(RUNTIME, compute_capability="9.0"),
            "for compute capability 8.0, 8.6, 8.9, 12.0+, this GPU has 9.0",
        ),
    ],
)
def test_another_runtime_is_told_found_and_expected(runtime: Runtime, words: str, directory: Path) -> None:
    """And the command that builds what it needs, with the options the engines were built with."""
    message = _refusal(directory, runtime)
    assert words in message
    flavour = "tensorrt" if runtime.compute_capability == "9.0" else runtime.flavour
    assert message.endswith(
        f"build it again: python tools/build_engine.py MODEL_DIR --flavour {flavour} "
        f"--precision fp16 --max-batch 32 -o {directory}"
    )


@pytest.mark.parametrize(
    ("found", "precision", "options"),
    [
        ("7.5", "fp16", "--flavour rtx --precision fp16 --max-batch 32 --compute-capability 7.5"),
        ("7.5", "fp32", "--flavour tensorrt --precision fp32 --max-batch 32"),
        ("8.9", "fp16", "--flavour rtx --precision fp16 --max-batch 32 --compute-capability 8.9"),
        ("9.0", "fp16", "--flavour tensorrt --precision fp16 --max-batch 32"),
        ("12.1", "fp16", "--flavour rtx --precision fp16 --max-batch 32 --compute-capability 12.1"),
        ("13.0", "fp16", "--flavour tensorrt --precision fp16 --max-batch 32"),
    ],
)
def test_the_command_is_one_that_can_be_followed(
    found: str, precision: str, options: str, directory: Path
) -> None:
    """TensorRT-RTX builds for some GPUs only."""
    _reseal(directory, lambda raw: raw.update(compute_capabilities=["8.6"], precision=precision))
    message = _refusal(directory, replace(RUNTIME, compute_capability=found))
    assert message.endswith(f"tools/build_engine.py MODEL_DIR {options} -o {directory}")


@needs_rtx
def test_tensorrt_rtx_builds_for_what_is_said() -> None:
    members = importlib.import_module("tensorrt_rtx").ComputeCapability.__members__
    named = {name.removeprefix("SM") for name in members if name.startswith("SM")}
    assert named == {text.replace(".", "") for text in RTX_TARGETS}


def test_the_command_is_a_single_one_whatever_the_folder_is_called(written: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(written, tmp_path / "a; b $(c) 'd'"))
    next(directory.glob("audio-*.engine")).unlink()
    command = shlex.split(_refusal(directory).partition("build it again: ")[2])
    assert command[-2:] == ["-o", str(directory)]


def test_engines_are_not_read_for_another_runtime(directory: Path) -> None:
    """The side-car alone refuses: the engines may be gone."""
    for path in directory.glob("*.engine"):
        path.unlink()
    assert "have version" in _refusal(directory, replace(RUNTIME, version="2.0"))


@pytest.mark.parametrize(
    ("found", "runs"),
    [("7.5", False), ("8.0", True), ("8.7", False), ("9.0", False), ("12.0", True), ("12.1", True)],
)
def test_compute_capabilities_are_those_built_for(found: str, runs: bool, directory: Path) -> None:
    """Each one listed, and with a plus all later ones; 10 comes after 9."""
    sidecar = parse_sidecar((directory / SIDECAR_FILE).read_bytes())
    assert sidecar.runs_on(found) == runs
    assert replace(sidecar, compute_capabilities=("9.0+",)).runs_on("10.0")


@pytest.mark.parametrize("text", ["", "8", "8.", "86", "8.6+", "8.60", "-8.6", "eight", "8.6 ", "٨.٦"])
def test_no_other_text_is_a_compute_capability(text: str) -> None:
    with pytest.raises(ValueError, match=r"no compute capability such as 8\.6"):
        capability(text)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other format": (lambda raw: raw.update(format=2), "has format 2, this program reads 1"),
    "no format": (lambda raw: raw.pop("format"), "is no side-car (KeyError"),
    "no graphs": (lambda raw: raw.update(graphs={}), "it has engines for []"),
    "a graph too few": (lambda raw: raw["graphs"].pop("audio"), "it has engines for ['fusion'"),
    "a graph too many": (lambda raw: raw["graphs"].update(more=raw["graphs"]["audio"]), "'more'"),
    "outside": (lambda raw: raw["graphs"]["audio"].update(file="../a.engine"), "outside its folder"),
    "absolute": (lambda raw: raw["graphs"]["audio"].update(file="/etc/passwd"), "outside its folder"),
    "a NUL": (lambda raw: raw["graphs"]["audio"].update(file="a\0"), "outside its folder"),
    "of another graph": (
        lambda raw: raw["graphs"]["audio"].update(onnx_sha256="0" * 64),
        "'audio' was not built from the graph in its contract",
    ),
    "batch sizes": (
        lambda raw: raw["graphs"]["audio"]["profile"].update(best=64),
        "its batch sizes are [1, 64, 32]",
    ),
    "flavour": (lambda raw: raw.update(flavour="gold"), "flavour is 'gold'"),
    "a command": (lambda raw: raw.update(flavour="rtx; rm -r ."), "flavour is 'rtx; rm -r .'"),
    "version": (lambda raw: raw.update(version="1.7; rm -r ."), "version is '1.7; rm -r .'"),
    "no report": (lambda raw: raw.update(parity=None), "no report of a comparison of its FP16 with FP32"),
    "an empty report": (lambda raw: raw.update(parity={"export": {}}), "no report of a comparison"),
    "infinity": (
        lambda raw: raw["parity"]["fp16"].update(windows=float("inf")),
        "is no side-car (ValueError",
    ),
    "a report of nothing": (lambda raw: raw.update(parity={"fp16": {}}), "is none that lets it pass"),
    "no limits": (lambda raw: raw["parity"]["fp16"].pop("limits"), "is none that lets it pass"),
    "NaN": (lambda raw: raw["parity"]["fp16"].update(logit=float("nan")), "is none that lets it pass"),
    "no figure": (lambda raw: raw["parity"]["fp16"].update(batch=None), "is none that lets it pass"),
    "a logit": (lambda raw: raw["parity"]["fp16"].update(logit=0.03), "is none that lets it pass"),
    "an AUC": (lambda raw: raw["parity"]["fp16"].update(auc_found=0.8), "is none that lets it pass"),
    "a batch": (lambda raw: raw["parity"]["fp16"].update(batch=0.01), "is none that lets it pass"),
    "few windows": (lambda raw: raw["parity"]["fp16"].update(windows=63), "is none that lets it pass"),
    "precision": (lambda raw: raw.update(precision="int8"), "precision is 'int8'"),
    "capability": (lambda raw: raw.update(compute_capabilities=["all"]), "'all' is no compute capability"),
    "other preprocessing": (
        lambda raw: raw["contract"]["spec"].update(input_px=96),
        "model was trained with input_px = 96",
    ),
    "older contract": (lambda raw: raw["contract"].update(format=2), "model contract has format 2"),
    "a list": (lambda raw: raw.update(graphs=[]), "is no side-car (AttributeError"),
    "other engine": (
        lambda raw: raw["graphs"]["audio"].update(sha256="0" * 64),
        "the side-car says 000000000000…",
    ),
    "other size": (lambda raw: raw["graphs"]["audio"].update(size=1), "has 3000 bytes, expected 1 at most"),
    "larger size": (
        lambda raw: raw["graphs"]["audio"].update(size=9999),
        "has 3000 bytes, the side-car says 9999",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_side_car_is_refused_although_its_seal_is_right(case: str, directory: Path) -> None:
    change, words = WRONG[case]
    _reseal(directory, lambda raw: None)
    read_engines(directory, RUNTIME)
    _reseal(directory, change)
    message = _refusal(directory)
    assert words in message
    assert "build it again" in message


def test_engines_of_another_build_are_refused(directory: Path, tmp_path: Path) -> None:
    """A file under the right name, of the right size, from elsewhere."""
    write_engines(tmp_path / "other", seed=1)
    shutil.copy(next((tmp_path / "other").glob("fusion-*.engine")), next(directory.glob("fusion-*.engine")))
    assert "has SHA-256" in _refusal(directory)


def test_a_side_car_that_is_none_is_refused(directory: Path) -> None:
    for content in (b"", b"{}", b"null", b"\xff\xfe", b"[" * 100_000):
        (directory / SIDECAR_FILE).write_bytes(content)
        assert "is cut off or no side-car" in _refusal(directory)
        body = content.removesuffix(b"}")
        sealed = body + b',\n "seal": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
        (directory / SIDECAR_FILE).write_bytes(sealed)
        assert "is no side-car" in _refusal(directory)


def test_the_daemon_ends_as_with_a_wrong_model() -> None:
    """78: a :class:`ContractError` of a special kind."""
    assert issubclass(EngineFileError, ContractError)
