"""Losses of student rows against sparse targets of a teacher.

`dense`: the ordinary loss. `top_k`: the ordinary loss after all classes that were not kept have
been merged into one, for student and teacher alike; what is left out is the divergence within these
classes. `sampled`: cross-entropy, and its gradient, are unbiased estimates of the ordinary ones.

Suffixes: N rows, C classes, K classes kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.chunks import in_chunks
from rrr_lightning.distillation.losses import KLDivergence, SoftCrossEntropy
from rrr_lightning.distillation.sparse import Encoding, SparseTargets
from rrr_lightning.errors import InputError


def merge_others(rows_NC: Tensor, classes_NK: Tensor, temperature: float) -> Tensor:
    """Returns logits [N, K+1] whose softmax at T is that of the rows, all other classes as one.

    >>> merge_others(torch.tensor([[1.0, 2.0, 2.0]]).log(), torch.tensor([[1]]), 1.0).exp()
    tensor([[2., 3.]])
    """
    rows_NC = rows_NC.float()
    others_NC = rows_NC.scatter(1, classes_NK, -torch.inf)
    others_N1 = temperature * (others_NC / temperature).logsumexp(1, keepdim=True)
    return torch.cat([rows_NC.gather(1, classes_NK), others_N1], dim=1)


def loss_against(loss: nn.Module, encoding: Encoding) -> Callable[[Tensor, SparseTargets], Tensor]:
    """Returns a loss of student rows [N, C] and sparse targets, a mean over rows."""
    _check_loss(loss, encoding)
    if encoding.kind == "dense":
        return lambda student, targets: loss(student, targets.log_p)
    temperature = encoding.softness

    def merged(student: Tensor, targets: SparseTargets) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            rows = merge_others(student, targets.classes_NK, temperature)
            mean: Tensor = loss(rows, targets.log_p * temperature)
            return mean

    with_entropy = isinstance(loss, KLDivergence)

    def sampled(student: Tensor, targets: SparseTargets) -> Tensor:
        return sampled_cross_entropy(student, targets, temperature, with_entropy)

    function = merged if encoding.kind == "top_k" else sampled
    return lambda student, targets: in_chunks(function, student, targets)


def sampled_cross_entropy(
    student: Tensor, targets: SparseTargets, temperature: float, less_entropy: bool
) -> Tensor:
    """Returns T² times the mean cross-entropy with a sample of classes, or the KL divergence."""
    with torch.autocast(student.device.type, enabled=False):
        scaled_NC = student.float() / temperature
        chosen_NK = scaled_NC.gather(1, targets.classes_NK)
        losses_N = scaled_NC.logsumexp(1) - (targets.log_p.exp() * chosen_NK).sum(1)
        if less_entropy:
            losses_N = losses_N - targets.entropy_N
        return losses_N.sum() * (temperature**2 / max(len(student), 1))


def _check_loss(loss: nn.Module, encoding: Encoding) -> None:
    temperature = getattr(loss, "temperature", None)
    if temperature != encoding.temperature:
        raise InputError(
            "the targets were written for another temperature",
            key="distillation.loss.temperature",
            found="none" if temperature is None else temperature,
            accepted="a loss without temperature"
            if encoding.temperature is None
            else str(encoding.temperature),
        )
    if encoding.kind == "dense":
        return
    known = isinstance(loss, KLDivergence | SoftCrossEntropy)
    if not known or (encoding.kind == "sampled" and getattr(loss, "direction", "") == "reverse"):
        raise InputError(
            f"needs more of a row than targets of the kind {encoding.kind} hold",
            key="distillation.loss",
            found=repr(loss),
            accepted="KLDivergence (forward for sampled targets), SoftCrossEntropy, or targets"
            " of all classes (--kind dense)",
        )
