"""A loss over many rows in bounded memory: a chunk of rows at a time, with its gradient at once.

The softmaxes of N rows over C classes take several float32 tensors [N, C], which a backward pass
keeps alive: gigabytes for a vocabulary. Here each chunk's gradient is computed right after its loss
and kept in the precision of the student's rows; everything else of the chunk is let go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
