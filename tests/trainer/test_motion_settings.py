"""Settings of the motion head: what does not go together is told before anything is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from avff.engine.errors import SettingsError
from avff.trainer.config import RunSettings
from avff.trainer.motion_stage import MotionSettings
from avff.trainer.run import check_settings


def settings(output: Path, **change: Any) -> RunSettings:
    model = {"width": 16, "heads": 2, "depth": 1, "motion": True}
    values: dict[str, Any] = {"name": "tiny", "output": output, "mix": {"self_blend": 1.0}, "model": model}
    return RunSettings.model_validate({**values, "motion": {}, **change})


def test_settings_of_the_motion_head_go_together(tmp_path: Path) -> None:
    """The head without its section, or the section without the head, is refused in words."""
    assert settings(tmp_path).motion == MotionSettings()
    for change in ({"motion": None}, {"model": {"width": 16, "heads": 2}}):
        with pytest.raises(ValidationError, match=r"model\.motion is true exactly when there is a section"):
            settings(tmp_path, **change)
    with pytest.raises(ValidationError, match="motion is for avff-s, not late-fusion"):
        settings(tmp_path, model={"architecture": "late-fusion", "motion": True})


@pytest.mark.parametrize(
    ("motion", "told"),
    [
        (
            {"mix": {"generated": 1.0, "lips_by_sond": 1.0}},
            "motion.mix: unknown kind 'lips_by_sond'; known: ",
        ),
        ({"mix": {"self_blend": 1.0}}, "motion.mix: unknown kind 'self_blend'"),
        ({"windows_per_epoch": 4, "batch": 8}, "motion.windows_per_epoch"),
        ({"mix": {}}, "motion.mix: gives no kind a share"),
        ({"mix": {"generated": 0.0}}, "motion.mix: gives no kind a share"),
    ],
    ids=["misspelt", "a pseudo-fake of pictures", "less than a batch", "nothing", "no share"],
)
def test_settings_that_would_fail_later_are_refused(
    tmp_path: Path, motion: dict[str, Any], told: str
) -> None:
    """By name, before the data is prepared."""
    check_settings(settings(tmp_path, motion={"mix": {"generated": 1.0, "unsteady": 1.0}}))
    with pytest.raises(SettingsError) as caught:
        check_settings(settings(tmp_path, motion=motion))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
