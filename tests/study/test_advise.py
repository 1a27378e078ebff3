"""Advice: the arithmetic of a distilled step, the cheapest setting, and what is assumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.advise import Costs, advise
from rrr_lightning.study.pilot import Timing
from rrr_lightning.study.plan import make_plan
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content

PLAIN = Timing("baseline", 0.3, None, 0.0, 0.0, 0.0, 1.0, 1.0, 1, "A processor")
STUDY = make_study(
    content(
        arms={
            "baseline": {},
            "one": {"overlay": {"distillation": {"teachers": "longer/901"}}},
            "all": {"overlay": {"distillation": {"teachers": "longer", "pool.per_step": "all"}}},
        }
    )
)
# A forward pass of 0.1 s; nothing else in a distilled step but 0.03 s of the loss with two.
ONE = replace(PLAIN, kind="one", distilled=0.4, share=0.5, teacher=0.1)
ALL = replace(PLAIN, kind="all", distilled=0.53, share=0.5, teacher=0.2)


def advice(baseline: Timing = PLAIN, one: Timing = ONE) -> str:
    timings = {"baseline": baseline, "one": one, "all": ALL}
    return advise(STUDY, make_plan(STUDY, Path("/x")), timings)


def test_the_factor_is_what_the_extra_costs() -> None:
    costs = Costs(("a", "b"), step=0.3, wait=0.0, forward=0.1, rest=0.0)
    assert costs.factor(1.0, 1, 1) == pytest.approx(4 / 3)
    assert costs.factor(1.0, 1, 2) == pytest.approx(5 / 3)
    assert costs.factor(0.5, 2, 1) == pytest.approx(1 + 1 / 12)
    waiting = replace(costs, wait=0.3)
    assert waiting.factor(1.0, 1, 1) == pytest.approx(1 + 1 / 6)


def row(text: str, *cells: str) -> list[str]:
    (found,) = [
        line
        for line in text.splitlines()
        if line.replace(", ", ",").split()[: len(cells)] == [*cells]
    ]
    return found.split()


def test_the_table_has_teachers_until_every_and_pool() -> None:
    text = advice()
    assert "1.333 (save 25.0%)" in " ".join(row(text, "longer-901", "1", "1"))
    assert "1.083 (save 7.7%)" in " ".join(row(text, "longer-901", "1", "4"))
    pool = " ".join(row(text, "longer-901,longer-902", "2", "1"))
    assert "1.767" in pool  # 0.03 s of the rest as well
    assert "Cheapest of these: [longer-901], per_step 1, until 0.25, every_n_steps 4" in text
    assert "0.33 of a student's step" in text
    assert "Assumed: the teachers' own training is free" in text


def test_it_says_whether_the_loader_sets_the_pace() -> None:
    assert "The loader keeps up." in advice()
    assert "The loader sets the pace." in advice(replace(PLAIN, wait=0.1))


def test_without_a_distilled_step_there_is_no_advice() -> None:
    study = make_study(content(arms={"baseline": {}, "b": {}}, teachers={}))
    timings = {"baseline": PLAIN, "b": replace(PLAIN, kind="b")}
    with pytest.raises(InputError, match="arms: no arm has teachers"):
        advise(study, make_plan(study, Path("/x")), timings)
