from __future__ import annotations

import math
from typing import Any

import pytest

from rrr_lightning.data.glue_sources import GlueRows, check_rows
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError

RTE, STSB = TASKS["rte"], TASKS["stsb"]


def rows(labels: Any, first: Any = "a") -> GlueRows:
    return GlueRows(([first, "b"], ["c", ""]), labels, "there")


@pytest.mark.parametrize("labels", [[0, 1], None])
def test_whole_rows_stay_as_they_are(labels: Any) -> None:
    given = rows(labels)
    assert check_rows(given, RTE) is given
    assert len(given) == 2


def test_scores_are_numbers_from_0_to_5() -> None:
    check_rows(rows([0.0, 5.0]), STSB)
    check_rows(rows([0, 5]), STSB)
    for bad in (5.2, -1.0, math.nan, None, 6, -1, True, "3"):
        with pytest.raises(InputError, match=r"there, row 1 .*accepted: a score from 0 to 5"):
            check_rows(rows([3.0, bad]), STSB)


@pytest.mark.parametrize(("bad", "shown"), [(2, "2"), (-1, "-1"), (None, "'none'"), ("1", "'1'")])
def test_a_label_outside_the_set_of_the_task_is_refused(bad: Any, shown: str) -> None:
    message = f"there, row 1 has a label that rte does not have; found {shown}; accepted: 0, 1"
    with pytest.raises(InputError, match=message):
        check_rows(rows([1, bad]), RTE)


def test_a_missing_text_is_refused() -> None:
    with pytest.raises(InputError, match="there, row 0 has no sentence1"):
        check_rows(rows([0, 1], first=None), RTE)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match="there holds no rows"):
        check_rows(GlueRows(([], []), [], "there"), RTE)
