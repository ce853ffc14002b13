"""The wheel: what a user gets is all that the daemon needs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = ("configs", "daemon", "engine", "src", "trainer")
FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools, which builds the wheel, is missing"
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from a copy, for building leaves traces in the tree."""
    tree = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in TREE:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=left_out)
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(target), str(tree)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = target.glob("avff-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "avff/__init__.py",
        "avff/py.typed",
        "avff/engine/demo/talking_photo.mp4",
        "avff/configs/daemon.yaml",
        "avff/configs/train/selfmade.yaml",
    ],
)
def test_wheel_holds_what_is_read_at_run_time(names: set[str], name: str) -> None:
    """Demo clip, configurations and type marker travel with the code."""
    assert name in names


def test_wheel_holds_every_module(names: set[str]) -> None:
    """No package is forgotten for want of an ``__init__.py``."""
    for package in ("daemon", "engine", "trainer"):
        files = (p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)
        modules = {f"avff/{p.relative_to(ROOT)}" for p in files}
        assert len(modules) > 10
        assert modules <= names


def test_wheel_holds_the_embedded_model(names: set[str]) -> None:
    """Where the default model is in the tree it is in the wheel, whole."""
    weights = ROOT / "engine" / "weights"
    files = {f"avff/{p.relative_to(ROOT)}" for p in weights.rglob("*") if p.is_file()}
    if not files:
        pytest.skip("this tree has no embedded model")
    assert any(name.endswith("/contract.json") for name in files)
    assert files <= names


def test_wheel_holds_nothing_else(names: set[str]) -> None:
    """No tests, no runs, no caches."""
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"avff"}
    assert {name.split("/")[1] for name in names if name.startswith("avff/")} == {
        "__init__.py",
        "py.typed",
        "configs",
        "daemon",
        "engine",
        "trainer",
    }
    assert not [name for name in names if name.endswith((".pyc", ".ckpt", ".npz"))]


def test_wheel_declares_commands_and_licence(names: set[str]) -> None:
    """Commands are declared, and the licence travels along."""
    assert any(name.endswith(".dist-info/entry_points.txt") for name in names)
    assert any(name.endswith("LICENSE") for name in names)
