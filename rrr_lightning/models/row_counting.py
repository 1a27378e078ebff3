"""Right gradients where micro-batches and ranks have unequal numbers of rows.

An optimizer step should follow the mean loss over all of its rows. Lightning averages over
micro-batches and ranks, and a mean of means gives a row in a small micro-batch more weight than a
row in a large one: with masked tokens that error is a third of the gradient in small cases. So
every micro-batch contributes its sum over rows divided by a constant, which does not depend on
where the rows lie, and the gradients are put to scale once per optimizer step:

    sum over rows / E   --(Lightning: / A micro-batches, / W ranks)-->   * E * A * W / (all rows)

The step is then that of one big batch, also where the loss is mixed with a distillation loss that
went through `row_factor`. Where one micro-batch of one rank is the whole step, its mean is what it
contributes, and nothing has to be put to scale.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from rrr_lightning.errors import InputError

# E. Any constant gives the same step; this one keeps losses near their means for micro-batches of
# usual size, and being a power of two it changes no bit of a gradient.
EXPECTED_ROWS = 1024.0


class RowCounting(LightningModule):
    """Mix-in for a LightningModule whose batches hold varying numbers of rows.

    The training step returns `self.contribution(sum over rows, number of rows)`. The gradients are
    put to scale in `on_before_optimizer_step`, after half-precision gradients were unscaled and
    before any are clipped; a callback of that name, which runs earlier, sees them unscaled.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted_rows = 0
        self._counted_step = 0

    def contribution(self, total: Tensor, count: int) -> Tensor:
        """Returns what a micro-batch adds to the loss of its optimizer step, and notes its rows."""
        if self._trainer is not None and self.trainer.training:
            step = self.trainer.global_step
            if self._counted_rows and step != self._counted_step:
                raise InputError(
                    f"{type(self).__name__}.on_before_optimizer_step does not call super()",
                    accepted="a call of super().on_before_optimizer_step(optimizer)",
                )
            self._counted_rows += count
            self._counted_step = step
        return total * (self.row_factor(count) / max(count, 1))

    def row_factor(self, count: int) -> float:
        """Returns what a mean over `count` rows is multiplied by to be such a contribution."""
        return float(count > 0) if self._parts == 1 else count / EXPECTED_ROWS

    def on_train_start(self) -> None:
        """Starts to count; refuses strategies that accumulate gradients by themselves."""
        super().on_train_start()
        self._counted_rows = 0
        if self.trainer.strategy.handles_gradient_accumulation:
            raise InputError(
                "a strategy that accumulates gradients by itself cannot weigh rows equally",
                key="trainer.strategy",
                found=type(self.trainer.strategy).__name__,
                accepted="a single device, ddp or fsdp",
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Makes the gradients those of the mean over all rows of the step."""
        super().on_before_optimizer_step(optimizer)
        if self._parts == 1:
            self._counted_rows = 0
            return
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        rows = self._rows_of_all_ranks()
        self._counted_rows = 0
        torch._foreach_mul_(gradients, EXPECTED_ROWS * self._parts / rows)

    @property
    def _parts(self) -> int:
        """How many micro-batches of all ranks make a full step; 0 without a trainer."""
        if self._trainer is None:
            return 0
        parts: int = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return parts

    def _rows_of_all_ranks(self) -> Tensor:
        """At least 1: a step without any row has no gradient to put to scale."""
        rows = torch.full((), float(self._counted_rows), device=self.device)
        if self.trainer.world_size > 1:
            rows = self.trainer.strategy.reduce(rows, reduce_op="sum")
        return rows.clamp(min=1.0)
