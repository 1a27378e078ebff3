"""Sparse targets: what they leave out is exactly what their kind says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rrr_lightning.distillation import losses
from rrr_lightning.distillation.losses import KLDivergence, LogitMSE, SoftCrossEntropy
from rrr_lightning.distillation.sparse_targets import (
    Encoding,
    SparseTargets,
    loss_against,
    merge_others,
)
from rrr_lightning.errors import InputError

ROWS, CLASSES = 24, 40
# Halves have 11 bits: a logit of 16 is off by 0.008 at most, a log-probability of 8 by 0.004.
HALF: dict[str, Any] = {"rtol": 4e-3, "atol": 1e-3}
TEMPERED: list[Any] = [
    KLDivergence(1.0),
    KLDivergence(4.0),
    KLDivergence(2.0, "reverse"),
    SoftCrossEntropy(2.0),
]


def rows(seed: int, count: int = ROWS, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(seed))


def chance(seed: int, count: int = ROWS) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept(encoding: Encoding, teacher: Tensor, seed: int = 0) -> SparseTargets:
    return SparseTargets.of(encoding.encode(teacher, chance(seed, len(teacher))))


def gradient(loss: Any, student: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, targets)
    (slope,) = torch.autograd.grad(value, student)
    return value.detach(), slope


# ------------------------------------------------------------------------------ all classes


@pytest.mark.parametrize("loss", [*TEMPERED, LogitMSE(), LogitMSE(center=True)], ids=repr)
def test_dense_targets_give_the_loss_of_the_rows(loss: Any) -> None:
    student, teacher = rows(1), rows(2)
    encoding = Encoding("dense", CLASSES, 0, getattr(loss, "temperature", None))
    value, slope = gradient(loss_against(loss, encoding), student, kept(encoding, teacher))
    expected, expected_slope = gradient(loss, student, teacher)
    torch.testing.assert_close(value, expected, **HALF)
    torch.testing.assert_close(slope, expected_slope, **HALF)


# ------------------------------------------------------------------------------ top k


def merged_by_hand(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    p = F.softmax(logits / temperature, dim=1)
    inside = p.gather(1, classes)
    return torch.cat([inside, p.scatter(1, classes, 0).sum(1, keepdim=True)], dim=1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_merged_logits_are_those_of_the_merged_classes(temperature: float) -> None:
    student, classes = rows(1), rows(2).topk(5, dim=1).indices
    merged = F.softmax(merge_others(student, classes, temperature) / temperature, dim=1)
    torch.testing.assert_close(merged, merged_by_hand(student, classes, temperature))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_top_k_leaves_out_the_divergence_within_the_others(temperature: float) -> None:
    """KL of all classes = KL of the merged ones + mass of the others * KL within them."""
    loss, encoding = KLDivergence(temperature), Encoding("top_k", CLASSES, 5, temperature)
    student, teacher = rows(1), rows(2)
    value = loss_against(loss, encoding)(student, kept(encoding, teacher))
    others = teacher.topk(CLASSES - 5, dim=1, largest=False).indices
    p, q = (F.softmax(each / temperature, dim=1).gather(1, others) for each in (teacher, student))
    mass = p.sum(1)
    within = (p / p.sum(1, keepdim=True)).log() - (q / q.sum(1, keepdim=True)).log()
    left_out = temperature**2 * (p * within).sum(1)
    assert (mass > 0.01).any()
    torch.testing.assert_close(value + left_out.mean(), loss(student, teacher), **HALF)


@pytest.mark.parametrize("loss", TEMPERED, ids=repr)
def test_top_k_of_all_but_one_class_is_the_dense_loss(loss: Any) -> None:
    encoding = Encoding("top_k", CLASSES, CLASSES - 1, loss.temperature)
    student, teacher = rows(1), rows(2)
    value, slope = gradient(loss_against(loss, encoding), student, kept(encoding, teacher))
    expected, expected_slope = gradient(loss, student, teacher)
    torch.testing.assert_close(value, expected, **HALF)
    torch.testing.assert_close(slope, expected_slope, **HALF)


def test_a_student_like_the_teacher_has_no_loss_and_no_gradient() -> None:
    encoding = Encoding("top_k", CLASSES, 4, 2.0)
    teacher = rows(2)
    value, slope = gradient(
        loss_against(KLDivergence(2.0), encoding), teacher, kept(encoding, teacher)
    )
    assert value < 1e-5
    assert slope.abs().max() < 1e-3 / ROWS


def test_very_sure_networks_give_finite_gradients() -> None:
    encoding = Encoding("top_k", CLASSES, 4, 1.0)
    student, teacher = 60 * rows(1), 60 * rows(2)
    for loss in (KLDivergence(1.0), KLDivergence(1.0, "reverse")):
        value, slope = gradient(loss_against(loss, encoding), student, kept(encoding, teacher))
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()


# ------------------------------------------------------------------------------ masked classes


def masked(logits: Tensor) -> Tensor:
    """Logits of 10 of the classes; the others are shut out, as by a large negative number."""
    return logits.masked_fill(torch.arange(CLASSES) % 4 > 0, -1e9)


# The reverse divergence of a class that only the teacher shuts out is as large as the number that
# does so, and needs more of a row than samples.
MASKED = [
    (kind, loss, alike)
    for kind in ("dense", "top_k", "sampled")
    for loss in TEMPERED
    for alike in (False, True)
    if getattr(loss, "direction", "") != "reverse" or (alike and kind != "sampled")
]


@pytest.mark.parametrize(("kind", "loss", "alike"), MASKED, ids=repr)
def test_classes_that_the_teacher_shuts_out_count_as_in_its_rows(
    kind: Any, loss: Any, alike: bool
) -> None:
    encoding = Encoding(kind, CLASSES, 12, loss.temperature)
    student, teacher = masked(rows(1)) if alike else rows(1), masked(rows(2))
    value, slope = gradient(loss_against(loss, encoding), student, kept(encoding, teacher))
    expected, expected_slope = gradient(loss, student, teacher)
    assert torch.isfinite(expected)
    torch.testing.assert_close(value, expected, **HALF)
    torch.testing.assert_close(slope, expected_slope, **HALF)


# ------------------------------------------------------------------------------ samples


@pytest.mark.parametrize("loss", [KLDivergence(2.0), SoftCrossEntropy(2.0)], ids=repr)
def test_sampled_loss_and_gradient_are_unbiased(loss: Any) -> None:
    """The mean over evenly spaced chances is the expectation, up to the grid and the halves."""
    encoding, draws = Encoding("sampled", CLASSES, 6, 2.0), 2000
    student, teacher = rows(1, 4), rows(2, 4)
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    drawn = encoding.encode(teacher.repeat(draws, 1), grid.repeat_interleave(4))
    value, slope = gradient(
        loss_against(loss, encoding), student.repeat(draws, 1), SparseTargets.of(drawn)
    )
    expected, expected_slope = gradient(loss, student, teacher)
    one = gradient(loss_against(loss, encoding), student, kept(encoding, teacher))
    torch.testing.assert_close(value, expected, rtol=3e-3, atol=0)
    error = (slope.view(draws, 4, -1).sum(0) - expected_slope).abs().max()
    assert error < 3e-3 * expected_slope.abs().max()
    assert (one[1] - expected_slope).abs().max() > 10 * error  # what a single sample is off by


# ------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
def test_chunks_change_nothing(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = Encoding(kind, CLASSES, 6, 2.0)
    loss, targets = KLDivergence(2.0), kept(encoding, rows(2))
    whole = gradient(loss_against(loss, encoding), rows(1), targets)
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 5 * CLASSES)
    split = gradient(loss_against(loss, encoding), rows(1), targets)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
def test_no_rows_give_zero_with_a_graph(kind: Any) -> None:
    encoding = Encoding(kind, CLASSES, 6, 2.0)
    targets = kept(encoding, rows(2, 0))
    value, slope = gradient(loss_against(KLDivergence(2.0), encoding), rows(1, 0), targets)
    assert value == 0
    assert slope.shape == (0, CLASSES)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("top_k", LogitMSE()),
        ("sampled", LogitMSE()),
        ("sampled", KLDivergence(2.0, "reverse")),
        ("top_k", torch.nn.MSELoss()),
    ],
)
def test_losses_that_need_all_classes_are_refused(kind: Any, loss: Any) -> None:
    encoding = Encoding(kind, CLASSES, 6, getattr(loss, "temperature", None))
    with pytest.raises(InputError, match=r"distillation\.loss: needs more .*--kind dense"):
        loss_against(loss, encoding)


@pytest.mark.parametrize("loss", [KLDivergence(4.0), LogitMSE()])
def test_another_temperature_is_refused(loss: Any) -> None:
    with pytest.raises(InputError, match=r"loss\.temperature: .*another temp.*accepted: 2\.0"):
        loss_against(loss, Encoding("dense", CLASSES, 0, 2.0))
