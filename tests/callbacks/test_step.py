"""What is not finite stops a distilled run, with a line that says whose it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import Foreign, distil, fit, make_module, make_teacher, weights


class Later(nn.Module):
    """A teacher that gives a value to one class, after some good batches."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.net, self.value, self.calls = make_teacher(), value, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        rows: Tensor = self.net(inputs)
        if self.calls > 3:
            rows[0, 0] = self.value
        return rows


class LateLoss(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * (math.nan if self.trainer.global_step == 2 else 1.0)


class Overflows(Foreign):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == 5:
            self.net[0].weight.grad.fill_(math.inf)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("every", [1, 4, 50])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_teacher_that_fails_later_stops_the_run_and_is_named(value: float, every: int) -> None:
    teachers = [Later(value)]
    with pytest.raises(InputError, match=r"teachers: the logits of the teacher '.*' at step [123]"):
        fit(make_module(), distil(teachers), steps=8, log_every_n_steps=every)


def test_the_one_of_several_teachers_is_named() -> None:
    callback = distil([make_teacher(), Later(math.nan)], schedule={"until": 1.0})
    with pytest.raises(InputError, match=r"logits of the teacher '[^']*Later[^']*' at step"):
        fit(make_module(), callback, steps=16, log_every_n_steps=50)


@pytest.mark.parametrize("every", [1, 4, 50])
def test_a_task_loss_that_is_not_finite_stops_the_run(every: int) -> None:
    with pytest.raises(InputError, match=r"^loss: the task's own loss is not finite at step 2;"):
        fit(make_module(LateLoss), distil([make_teacher()]), steps=8, log_every_n_steps=every)


def test_weights_that_are_not_finite_are_neither_saved_nor_trained_on(tmp_path: Any) -> None:
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    callback = distil([make_teacher()])
    with pytest.raises(
        InputError, match=r"^model: the weights 'net\.0\.weight' are not finite after 6"
    ):
        fit(
            make_module(Overflows),
            callback,
            saves,
            steps=8,
            log_every_n_steps=50,
            enable_checkpointing=True,
        )
    found = sorted(tmp_path.iterdir())
    assert len(found) == 2
    for path in found:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_steps_after_distillation_are_left_to_the_module() -> None:
    module = make_module(LateLoss)
    with pytest.raises(InputError, match="the task's own loss is not finite at step 2"):
        # Looked at when the teachers are freed, at step 4, though nothing is logged before 50.
        fit(module, distil([make_teacher()], schedule={"until": 0.5}), log_every_n_steps=50)
    assert module.trainer.global_step == 4
    good = make_module()
    fit(good, distil([make_teacher()], schedule={"until": 0.5}))
    assert weights(good).isfinite().all()
