"""What ``avff-tune`` may change: a domain of values for each setting, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import optuna
import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from avff.engine.errors import SettingsError
from avff.engine.settings import Override, load_settings
from avff.trainer.config import RunSettings
from avff.trainer.run import check_settings

_FIXED = ("name", "output", "data", "train.seed", "train.select")
"""Settings that say what is measured; trials that differ in them cannot be compared."""


class Domain(BaseModel):
    """The values of one setting: a range of numbers (whole ones if both ends are), or choices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    """Whether to draw evenly on a logarithmic scale."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    choices: list[str | bool | int | float | None] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None or self.step or self.log:
                raise ValueError("choices are a list with something in it, and stand alone")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("needs low and a greater high, or choices")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and takes no step")
        elif self.whole and isinstance(self.step, float):
            raise ValueError("a range of whole numbers needs a whole step")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[Any]:
        """Return the values that are bounds for all others."""
        return [self.low, self.high] if self.choices is None else list(self.choices)

    def draw(self, trial: optuna.Trial, key: str) -> Any:
        """Return a trial's value."""
        if self.choices is not None:
            return trial.suggest_categorical(key, self.choices)
        low, high, step = self.low, self.high, self.step
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, step=int(step or 1), log=self.log)
        assert low is not None, "the validator has seen to it"
        assert high is not None, "the validator has seen to it"
        return trial.suggest_float(key, low, high, step=step, log=self.log)


Space = Mapping[str, Domain]
"""Domains by dotted key of the settings."""
DEFAULT_SPACE: Space = {
    "train.optim.learning_rate": Domain(low=1e-4, high=1e-2, log=True),
    "train.optim.weight_decay": Domain(low=1e-3, high=0.3, log=True),
    "model.dropout": Domain(low=0.0, high=0.5),
    "train.post_chain": Domain(low=0.0, high=1.0),
}


class _SpaceFile(RootModel[dict[str, dict[str, Any]]]):
    pass


@dataclass(frozen=True)
class Recipe:
    """A configuration and what was changed of it on the command line.

    Attributes:
        config: YAML file.
        overrides: settings that take precedence.
    """

    config: Path
    overrides: Sequence[Override]

    def settings(self, changes: Mapping[str, Any]) -> RunSettings:
        """Return the settings with these values by dotted key.

        Raises:
            SettingsError: one of them is wrong.
        """
        written = [(key, yaml.safe_dump(value)) for key, value in changes.items()]
        settings = load_settings(self.config, RunSettings, [*self.overrides, *written])
        check_settings(settings)
        return settings


def read_space(path: Path) -> Space:
    """Read a search space, for example ``model.dropout: {low: 0.0, high: 0.5}``.

    Raises:
        SettingsError: with file and key.
    """
    space = {}
    for key, entry in load_settings(path, _SpaceFile).root.items():
        try:
            space[key] = Domain.model_validate(entry)
        except ValidationError as error:
            problem = error.errors()[0]
            what = ".".join([key, *(str(part) for part in problem["loc"][:1])])
            raise SettingsError(f"{path}: {what}: {problem['msg'].removeprefix('Value error, ')}") from error
    if not space:
        raise SettingsError(f"{path}: has no setting to search over")
    return space


def check_space(space: Space, recipe: Recipe, where: str) -> None:
    """Try out the ends of every range, and every choice.

    Args:
        space: what is searched.
        recipe: what it is a part of.
        where: the space came from, for the message.

    Raises:
        SettingsError: an unknown key, a value that the settings refuse, or a setting that says what
            is measured.
    """
    for key, domain in space.items():
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED):
            raise SettingsError(f"{where}: {key}: says what is measured; trials must not differ in it")
        for value in domain.ends():
            try:
                recipe.settings({key: value})
            except SettingsError as error:
                what = str(error).removeprefix(f"--{key}: ").removeprefix(f"{key}: ")
                raise SettingsError(f"{where}: {key}: {what}") from error
