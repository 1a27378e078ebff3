"""One study, analysed once for all tests that only read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrr_lightning.study import coverage
from rrr_lightning.study.analysis import Analysis, analyse
from tests.study.made import DESIGN, runs, study


@pytest.fixture(scope="session")
def whole_study() -> Analysis:
    """A finished study of two arms, of which the second draws all of its teachers."""
    arms = {**DESIGN.durations, "averaged": (3, 6, 12, 20)}
    design = replace(
        DESIGN,
        durations=arms,
        settings_tried={**DESIGN.settings_tried, "averaged": 4},
        contrasts=(("taught", "averaged"),),
    )
    averaged = runs("averaged", arms["averaged"], speed_up=1.2, step_cost=2.0, teacher=60.0)
    return analyse([*study(), *averaged], design)


@pytest.fixture
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates coverage in a hurry, for tests that do not look at it."""
    monkeypatch.setattr(coverage, "REPLICATES", 60)
