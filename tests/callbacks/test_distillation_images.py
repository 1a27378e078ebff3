"""Mix-up changes a batch before student and teacher see it: both get the very same view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.models.image_classifier import ImageClassifier
from tests.data.toy import make_trainer

STEPS = 3
MICRO_BATCHES = 2


class Views(ImageClassifier):
    """Notes the labels that each training step gets."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("cifar_resnet8", 10, learning_rate=0.1, seed=1, **settings)
        self.labels: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.labels.append(batch[1])
        return super().training_step(batch, batch_idx)


def note_inputs(network: nn.Module) -> list[Tensor]:
    """Returns a list that gets a copy of the input of each forward."""
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach().clone()))
    return inputs


def watch(folder: Path, **settings: Any) -> tuple[Views, list[Tensor], list[Tensor]]:
    """Fits; returns the student, and the inputs of the student's and of the teacher's network."""
    student = Views(**settings)
    teacher = ImageClassifier("cifar_resnet8", 10, seed=2)
    views = note_inputs(student.network), note_inputs(teacher.network)
    callback = DistillationCallback([teacher], schedule=DistillationSchedule(until=1.0))
    trainer = make_trainer(folder, STEPS, callbacks=[callback], limit_val_batches=0)
    trainer.fit(student, datamodule=EmbeddedDigits(global_batch_size=12, micro_batch_size=6))
    return student, *views


@pytest.mark.parametrize("mixup_alpha", [0.2, 1.0])
def test_student_and_teacher_see_the_same_mixed_images(tmp_path: Path, mixup_alpha: float) -> None:
    student, seen, shown = watch(tmp_path, mixup_alpha=mixup_alpha)
    probe, *shown = shown  # the teacher is tried on the first batch
    assert torch.equal(probe, shown[0])
    assert len(seen) == len(shown) == STEPS * MICRO_BATCHES
    assert all(torch.equal(*pair) for pair in zip(seen, shown, strict=True))
    # They were mixed: the labels are soft, and the images are not those of the plain run.
    assert all(labels.shape == (6, 10) for labels in student.labels)
    _, plain, _ = watch(tmp_path)
    assert not any(torch.equal(*pair) for pair in zip(seen, plain, strict=True))
