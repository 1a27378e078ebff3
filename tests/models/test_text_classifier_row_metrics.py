from __future__ import annotations

import math

import pytest
import torch

from rrr_lightning.models.text_classifier import RowMean


def test_every_row_counts_once() -> None:
    mean, perplexity = RowMean(), RowMean(exponential=True)
    for metric in (mean, perplexity):
        metric.update(torch.tensor(2.0), 1)
        metric.update(torch.tensor(0.0), 0)
        metric.update(torch.tensor(4.0), 3)
    assert mean.compute() == 1.5
    assert perplexity.compute() == pytest.approx(math.exp(1.5))


def test_what_is_not_finite_is_not_hidden() -> None:
    metric = RowMean()
    metric.update(torch.tensor(math.nan), 1)
    assert metric.compute().isnan()
