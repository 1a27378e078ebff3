from __future__ import annotations

import math
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.models.optimization import check_schedule, cosine, learning_rate_factor


def test_the_curve_starts_at_zero_peaks_after_warm_up_and_ends_at_zero() -> None:
    curve = [learning_rate_factor(step, 10, 110) for step in range(111)]
    assert curve[:3] == [0.0, 0.1, 0.2]
    assert max(curve) == curve[10] == 1.0
    assert curve[60] == pytest.approx(0.5)
    assert curve[109] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    assert curve[110] == 0.0


def test_without_warm_up_the_curve_starts_at_its_peak() -> None:
    assert learning_rate_factor(0, 0, 10) == 1.0


def test_the_curve_stays_at_its_end() -> None:
    assert learning_rate_factor(1000, 10, 110) == 0.0


def test_another_decay_follows_the_same_warm_up() -> None:
    assert learning_rate_factor(6, 2, 10, decay=lambda progress: 1 - progress) == 0.5


def test_cosine_ends() -> None:
    assert (cosine(0.0), cosine(1.0)) == (1.0, 0.0)


def check(**kwargs: Any) -> None:
    defaults: dict[str, Any] = dict.fromkeys(("warmup_steps", "warmup_fraction"))
    check_schedule(**{**defaults, "learning_rate": 0.1, "weight_decay": 0.0, **kwargs})


@pytest.mark.parametrize(
    "accepted", [{}, {"warmup_steps": 0}, {"warmup_fraction": 0.0}, {"learning_rate": 0.0}]
)
def test_ordinary_values_are_accepted(accepted: dict[str, Any]) -> None:
    check(**accepted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate: out of range; found -1.0"),
        ({"learning_rate": math.nan}, r"learning_rate: out of range; found nan"),
        ({"weight_decay": -0.1}, r"weight_decay: out of range; found -0.1"),
        ({"warmup_steps": -1}, r"warmup_steps: out of range; found -1; accepted: 0 or more"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction: out of range; found 1.0; .*\[0, 1\)"),
        (
            {"warmup_steps": 3, "warmup_fraction": 0.1},
            r"given twice; .*warmup_steps 3 and warmup_fraction 0.1.*; accepted: one of",
        ),
    ],
)
def test_values_that_no_run_can_use_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(**values)
