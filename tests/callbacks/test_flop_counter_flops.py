"""Few steps are counted, all are charged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rrr_lightning.callbacks.flop_counter import FlopMeter, FlopTable, shapes_of

ONE, LONG = ((2, 8), (2,)), ((2, 16), (2,))


def test_a_shape_is_counted_twice_where_it_costs_the_same_each_time() -> None:
    table = FlopTable()
    counted = []
    for step in range(1, 1001):
        if table.see(ONE):
            counted.append(step)
            table.add(ONE, 7.0)
    assert counted == [1, 4]
    assert table.total() == 7000.0


def test_a_shape_whose_cost_varies_is_counted_now_and_then() -> None:
    table = FlopTable()
    counted = []
    for step in range(1, 1025):
        if table.see(ONE):
            counted.append(step)
            table.add(ONE, float(step))
    assert counted == [1, 4, 16, 64, 256, 1024]
    assert table.total() == pytest.approx(1024 * sum(counted) / 6)


def test_shapes_beyond_the_budget_cost_as_the_nearest_one_in_proportion() -> None:
    table = FlopTable()
    counted = 0
    shapes = [((4, length),) for length in range(1, 101)]
    for shape in shapes:
        if table.see(shape):
            counted += 1
            table.add(shape, 10.0 * shape[0][1])
    assert counted <= 8 + 100 // 64
    assert table.total() == pytest.approx(10.0 * 5050)


def test_what_cannot_be_counted_is_not_known_and_not_tried_again() -> None:
    table = FlopTable()
    assert table.total() == 0.0
    assert table.see(ONE)
    table.add(ONE, None)
    assert table.total() is None
    assert not table.see(LONG)


def test_a_step_is_counted_without_the_teachers_in_it() -> None:
    student, teacher, meter = nn.Linear(8, 3), nn.Linear(8, 5), FlopMeter()
    batch = (torch.randn(2, 8), torch.zeros(2))

    def step() -> Any:
        rows = meter.teacher(1, lambda: teacher(batch[0]), batch, teacher)
        assert rows.shape == (2, 5)
        student(batch[0]).sum().backward()
        return "done"

    for number in range(5):
        assert meter.step(step, batch, student) == "done"
        assert meter.counting == (number in (0, 3))
    assert meter.student_flops() == 5 * 2 * (2 * 2 * 8 * 3)
    assert meter.teacher_flops() == 5 * (2 * 2 * 8 * 5)


def test_a_step_that_fails_leaves_no_counter_behind() -> None:
    meter = FlopMeter()

    def fail() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        meter.step(fail, torch.zeros(2), nn.Linear(1, 1))
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


def test_shapes_are_found_in_usual_batches() -> None:
    pair = (torch.zeros(2, 8), torch.zeros(2))
    assert shapes_of(pair) == ONE
    assert shapes_of({"a": pair[0], "b": [pair[1], "text"]}) == ONE
    assert shapes_of(None) == ()
