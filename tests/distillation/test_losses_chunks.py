from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rrr_lightning.distillation import losses
from rrr_lightning.distillation.losses import KLDivergence, LogitMSE, SoftCrossEntropy, in_chunks

LOSSES: list[Any] = [
    KLDivergence(4.0),
    KLDivergence(2.0, "reverse"),
    SoftCrossEntropy(2.0),
    LogitMSE(center=True),
    LogitMSE(reduction="sum"),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 3 * 7)


def rows(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    student, teacher = (torch.randn(count, 7, generator=generator).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def loss_and_gradient(loss: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student.grad = None
    value = 3 * loss(student, teacher)
    value.backward()
    assert student.grad is not None
    return value.detach(), student.grad


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("count", [1, 4, 9, 11])
def test_value_and_gradient_are_the_plain_ones(
    loss: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = rows(count)
    value, gradient = loss_and_gradient(loss, student, teacher)
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 10**9)
    expected_value, expected_gradient = loss_and_gradient(loss, student, teacher)
    torch.testing.assert_close(value, expected_value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_loses_a_rounding_at_most(dtype: torch.dtype) -> None:
    student, teacher = rows(11, dtype)
    value, gradient = loss_and_gradient(KLDivergence(4.0), student, teacher)
    wide = student.detach().float().requires_grad_()
    expected_value, expected_gradient = loss_and_gradient(KLDivergence(4.0), wide, teacher.float())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=1e-2, atol=1e-5)


def test_targets_may_be_classes() -> None:
    student, teacher = rows(10)
    classes = teacher.argmax(dim=1)
    value, gradient = loss_and_gradient(
        lambda *given: in_chunks(F.cross_entropy, *given), student, classes
    )
    expected_value, expected_gradient = loss_and_gradient(F.cross_entropy, student, classes)
    torch.testing.assert_close((value, gradient), (expected_value, expected_gradient))


def test_no_chunk_is_larger_than_told_and_none_is_made_for_few_rows() -> None:
    seen: list[int] = []

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append(len(student))
        return F.mse_loss(student, teacher)

    in_chunks(loss, *rows(8))
    assert seen == [3, 3, 2]
    in_chunks(loss, *rows(3))
    assert seen[3:] == [3]
    with torch.no_grad():
        in_chunks(loss, *rows(8))
    assert seen[4:] == [8]


def test_rows_without_a_partner_are_left_to_the_loss_to_refuse() -> None:
    student, teacher = rows(8)
    with pytest.raises(ValueError, match="do not match"):
        KLDivergence()(student, torch.cat([teacher, teacher]))


def test_a_second_derivative_is_refused() -> None:
    student, teacher = rows(8)
    (gradient,) = torch.autograd.grad(KLDivergence()(student, teacher), student, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
