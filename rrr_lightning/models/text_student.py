"""What text students share: AdamW, warm-up for 6 % of the steps, linear decay, and ready masks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import AdamW, Optimizer

from rrr_lightning.errors import check
from rrr_lightning.models.masked_rows import carry_mask
from rrr_lightning.models.optimization import can_fuse, hook_of_others
from rrr_lightning.models.student import StudentModule

WARMUP_FRACTION = 0.06


class TextStudent(StudentModule):
    """A student that reads texts, trained by AdamW.

    Args:
        learning_rate: The peak learning rate.
        betas: The decay rates of AdamW's moments.
        epsilon: What AdamW adds to the denominator.
        weight_decay: The decay of AdamW, coupled with the learning rate.
        decay_vectors: Decay biases and norms too.
        warmup_steps: Optimizer steps of linear warm-up from 0.
        warmup_fraction: The same as a fraction of all steps; both None for 0.06.
        optimizer: A factory that replaces AdamW.
        lr_scheduler: A factory that replaces the schedule.
        seed: The key of all randomness; None for the global seed.
    """

    optimizer_values = ("learning_rate", "weight_decay", "betas", "epsilon", "decay_vectors")
    final_factor: ClassVar[float] = 0.0

    def __init__(
        self,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        decay_vectors: bool,
        warmup_steps: int | None,
        warmup_fraction: float | None,
        optimizer: OptimizerCallable | None,
        lr_scheduler: LRSchedulerCallable | None,
        seed: int | None,
    ) -> None:
        if warmup_steps is None and warmup_fraction is None:
            warmup_fraction = WARMUP_FRACTION
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            warmup_fraction=warmup_fraction,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            seed=seed,
        )
        good = all(0 <= beta < 1 for beta in betas)
        check(good, "model.betas", betas, "two numbers in [0, 1)")
        check(epsilon >= 0, "model.epsilon", epsilon, "0 or more")
        self.betas = betas[0], betas[1]
        self.epsilon = epsilon
        self.decay_vectors = decay_vectors

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        # What the host can see of a batch is looked for here, so that no step waits for a GPU to.
        moved = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        data = getattr(self._trainer, "datamodule", None)
        if hook_of_others(self) is None and (data is None or hook_of_others(data) is None):
            self.note_batch(batch, moved)
        return moved

    def note_batch(self, before: Any, after: Any) -> None:
        """Notes what the host sees in a batch: whether anything is padding."""
        carry_mask(before, after)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns all parameters in one group, or biases and norms in a second without decay."""
        if self.decay_vectors:
            return super().parameter_groups()
        trained = [each for each in self.parameters() if each.requires_grad]
        return [
            {"params": [each for each in trained if each.ndim > 1]},
            {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
        ]

    def default_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Returns AdamW."""
        return AdamW(
            groups,
            lr=self.learning_rate,
            betas=self.betas,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            fused=can_fuse(self),
        )

    def decay(self, progress: float) -> float:
        """Returns the factor of the learning rate after warm-up: linear to `final_factor`."""
        return 1.0 - (1.0 - self.final_factor) * progress
