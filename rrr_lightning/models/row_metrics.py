"""Means over all rows of an evaluation, however they are spread over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMean(Metric):
    """The mean of a value over rows.

    Args:
        exponential: Return its exponential: the perplexity, where the value is a loss.
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, exponential: bool = False) -> None:
        super().__init__()
        self.exponential = exponential
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, total: Tensor, rows: int) -> None:
        """Adds the sum of the value over a number of rows."""
        self.total += total
        self.rows += rows

    def compute(self) -> Tensor:
        """Returns the mean, NaN over no rows at all."""
        mean = self.total / self.rows
        return mean.exp() if self.exponential else mean
