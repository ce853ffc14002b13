"""The shape of the repository: what stands where, and how large a file or function may get."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "daemon", "engine", "trainer")
SOURCES = ("daemon", "engine", "trainer", "tools", "tests", "src")
MAX_FILE, MAX_FUNCTION = 500, 80
HEAVY = ("torch", "lightning", "tensorboard", "scipy", "sklearn", "scikit", "onnx", "tensorrt", "mediapipe")


def python_files() -> list[Path]:
    """Every source file once: the links under ``src`` are not followed."""
    found = []
    for name in SOURCES:
        for path in sorted((ROOT / name).rglob("*.py")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if not linked and not any(part.endswith(".egg-info") for part in path.parts):
                found.append(path)
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def requirements(section: str, key: str) -> list[str]:
    """Names of a list of requirements in ``setup.cfg``."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config[section][key].split("\n")
    return [re.split(r"[<>=!~\[; ]", line.strip())[0].lower() for line in lines if line.strip()]


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_linked_to_its_directory(name: str) -> None:
    """``avff.NAME`` is the directory NAME of the top level, and nothing else."""
    link = ROOT / "src" / "avff" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", "..", name)
    assert link.resolve() == (ROOT / name).resolve()


def test_source_tree_holds_links_only() -> None:
    """No code hides under ``src``: beside the links there are the package's version and type marker."""
    found = {p.name for p in (ROOT / "src" / "avff").iterdir() if p.name != "__pycache__"}
    assert found == {*PACKAGES, "__init__.py", "py.typed"}


def test_every_file_is_short_enough_to_read() -> None:
    """At most 500 lines."""
    lengths = {relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in python_files()}
    assert len(lengths) > 50
    assert {path: n for path, n in lengths.items() if n > MAX_FILE} == {}


def test_every_function_fits_a_screen() -> None:
    """At most 80 lines from ``def`` to the last statement."""
    lengths = {
        f"{relative(path)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in python_files()
        for node in functions(path)
    }
    assert len(lengths) > 300
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_stand_ins_are_not_called_fakes() -> None:
    """In this project a fake is a deepfake; what replaces a seam in a test is scripted or recording."""
    pattern = re.compile(r"^\s*(class Fake[A-Z_]|(async )?def (fake|make_fake)_)", re.MULTILINE)
    assert pattern.search("class FakeSource:")
    assert pattern.search("    def fake_clock() -> int:")
    named = [relative(p) for p in python_files() if pattern.search(p.read_text(encoding="utf-8"))]
    assert named == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LICENSE", "Apache License"),
        ("README.md", "avff"),
        ("CHANGELOG.md", "Unreleased"),
        ("CONTRIBUTING.md", "make check"),
        ("docs/architecture.md", "engine"),
    ],
)
def test_document_is_there(name: str, words: str) -> None:
    """What a visitor looks for at the top of a repository."""
    assert words in (ROOT / name).read_text(encoding="utf-8")


def test_base_installation_is_light() -> None:
    """The daemon's requirements hold neither torch nor anything that only training needs."""
    base = requirements("options", "install_requires")
    assert "onnxruntime" in base
    heavy = [name for name in base if name != "onnxruntime" and any(word in name for word in HEAVY)]
    assert heavy == []
    assert "torch" in requirements("options.extras_require", "train")


def test_every_requirement_has_a_lower_bound() -> None:
    """What runs today is written down; type stubs follow their library."""
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    section = text.split("install_requires =")[1].split("[options.packages.find]")[0]
    names = [line.strip() for line in section.splitlines() if line.strip()]
    assert [name for name in names if ">=" not in name] == []
