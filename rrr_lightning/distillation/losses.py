"""Distillation losses on rows: the student's logits [N, C] against the teacher's, to one scalar.

A row is one thing that has a target: an image, or a masked token. Every loss is a mean over rows in
float32, whatever the precision of the logits and of the surrounding autocast, so it depends neither
on the length of a sequence nor on padding. The temperature's factor T² keeps the size of the
gradient while T grows. No rows give zero with a gradient graph; NaN and infinity are passed on.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rrr_lightning.errors import InputError, check_types

# ----------------------------------------------------------------------
# A loss over many rows in bounded memory: a chunk of rows at a time, with its gradient at once.


# Rows x classes of a chunk in float32: 4 MiB on a processor, which stay in its cache; 256 MiB
# elsewhere, few enough kernels for a GPU and little memory beside a network with so many classes.
CHUNK_ELEMENTS = {"cpu": 2**20}
CHUNK_ELEMENTS_ELSEWHERE = 2**26

Loss = Callable[[Tensor, Any], Tensor]


def in_chunks(loss: Loss, student: Tensor, targets: Any) -> Tensor:
    """Returns the mean over rows of a loss, in chunks where there are many rows and classes."""
    elements = CHUNK_ELEMENTS.get(student.device.type, CHUNK_ELEMENTS_ELSEWHERE)
    is_trained = torch.is_grad_enabled() and student.requires_grad
    # Less than two chunks are done at once: a second, small one costs a pass and saves nothing.
    if student.numel() < 2 * elements or not is_trained or len(targets) != len(student):
        return loss(student, targets)
    rows = max(1, elements // student.shape[1])
    mean: Tensor = _Chunked.apply(student, targets.detach(), loss, rows)
    return mean


class _Chunked(torch.autograd.Function):
    """The loss, with the gradient of each chunk computed along with it."""

    @staticmethod
    def forward(
        context: Any, student: Tensor, targets: Any, loss: Callable[..., Tensor], rows: int
    ) -> Tensor:
        # Half precision's range is too small for gradients that no scaler has seen yet.
        kept = torch.float32 if student.dtype == torch.float16 else student.dtype
        gradient = torch.empty_like(student, dtype=kept)
        total = student.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(student), rows):
            chunk = student[begin : begin + rows].detach().requires_grad_()
            share = len(chunk) / len(student)
            with torch.enable_grad():
                part = loss(chunk, targets[begin : begin + rows]) * share
            (gradient[begin : begin + rows],) = torch.autograd.grad(part, chunk)
            total += part.detach()
        context.save_for_backward(gradient)
        context.dtype = student.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = context.saved_tensors
        return (gradient * upstream).to(context.dtype), None, None, None


Direction = Literal["forward", "reverse"]
Reduction = Literal["mean", "sum"]
_HOT = 100.0  # the temperature from which a divergence is computed from differences of logits
_HOTTEST = 1e9  # float32 still holds squares of softened logits, and T² in the sums
_FAR = 80.0  # differences of softened logits whose exponentials float32 does not hold


def kl_divergence(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, direction: Direction = "forward"
) -> Tensor:
    """Returns T² times the mean over rows of the Kullback-Leibler divergence, a float32 scalar.

    With p = softmax(teacher / T) and q = softmax(student / T), per row:
    `forward`: KL(p || q) = Σ p (log p - log q); `reverse`: KL(q || p) = Σ q (log q - log p).

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", section 2.

    >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item()
    0.0
    """
    _check_rows((student, teacher), softmax=True)
    with torch.autocast(student.device.type, enabled=False):
        q, p = student.float() / temperature, teacher.float() / temperature
        if direction == "reverse":
            p, q = q, p
        total = _near_uniform_kl(p, q) if temperature >= _HOT else _kl(p, q).sum()
        return total * (temperature**2 / max(len(student), 1))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Returns KL(softmax p || softmax q) by class, [N, C]; 0 log 0 is 0."""
    log_p, log_q = F.log_softmax(p, dim=1), F.log_softmax(q, dim=1)
    ruled_out = log_p == -math.inf
    log_p, log_q = log_p.masked_fill(ruled_out, 0.0), log_q.masked_fill(ruled_out, 0.0)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True)


def _near_uniform_kl(p: Tensor, q: Tensor) -> Tensor:
    """The sum of KL(softmax p || softmax q) where temperatures leave little of the differences.

    Logarithms of nearly equal probabilities would cancel. With u = (q - p) less its mean under
    softmax p, the divergence of a row is log E[e^u], or log(1 + E[e^u - 1 - u]).
    """
    weights = F.softmax(p, dim=1)
    gap = (q - p).masked_fill((p == -math.inf) & (q == -math.inf), 0.0)
    u = gap - (weights * gap).sum(dim=1, keepdim=True)
    is_far = ~(u.abs().amax(dim=1, keepdim=True) < _FAR)  # also where p alone rules a class out
    u = u.masked_fill(is_far, 0.0)
    series = u * u / 2 * (1 + u / 3 * (1 + u / 4 * (1 + u / 5 * (1 + u / 6 * (1 + u / 7)))))
    beyond = torch.where(u.abs() < 0.5, series, torch.expm1(u) - u)
    near = torch.log1p((weights * beyond).sum(dim=1))
    return torch.where(is_far[:, 0], _kl(p, q).sum(dim=1), near).sum()


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns T² times the mean over rows of the cross-entropy with the teacher's probabilities.

    Per row -Σ p log q, which is the forward KL divergence plus the entropy of the teacher: the same
    gradient, but a value that is not zero where student and teacher agree.
    """
    _check_rows((student, teacher), softmax=True)
    with torch.autocast(student.device.type, enabled=False):
        p = F.softmax(teacher.float() / temperature, dim=1)
        log_q = F.log_softmax(student.float() / temperature, dim=1)
        total = -(log_q.masked_fill(p == 0, 0.0) * p).sum()  # 0 log 0 is 0
        return total * (temperature**2 / max(len(student), 1))


def logit_mse(
    student: Tensor, teacher: Tensor, center: bool = False, reduction: Reduction = "mean"
) -> Tensor:
    """Returns the mean over rows of the squared difference of the logits, a float32 scalar."""
    _check_rows((student, teacher))
    if center and student.shape[1] == 1:
        raise InputError(
            "a column less its own mean is zero, so there is nothing to distil",
            key="distillation.loss.center",
            found=center,
            accepted="false for rows of one column",
        )
    with torch.autocast(student.device.type, enabled=False):
        difference = student.float() - teacher.float()
        if center:
            difference = difference - difference.mean(dim=1, keepdim=True)
        divisor = max(len(student), 1) * (student.shape[1] if reduction == "mean" else 1)
        return difference.square().sum() / divisor


def mean_of_probabilities(rows: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Returns logits [N, C] whose softmax at T is the mean of the softmaxes at T of several rows.

    T (logsumexp_i log_softmax(z_i / T) - log k), in float32, for k teachers with logits z_i.

    >>> a, b = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    >>> mean_of_probabilities([a, b]).softmax(dim=1)
    tensor([[0.5000, 0.5000]])
    """
    _check_rows(rows, softmax=True)
    if len(rows) == 1:
        return rows[0].float()
    with torch.autocast(rows[0].device.type, enabled=False):
        log_p = torch.stack([F.log_softmax(z.float() / temperature, dim=1) for z in rows])
        return temperature * (torch.logsumexp(log_p, dim=0) - math.log(len(rows)))


def mean_of_logits(rows: Sequence[Tensor]) -> Tensor:
    """Returns the mean [N, C] of the logits of several teachers, in float32."""
    _check_rows(rows)
    return torch.stack([z.float() for z in rows]).mean(dim=0)


class RowLoss(nn.Module):
    """Marks the losses of this library, so that a configuration can name them by class alone.

    Any other module `(student rows [N, C], teacher rows [N, C]) -> scalar` serves as a loss too.

    Attributes:
        needs_finite: Whether teacher logits of -inf, for classes that are ruled out, give no loss.
    """

    needs_finite = False


class KLDivergence(RowLoss):
    """KL divergence between the softened teacher and student; see `kl_divergence`.

    Args:
        temperature: T > 0.
        direction: `forward` for KL(teacher || student), `reverse` for KL(student || teacher).
    """

    def __init__(self, temperature: float = 4.0, direction: Direction = "forward") -> None:
        super().__init__()
        check_types(KLDivergence.__init__, locals(), "distillation.loss.")
        self.temperature = _check_temperature(temperature)
        self.direction: Direction = direction
        self.needs_finite = direction == "reverse"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of rows [N, C], a float32 scalar."""
        loss = partial(kl_divergence, temperature=self.temperature, direction=self.direction)
        return in_chunks(loss, student, teacher)

    def combine(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the rows of an ensemble: the mean of the softened probabilities, as logits."""
        return mean_of_probabilities(rows, self.temperature)

    def extra_repr(self) -> str:
        """Shows the arguments."""
        return f"temperature={self.temperature}, direction={self.direction!r}"


class SoftCrossEntropy(RowLoss):
    """Cross-entropy with the softened teacher as target; see `soft_cross_entropy`.

    Args:
        temperature: T > 0.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_types(SoftCrossEntropy.__init__, locals(), "distillation.loss.")
        self.temperature = _check_temperature(temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of rows [N, C], a float32 scalar."""
        return in_chunks(
            partial(soft_cross_entropy, temperature=self.temperature), student, teacher
        )

    def combine(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the rows of an ensemble: the mean of the softened probabilities, as logits."""
        return mean_of_probabilities(rows, self.temperature)

    def extra_repr(self) -> str:
        """Shows the arguments."""
        return f"temperature={self.temperature}"


class LogitMSE(RowLoss):
    """Mean squared error of the logits; see `logit_mse`.

    Args:
        center: Subtract each row's mean first.
        reduction: Over the classes of a row, `mean` or `sum`.
    """

    needs_finite = True

    def __init__(self, center: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_types(LogitMSE.__init__, locals(), "distillation.loss.")
        self.center = center
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of rows [N, C], a float32 scalar."""
        loss = partial(logit_mse, center=self.center, reduction=self.reduction)
        return in_chunks(loss, student, teacher)

    def combine(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the rows of an ensemble: the mean of the logits."""
        return mean_of_logits(rows)

    def extra_repr(self) -> str:
        """Shows the arguments."""
        return f"center={self.center}, reduction={self.reduction!r}"


def _check_temperature(value: float) -> float:
    """Returns the value if it is a temperature."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= _HOTTEST:
        raise InputError(
            "not a temperature",
            key="distillation.loss.temperature",
            found=value,
            accepted=f"a finite number above 0, up to {_HOTTEST:g}",
        )
    return value


def _check_rows(rows: Sequence[Tensor], softmax: bool = False) -> None:
    """Refuses rows that are not all float [N, C] of one shape: nothing is broadcast."""
    shapes = [list(row.shape) for row in rows]
    floating = all(row.is_floating_point() for row in rows)
    if not rows or not floating or len(shapes[0]) != 2 or any(s != shapes[0] for s in shapes):
        raise InputError(
            "rows of student and teachers do not match",
            found=[f"{row.dtype} {shape}" for row, shape in zip(rows, shapes, strict=True)],
            accepted="floating-point logits [rows, classes] of one shape",
        )
    if softmax and shapes[0][1] == 1:
        raise InputError(
            "a softmax over one class is always 1, so there is nothing to distil",
            key="distillation.loss",
            found=shapes[0],
            accepted="two classes or more, or LogitMSE",
        )
