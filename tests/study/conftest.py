"""One study, analysed once for all tests that only read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrr_lightning.study import calibration
from rrr_lightning.study.comparison import Analysis, analyse
from rrr_lightning.study.config import Arm
from tests.study.made import DURATIONS, STUDY, runs, study


@pytest.fixture(scope="session")
def whole_study() -> Analysis:
    """A finished study of two arms, of which the second draws all of its teachers."""
    three = replace(
        STUDY,
        arms={**STUDY.arms, "averaged": Arm()},
        settings_tried={**STUDY.settings_tried, "averaged": 4},
        contrasts=(("taught", "averaged"),),
    )
    averaged = runs("averaged", DURATIONS, speed_up=1.2, step_cost=2.0, teacher=60.0)
    return analyse([*study(), *averaged], three)


@pytest.fixture
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates coverage in a hurry, for tests that do not look at it."""
    monkeypatch.setattr(calibration, "REPLICATES", 60)
