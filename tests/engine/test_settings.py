from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from avff.engine.errors import SettingsError
from avff.engine.settings import load_settings


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Camera(Strict):
    width_px: Annotated[int, Field(ge=16, le=4096)] = 640
    mirrored: bool = False


@dataclass(frozen=True)
class Wiring:
    gauge: int = 1
    spare: Camera | None = None


class Studio(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: Camera | None = None
    wiring: Annotated[Wiring, Field()] = Wiring()


class Daemon(Strict):
    threshold: float = 0.5
    sinks: list[str] = ["jsonl"]
    camera: Camera = Camera()
    name: str | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.yaml"


def _problem(
    path: Path, text: str, overrides: tuple[tuple[str, str], ...] = (), model: type[BaseModel] = Daemon
) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, model, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_of_the_file_replace_defaults(path: Path) -> None:
    """What the file holds counts; what it leaves out keeps its default."""
    path.write_text("# a comment\nthreshold: 0.75\ncamera:\n  mirrored: true\n", encoding="utf-8")
    assert load_settings(path, Daemon) == Daemon(threshold=0.75, camera=Camera(mirrored=True))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_gives_defaults(path: Path, text: str) -> None:
    """A file without keys is valid: everything has its default."""
    path.write_text(text, encoding="utf-8")
    assert load_settings(path, Daemon) == Daemon()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([("threshold", "0.9")], Daemon(threshold=0.9, camera=Camera(width_px=320))),
        ([("camera.mirrored", "yes")], Daemon(camera=Camera(width_px=320, mirrored=True))),
        ([("camera.width_px", "64")], Daemon(camera=Camera(width_px=64))),
        (
            [("sinks", "[a, b]"), ("name", "Ü")],
            Daemon(sinks=["a", "b"], name="Ü", camera=Camera(width_px=320)),
        ),
        ([("threshold", "0.1"), ("threshold", "0.2")], Daemon(threshold=0.2, camera=Camera(width_px=320))),
    ],
)
def test_overrides_win(path: Path, overrides: list[tuple[str, str]], expected: Daemon) -> None:
    """A value from the command line takes precedence over the file, key by key; the last one counts."""
    path.write_text("camera: {width_px: 320}\n", encoding="utf-8")
    assert load_settings(path, Daemon, overrides) == expected


def test_an_unknown_key_tells_line_and_nearest_name(path: Path) -> None:
    """A misspelt key is named with its line and the key that was probably meant."""
    problem = _problem(path, "name: x\n\ntreshold: 0.5\n")
    assert problem == f"{path}: line 3: unknown key 'treshold'; did you mean 'threshold'?"


def test_an_unknown_key_in_a_group_is_compared_with_the_groups_keys(path: Path) -> None:
    """Below a group the nearest name comes from that group."""
    problem = _problem(path, "threshold: 0.5\ncamera:\n  mirrored: true\n  widht_px: 100\n")
    assert problem == f"{path}: line 4: unknown key 'camera.widht_px'; did you mean 'width_px'?"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("camra", "camera"),
        ("camera.widht_px", "width_px"),
        ("wiring.gage", "gauge"),
        ("wiring.spare.mirored", "mirrored"),
    ],
)
def test_nearest_name_is_told_at_every_depth(path: Path, key: str, meant: str) -> None:
    """In optional groups and in dataclasses, for the file and for the command line alike."""
    *groups, last = key.split(".")
    nested = "".join(f"{'  ' * depth}{group}:\n" for depth, group in enumerate(groups))
    says = f"unknown key {key!r}; did you mean {meant!r}?"
    written = _problem(path, f"{nested}{'  ' * len(groups)}{last}: 1\n", model=Studio)
    assert written == f"{path}: line {len(groups) + 1}: {says}"
    assert _problem(path, "wiring: {gauge: 2}\n", ((key, "1"),), Studio) == f"--{key}: {says}"


def test_misspelt_group_on_the_command_line_is_the_options_fault(path: Path) -> None:
    """No line of the file is blamed for it."""
    problem = _problem(path, "camera: {width_px: 320}\n", (("camra.width_px", "1"),))
    assert problem == "--camra.width_px: unknown key 'camra'; did you mean 'camera'?"


def test_a_key_that_resembles_nothing_lists_the_known_ones(path: Path) -> None:
    """When no name is near, all known ones are told."""
    problem = _problem(path, "camera: {zzz: 1}\n")
    assert problem.endswith("line 1: unknown key 'camera.zzz'; known: width_px, mirrored")


@pytest.mark.parametrize(
    ("text", "line", "key", "found"),
    [
        ("threshold: high\n", 1, "threshold", "(found 'high')"),
        ("name: x\ncamera:\n  width_px: '640'\n", 3, "camera.width_px", "(found '640')"),
        ("camera:\n  width_px: 8\n", 2, "camera.width_px", "greater than or equal to 16 (found 8)"),
        ("camera:\n  width_px: 9999\n", 2, "camera.width_px", "less than or equal to 4096 (found 9999)"),
        ("\n\ncamera: 3\n", 3, "camera", "(found 3)"),
        ("camera:\n", 1, "camera", "(found None)"),
        ("sinks:\n  - jsonl\n  - 7\n", 1, "sinks.1", "(found 7)"),
    ],
)
def test_a_wrong_value_tells_line_key_and_what_was_found(
    path: Path, text: str, line: int, key: str, found: str
) -> None:
    """A value of another type or out of bounds is named with its line, its key, the rule and itself."""
    problem = _problem(path, text)
    assert problem.startswith(f"{path}: line {line}: {key}: ")
    assert problem.endswith(found)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("treshold", "1", "--treshold: unknown key 'treshold'; did you mean 'threshold'?"),
        ("threshold", "high", "--threshold: threshold: input should be a valid number (found 'high')"),
        ("camera.width_px", "1", "--camera.width_px: camera.width_px: input should be greater than"),
        ("threshold.x", "1", "--threshold.x: 'threshold' is not a group of settings"),
        ("threshold", "[1", "--threshold: line 1: "),
        ("name", "2026-13-01", "--name: "),
    ],
)
def test_a_wrong_override_is_named_as_the_option(path: Path, key: str, value: str, says: str) -> None:
    """A mistake on the command line is told with the option, not with a line of the file."""
    assert _problem(path, "threshold: 0.5\n", ((key, value),)).startswith(says)


@pytest.mark.parametrize(
    ("key", "value", "way_out"),
    [
        ("camera.width_px", "64", "--camera '{width_px: 64}'"),
        ("wiring.spare.width_px", "64", "--wiring.spare '{width_px: 64}'"),
        ("camera.lens.focus", "[1, 2]", "--camera '{lens: {focus: [1, 2]}}'"),
    ],
)
def test_group_that_is_off_says_how_to_turn_it_on(path: Path, key: str, value: str, way_out: str) -> None:
    """A group that the file sets to null is no wrong name: one option as a whole turns it on."""
    text = "camera: null\nwiring: {spare: null}\n"
    problem = _problem(path, text, ((key, value),), Studio)
    group = way_out.split()[0].removeprefix("--")
    assert problem.startswith(f"--{key}: {group!r} is null, which turns it off; ")
    assert problem.endswith(way_out)


def test_group_that_is_off_is_turned_on_as_it_says(path: Path) -> None:
    """The way out that the message shows works, and so does more of the group after it."""
    path.write_text("camera: null\n", encoding="utf-8")
    overrides = [("camera", "{width_px: 64}"), ("camera.mirrored", "true")]
    assert load_settings(path, Studio, overrides).camera == Camera(width_px=64, mirrored=True)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 'x\n", 2), ("a: b: c\n", 1), ("\ta: 1\n", 1), ("a: *b\n", 1)],
)
def test_a_syntax_error_tells_its_line(path: Path, text: str, line: int) -> None:
    """What is no YAML is an error with the line of the problem."""
    assert _problem(path, text).startswith(f"{path}: line {line}: ")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "[]\n", "0\n", "false\n", "''\n"])
def test_a_file_without_keys_and_values_is_refused(path: Path, text: str) -> None:
    """A list or a single value, even an empty one, is no settings file."""
    assert _problem(path, text) == f"{path}: line 1: expected keys and values"


def test_a_date_that_does_not_exist_is_a_settings_error(path: Path) -> None:
    """A value that YAML takes for a date, and that is none, is refused like any other mistake."""
    assert "month" in _problem(path, "name: 2026-13-01\n")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is no text are each named with the reason."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for place, reason in (
        (tmp_path / "missing.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (binary, "is not UTF-8 text"),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(place, Daemon)
        assert str(caught.value) == f"{place}: {reason}"
