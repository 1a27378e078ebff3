from __future__ import annotations

import doctest
import math
from typing import Any

import pytest

from rrr_lightning.distillation import schedule as module
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError

SHAPES = ["linear", "cosine", "constant"]
every_shape = pytest.mark.parametrize("shape", SHAPES)


@every_shape
@pytest.mark.parametrize("until", [0.1, 0.3, 1 / 3, 0.5, 1.0])
def test_the_weight_is_exactly_zero_at_and_after_until(shape: Any, until: float) -> None:
    schedule = DistillationSchedule(weight=0.9, until=until, shape=shape)
    assert schedule(until) == 0.0
    assert schedule(1.0) == 0.0
    assert schedule(math.nextafter(until, 0.0)) >= 0.0
    assert schedule(0.0) == 0.9


@every_shape
def test_the_weight_is_exactly_zero_before_start(shape: Any) -> None:
    schedule = DistillationSchedule(weight=0.9, start=0.25, until=0.75, shape=shape)
    assert schedule(0.0) == schedule(math.nextafter(0.25, 0.0)) == 0.0
    assert schedule(0.25) == 0.9


def test_shapes_have_their_values_along_the_window() -> None:
    def weights(shape: Any) -> list[float]:
        schedule = DistillationSchedule(weight=0.8, start=0.2, until=0.6, shape=shape)
        return [schedule(progress) for progress in (0.2, 0.3, 0.4, 0.5, 0.6)]

    half = 0.5 * (1 + math.sqrt(0.5))
    assert weights("linear") == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert weights("cosine") == pytest.approx([0.8, 0.8 * half, 0.4, 0.8 * (1 - half), 0.0])
    assert weights("constant") == [0.8, 0.8, 0.8, 0.8, 0.0]


@every_shape
def test_the_weight_never_rises_in_the_window(shape: Any) -> None:
    schedule = DistillationSchedule(weight=1.0, until=0.7, shape=shape)
    weights = [schedule.at_step(step, 997) for step in range(998)]
    assert weights == sorted(weights, reverse=True)
    assert all(0.0 <= weight <= 1.0 for weight in weights)


@every_shape
def test_a_step_has_the_weight_of_its_progress(shape: Any) -> None:
    schedule = DistillationSchedule(until=0.4, shape=shape)
    assert [schedule.at_step(step, 10) for step in range(5)] == [
        schedule(step / 10) for step in range(5)
    ]


@pytest.mark.parametrize("total", [3, 10, 70, 1000, 56_250])
@pytest.mark.parametrize("tenths", range(1, 11))
def test_until_falls_on_a_step_without_rounding_trouble(total: int, tenths: int) -> None:
    schedule = DistillationSchedule(until=tenths / 10, shape="constant")
    distilled = sum(schedule.at_step(step, total) > 0 for step in range(total))
    assert distilled == math.ceil(total * tenths / 10 - 1e-9)


def test_steps_between_the_multiples_are_plain() -> None:
    schedule = DistillationSchedule(weight=0.5, until=0.5, shape="constant", every_n_steps=3)
    weights = [schedule.at_step(step, 20) for step in range(12)]
    assert weights == [0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0]
    assert schedule(7 / 20) == 0.5  # the curve itself knows no steps


@every_shape
@pytest.mark.parametrize("every_n_steps", [1, 2, 7, 100])
@pytest.mark.parametrize(("start", "until"), [(0.0, 0.5), (0.3, 0.7), (0.0, 1.0)])
def test_over_means_that_every_later_weight_is_zero(
    shape: Any, every_n_steps: int, start: float, until: float
) -> None:
    total = 60
    schedule = DistillationSchedule(
        start=start, until=until, shape=shape, every_n_steps=every_n_steps
    )
    weights = [schedule.at_step(step, total) for step in range(total + 1)]
    over = [schedule.is_over(step, total) for step in range(total + 1)]
    for step in range(total + 1):
        assert not (over[step] and any(weights[step:]))
    assert over == sorted(over)
    assert over[math.ceil(until * total)]
    if every_n_steps < 10:  # a window that holds a distilled step is over right after its last
        assert over.index(True) == max(s for s in range(total) if weights[s]) + 1


def test_a_schedule_without_weight_is_over_from_the_start() -> None:
    assert DistillationSchedule(weight=0.0).is_over(0, 100)
    assert not DistillationSchedule(weight=0.1, start=0.4).is_over(0, 100)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"weight": -0.1}, "weight"),
        ({"weight": 1.1}, "weight"),
        ({"weight": math.nan}, "weight"),
        ({"weight": "0.9"}, "weight"),
        ({"weight": True}, "weight"),
        ({"until": 0.0}, "until"),
        ({"until": 1.5}, "until"),
        ({"until": math.nan}, "until"),
        ({"start": -0.1}, "start"),
        ({"start": 0.5, "until": 0.5}, "start"),
        ({"start": 0.6, "until": 0.5}, "start"),
        ({"shape": "exponential"}, "shape"),
        ({"every_n_steps": 0}, "every_n_steps"),
        ({"every_n_steps": 1.5}, "every_n_steps"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], key: str) -> None:
    found = next(iter(arguments.values()))
    with pytest.raises(
        InputError, match=rf"^distillation\.schedule\.{key}: .*accepted: "
    ) as caught:
        DistillationSchedule(**arguments)
    assert repr(found) in str(caught.value)


def test_a_misspelt_shape_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="linear, cosine, constant; did you mean 'cosine'"):
        DistillationSchedule(shape="cosin")  # type: ignore[arg-type]


@pytest.mark.parametrize("total", [0, -1])
def test_an_unbounded_run_is_refused(total: int) -> None:
    schedule = DistillationSchedule()
    with pytest.raises(InputError, match=r"^trainer\.max_steps: annealing needs a bounded run"):
        schedule.at_step(0, total)
    with pytest.raises(InputError, match=r"^trainer\.max_steps"):
        schedule.is_over(0, total)


def test_examples_in_the_documentation_hold() -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
