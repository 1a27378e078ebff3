"""What is kept of a row: the samples' weights are right on average, and sizes are as told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rrr_lightning.distillation import sparse_targets
from rrr_lightning.distillation.sparse_targets import Encoding, SparseTargets, sample_classes
from rrr_lightning.errors import InputError

ROWS, CLASSES = 24, 40


def rows(seed: int, count: int = ROWS, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed))


def chance(seed: int, count: int = ROWS) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept(encoding: Encoding, teacher: Tensor, seed: int = 0) -> SparseTargets:
    return SparseTargets.of(encoding.encode(teacher, chance(seed, len(teacher))))


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
def test_the_top_class_is_kept(kind: Any) -> None:
    teacher = rows(2)
    targets = kept(Encoding(kind, CLASSES, 3, 1.0), teacher)
    assert torch.equal(targets.top_N, teacher.argmax(1))


def probabilities() -> Tensor:
    """Rows from nearly certain to uniform."""
    scales = torch.logspace(1.2, -2, ROWS).unsqueeze(1)
    return F.softmax((rows(3, scale=1.0) * scales).double(), dim=1)


def test_weights_are_a_distribution_over_different_classes() -> None:
    classes, weights = sample_classes(probabilities(), 12, chance(1))
    torch.testing.assert_close(weights.sum(1), torch.ones(ROWS, dtype=torch.float64))
    for row, weight in zip(classes, weights, strict=True):
        used = row[weight > 1e-12]
        assert len(set(used.tolist())) == len(used)


def test_the_expectation_of_the_weights_is_the_distribution() -> None:
    """Exact up to the grid: the mean over evenly spaced chances is an integral over chance."""
    p, draws = probabilities(), 400
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    classes, weights = sample_classes(p.repeat(draws, 1), 6, grid.repeat_interleave(ROWS))
    index = classes.view(draws, ROWS, -1).transpose(0, 1).flatten(1)
    values = weights.view(draws, ROWS, -1).transpose(0, 1).flatten(1)
    mean = torch.zeros_like(p).scatter_add_(1, index, values) / draws
    # Each class is off by at most two steps of the grid, which weigh less than 1/6 each.
    torch.testing.assert_close(mean, p, rtol=0, atol=2 / draws / 6)


def test_samples_of_a_flat_row_stand_for_all_of_it() -> None:
    p = probabilities()[-1:]  # nearly uniform
    _, weights = sample_classes(p, 6, chance(1, 1))
    assert p.topk(6).values.sum() < 0.3
    assert weights.sum() == pytest.approx(1)
    assert weights.max() < 2 / 6


def test_certain_rows_keep_their_class_alone() -> None:
    p = torch.zeros(1, CLASSES, dtype=torch.float64)
    p[0, 7] = 1
    classes, weights = sample_classes(p, 4, chance(1, 1))
    assert classes[0, 0] == 7
    assert weights.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["top_k", "sampled"])
def test_chunks_of_rows_change_nothing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = Encoding(kind, CLASSES, 6, 2.0)
    whole = encoding.encode(rows(2), chance(1))
    monkeypatch.setitem(sparse_targets.CHUNK_ELEMENTS, "cpu", 5 * CLASSES)
    split = encoding.encode(rows(2), chance(1))
    assert all((whole[name] == split[name]).all() for name in whole)


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
@pytest.mark.parametrize("columns", [CLASSES, 2**16 + 1])
def test_bytes_per_row_are_what_is_stored(kind: Any, columns: int) -> None:
    encoding = Encoding(kind, columns, 6, 2.0)
    arrays = encoding.encode(torch.randn(3, columns), chance(0, 3))
    assert sum(array.nbytes for array in arrays.values()) == 3 * encoding.bytes_per_row


@pytest.mark.parametrize(("kind", "count"), [("top_k", 0), ("top_k", CLASSES), ("topk", 3)])
def test_bad_encodings_are_refused(kind: Any, count: int) -> None:
    with pytest.raises(InputError, match=r"^--(kind|classes): "):
        Encoding(kind, CLASSES, count, 1.0)


@pytest.mark.parametrize("logit", [65_504.0, 65_505.0, -1e9])
def test_raw_logits_that_16_bits_cannot_hold_are_refused(logit: float) -> None:
    teacher = rows(2)
    teacher[3, 5] = logit
    raw = Encoding("dense", CLASSES, 0, None)
    if logit == 65_504:
        assert kept(raw, teacher).log_p[3, 5] == logit
        return
    with pytest.raises(InputError, match=r"^distillation\.loss: .*16 bits.*of at most 65,504, or"):
        raw.encode(teacher, chance(0))


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
def test_what_is_kept_of_a_shut_out_class_is_finite(kind: Any) -> None:
    teacher = rows(2)
    teacher[:, 2:] = -1e9
    arrays = Encoding(kind, CLASSES, 6, 2.0).encode(teacher, chance(0))
    assert all(np.isfinite(array).all() for array in arrays.values())
