from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.models.text_student import TextStudent


class Student(TextStudent):
    student_logits = "network"

    def __init__(self, **given: Any) -> None:
        defaults: dict[str, Any] = {
            "learning_rate": 0.1,
            "betas": (0.9, 0.98),
            "epsilon": 1e-6,
            "weight_decay": 0.02,
            "decay_vectors": True,
            "warmup_steps": None,
            "warmup_fraction": None,
            "optimizer": None,
            "lr_scheduler": None,
            "seed": 0,
        }
        super().__init__(**{**defaults, **given})
        self.network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))

    def logits(self, batch: Any) -> Tensor:
        return self.network(batch)

    def schema(self) -> RowSchema:
        return RowSchema(columns=3)

    def arguments(self) -> dict[str, Any]:
        return {}


def test_warm_up_is_the_recipes_unless_it_is_given() -> None:
    assert (Student().warmup_fraction, Student().warmup_steps) == (0.06, None)
    assert Student(warmup_steps=0).warmup_fraction is None
    assert Student(warmup_fraction=0.1).warmup_fraction == 0.1


def test_the_optimizer_has_what_was_given() -> None:
    student = Student(betas=[0.8, 0.9])
    (group,) = student.default_optimizer(student.parameter_groups()).param_groups
    assert len(group["params"]) == 4
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0.02)
    assert student.betas == (0.8, 0.9)


def test_vectors_can_be_left_out_of_the_decay() -> None:
    student = Student(decay_vectors=False)
    decayed, spared = student.default_optimizer(student.parameter_groups()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert [each.ndim for each in decayed["params"]] == [2]
    assert [each.ndim for each in spared["params"]] == [1, 1, 1]


def test_the_learning_rate_ends_at_the_final_factor() -> None:
    class Stops(Student):
        final_factor = 0.5

    for kind, last in ((Student, 0.0), (Stops, 0.5)):
        rates = [kind().decay(progress) for progress in (0.0, 0.5, 1.0)]
        assert rates == pytest.approx([1.0, (1 + last) / 2, last])


def test_a_student_without_a_trainer_moves_its_batches() -> None:
    batch = {"input_ids": torch.ones(2, 3)}
    moved = Student()._apply_batch_transfer_handler(batch, torch.device("cpu"))
    assert torch.equal(moved["input_ids"], batch["input_ids"])
