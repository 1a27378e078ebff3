"""The masked-LM workload of `step_cost.py`, and its loop written by hand with the same kernels."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from _timing import StepClock
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rrr_lightning.distillation.logits import carry_places, masked_places
from rrr_lightning.distillation.losses import in_chunks, kl_divergence
from rrr_lightning.keyed_rng import keyed_generator
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.masked_rows import carry_mask

MASK, FIRST_WORD, MASKED = 103, 1000, 0.15


def masked_batches(
    key: str, vocabulary: int, shape: tuple[int, int], steps: int, pinned: bool
) -> DataLoader[Any]:
    """Returns a loader of ready batches of noise: four of them, again and again."""
    generator = keyed_generator(key)
    made = []
    for _ in range(4):
        words = torch.randint(FIRST_WORD, vocabulary, shape, generator=generator)
        masked = torch.rand(shape, generator=generator) < MASKED
        made.append(
            {
                "input_ids": torch.where(masked, MASK, words),
                "attention_mask": torch.ones_like(words),
                "labels": torch.where(masked, words, -100),
            }
        )
    batches: Any = [made[step % 4] for step in range(steps)]
    return DataLoader(batches, batch_size=None, pin_memory=pinned)


@dataclass(frozen=True)
class TextWorkload:
    """The networks and batches of one device."""

    device: str
    network: str | dict[str, Any]
    vocabulary: int
    samples: int
    tokens: int
    precision: str

    def build(self, number: int) -> MaskedLanguageModel:
        """Returns a network."""
        return MaskedLanguageModel(
            self.network, self.vocabulary, learning_rate=1e-4, seed=number + 1
        )

    def student(self) -> MaskedLanguageModel:
        """Returns a new student."""
        return self.build(-1)

    def batches(self, steps: int) -> DataLoader[Any]:
        """Returns a loader of ready batches: four of them, again and again."""
        shape, pinned = (self.samples, self.tokens), self.device == "cuda"
        return masked_batches("step_cost", self.vocabulary, shape, steps, pinned)


SMALL = {
    "model_type": "bert",
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}
TEXT_WORKLOADS = {
    "cpu": TextWorkload("cpu", SMALL, 8192, 16, 64, "32-true"),
    "cuda": TextWorkload("cuda", "base", 30522, 64, 128, "bf16-mixed"),
}


def text_loop(
    work: TextWorkload,
    clock: StepClock,
    teacher: MaskedLanguageModel | None,
    temperature: float,
    weight: float,
) -> None:
    """Trains a new student in a loop written by hand: masked rows and losses in chunks, as here."""
    student = work.student().to(work.device)
    network = student.network.train()
    optimizer = student.default_optimizer(student.parameter_groups())
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, clock.total)
    if teacher is not None:
        teacher = teacher.to(work.device).eval().requires_grad_(False)
    mixed = work.precision == "bf16-mixed"
    for batch in work.batches(clock.total):
        given = {name: each.to(work.device, non_blocking=True) for name, each in batch.items()}
        carry_places(batch, given)
        carry_mask(batch, given)
        optimizer.zero_grad()
        with torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext():
            loss = _loss(network, teacher, given, temperature, weight)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        clock.tick()


class Bare(LightningModule):
    """As little as Lightning takes to train the same student, without distillation."""

    def __init__(self, student: MaskedLanguageModel) -> None:
        super().__init__()
        self.student = student

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss, and logs nothing."""
        return _loss(self.student.network, None, batch, 1.0, 0.0)

    def configure_optimizers(self) -> Any:
        """Returns the student's optimizer, and the schedule of the loop."""
        optimizer = self.student.default_optimizer(self.student.parameter_groups())
        total = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _loss(
    network: Any,
    teacher: MaskedLanguageModel | None,
    batch: dict[str, Tensor],
    temperature: float,
    weight: float,
) -> Tensor:
    targets = None
    if teacher is not None:
        with torch.no_grad():
            targets = teacher.network(batch)
    rows = network(batch)
    labels = batch["labels"]
    wanted = labels.flatten().index_select(0, masked_places(labels))
    task = in_chunks(lambda each, wanted: F.cross_entropy(each.float(), wanted), rows, wanted)
    if targets is None:
        return task
    divergence = in_chunks(
        lambda each, theirs: kl_divergence(each, theirs, temperature), rows, targets
    )
    return (1 - weight) * task + weight * divergence
