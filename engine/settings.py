"""Strict settings: a YAML file into a checked, frozen model, with errors a person can act on."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from avff.engine.errors import SettingsError

Settings = TypeVar("Settings", bound=BaseModel)
Override = tuple[str, str]
"""A dotted key and a YAML value, from ``--key value`` on the command line."""
_UNKNOWN_KEY = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""Pydantic's names for a key that a model, or a dataclass, does not have."""


def load_settings(path: Path, model: type[Settings], overrides: Sequence[Override] = ()) -> Settings:
    """Read a YAML file into a pydantic model that forbids unknown keys.

    Args:
        path: the file.
        model: what it should hold.
        overrides: take precedence over the file.

    Raises:
        SettingsError: unreadable, no YAML, unknown key (with the nearest known one), wrong type
            or out of bounds; the message names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise SettingsError(f"{path}: {reason}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        raise SettingsError(f"{path}: {_yaml_problem(error)}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: line 1: expected keys and values")
    for key, value in overrides:
        _override(data, key, value)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingsError(_describe(error, str(path), node, model, dict(overrides))) from error


def _override(data: dict[str, Any], key: str, value: str) -> None:
    *parents, last = key.split(".")
    for depth, name in enumerate(parents, start=1):
        inner: Any = data.setdefault(name, {})
        if inner is None:
            group, rest = ".".join(parents[:depth]), key.split(".")[depth:]
            within = ": {".join(rest) + f": {value}" + "}" * len(rest)
            raise SettingsError(
                f"--{key}: {group!r} is null, which turns it off; to turn it on, give it as a whole: "
                f"--{group} '{{{within}'"
            )
        if not isinstance(inner, dict):
            raise SettingsError(f"--{key}: {name!r} is not a group of settings")
        data = inner
    try:
        data[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"--{key}: {_yaml_problem(error)}") from error


def _describe(
    error: ValidationError,
    path: str,
    node: yaml.Node | None,
    model: type[BaseModel],
    overrides: dict[str, str],
) -> str:
    """Turn the first problem into one line: place, key, what is wrong, the way out."""
    problem = error.errors()[0]
    keys = [str(part) for part in problem["loc"]]
    dotted = ".".join(keys)
    line = _line(node, keys)
    # A misspelt group is at fault in every option below it.
    option = next((key for key in overrides if f"{key}.".startswith(f"{dotted}.")), None)
    where = f"--{option}" if option else f"{path}: line {line}" if line else path
    if problem["type"] in _UNKNOWN_KEY:
        return f"{where}: unknown key {dotted!r}{_hint(keys[-1], _known(model, keys[:-1]))}"
    found = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {dotted}: {message}{found}"


def _hint(key: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"


def _known(model: type, parents: Sequence[str]) -> list[str]:
    """Return the keys of the group under ``parents``; a group is a pydantic model or a dataclass."""
    for name in parents:
        kind = _group_in(_fields(model).get(name))
        if kind is None:
            return []
        model = kind
    return list(_fields(model))


def _fields(model: type) -> dict[str, Any]:
    """Return the types by name; those of a dataclass may stand there as text."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    assert dataclasses.is_dataclass(model), "_group_in() takes nothing else for a group"
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in dataclasses.fields(model)}


def _group_in(kind: Any) -> type | None:
    """Return the group of settings that a type is, or is beside None."""
    if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
        return kind
    parts = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return next((group for part in parts if (group := _group_in(part)) is not None), None)


def _line(node: yaml.Node | None, keys: Sequence[str]) -> int | None:
    """Return the line of the deepest key that the file holds."""
    line = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        pair = next(((k, v) for k, v in node.value if k.value == key), None)
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line


def _yaml_problem(error: yaml.YAMLError | ValueError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{place}{getattr(error, 'problem', None) or error}"
