"""Bad teachers stop the run before the first step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    distil,
    fit,
    make_module,
    make_teacher,
    weights,
)


class Wrong(nn.Module):
    def __init__(self, columns: int, value: float = 0.0) -> None:
        super().__init__()
        self.columns, self.value = columns, value
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full((len(inputs), self.columns), self.value)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (Wrong(1), "single column"),
        (Wrong(CLASSES + 1), rf"found {CLASSES + 1}; accepted: {CLASSES}"),
        (Wrong(CLASSES, math.nan), "NaN"),
    ],
)
def test_bad_teacher_rows(teacher: nn.Module, message: str) -> None:
    module = make_module()
    before = weights(module)
    with pytest.raises(InputError, match=message):
        fit(module, distil([make_teacher(), teacher]))
    assert torch.equal(before, weights(module)), "a step was taken"


def test_min_accuracy_and_chance(caplog: pytest.LogCaptureFixture) -> None:
    useless = Wrong(CLASSES)
    with pytest.raises(InputError, match=r"right on .*% of 8 rows; accepted: at least 90\.0%"):
        fit(make_module(), distil([useless], teacher_min_accuracy=0.9))
    fit(make_module(), distil([useless]))
    assert "no better than chance" in caplog.text
    caplog.clear()

    class Oracle(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :CLASSES]

    fit(make_module(), distil([Oracle()], teacher_min_accuracy=0.9))
    assert "no better than chance" not in caplog.text
