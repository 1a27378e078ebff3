"""Bad teachers stop the run before the first step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rrr_lightning.distillation.losses import LogitMSE
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    Foreign,
    distil,
    fit,
    make_module,
    make_teacher,
    make_trainer,
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
        (Wrong(1), f"found 1; accepted: {CLASSES}"),
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


class Validates(Foreign):
    """Validation batches come from a loader of its own."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/outputs", self.net(batch[0]).mean())


def test_the_accuracy_is_taken_on_a_validation_batch_without_a_sanity_check_too() -> None:
    inputs = torch.eye(8)[:, :8]
    train = TensorDataset(inputs, torch.full((8,), 4))  # the teacher is wrong on most of these
    validation = TensorDataset(inputs[:5], torch.arange(5))

    class Columns(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :CLASSES]

    callback = distil([Columns()], teacher_min_accuracy=0.9)
    trainer = make_trainer(steps=2, callbacks=[callback], num_sanity_val_steps=0)
    loaders = [DataLoader(each, batch_size=8) for each in (train, validation)]
    trainer.fit(make_module(Validates), *loaders)
    assert trainer.global_step == 2


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_student_that_could_validate_needs_no_validation_data() -> None:
    teacher = make_teacher()
    module = make_module(Validates)
    fit(module, distil([teacher]))
    assert module.trainer.global_step > 0


def test_a_teacher_that_fails_on_the_students_batch_is_named() -> None:
    with pytest.raises(InputError, match=r"distillation\.teachers\[0\]: .*fails on a batch"):
        fit(make_module(), distil([nn.Linear(3, CLASSES)]))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_run_without_validation_data_judges_on_a_training_batch() -> None:
    fit(make_module(Validates), distil([make_teacher()], teacher_min_accuracy=0.0), steps=2)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_scores_have_no_accuracy(shape: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    scores = TensorDataset(torch.randn(8, 8), torch.randn(shape))

    class Scores(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, targets = batch
            return nn.functional.mse_loss(self.net(inputs), targets.view(-1, 1))

    def run(**more: Any) -> None:
        callback = distil([nn.Linear(8, 1)], loss=LogitMSE(), **more)
        trainer = make_trainer(steps=2, callbacks=[callback])
        trainer.fit(make_module(Scores), DataLoader(scores, batch_size=8))

    run()
    assert "chance" not in caplog.text
    with pytest.raises(InputError, match="teacher_min_accuracy: no accuracy of a teacher"):
        run(teacher_min_accuracy=0.5)
