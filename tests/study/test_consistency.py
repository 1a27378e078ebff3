"""Studies whose parts do not go together; the lines that files get are in `test_study_file.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.consistency import check_study
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content

STUDY = make_study(content())


@pytest.mark.parametrize("purpose", ["result", "demonstration", "tuning"])
def test_only_a_result_needs_a_target(purpose: str) -> None:
    study = replace(STUDY, purpose=purpose, quality=replace(STUDY.quality, target=None))
    check_study(replace(STUDY, purpose=purpose))
    if purpose == "result":
        with pytest.raises(InputError, match=r"quality\.target: is missing"):
            check_study(study)
    else:
        check_study(study)


def test_targets_that_runs_can_reach() -> None:
    for direction, target, ceiling in (("min", 3.0, 1.0), ("max", -0.2, 1.0), ("max", 72, 100)):
        told = replace(STUDY.quality, direction=direction, target=target, ceiling=ceiling)
        check_study(replace(STUDY, quality=told))


def test_one_arm_can_be_tuned_but_not_compared() -> None:
    alone = replace(STUDY, arms={"baseline": STUDY.arms["baseline"]})
    check_study(replace(alone, purpose="tuning"))
    with pytest.raises(InputError, match="nothing to compare the baseline with"):
        check_study(alone)
