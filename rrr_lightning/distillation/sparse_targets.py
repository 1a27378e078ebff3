"""Sparse teacher targets: what is kept of a row, in 16 bits.

Three kinds. `dense` keeps all logits. `top_k` keeps the K most probable classes and the mass of all
others together. `sampled` keeps K classes of a random sample, with weights whose expectation is the
teacher's distribution. `sparse_losses` holds students against them.

Suffixes: N rows, C classes, K classes kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_lightning.distillation.losses import KLDivergence, SoftCrossEntropy, in_chunks
from rrr_lightning.errors import InputError, did_you_mean

Kind = Literal["dense", "top_k", "sampled"]
Arrays = dict[str, npt.NDArray[np.generic]]
# Rows x classes that are sampled at once, as float64; elsewhere few copies to the host.
CHUNK_ELEMENTS, CHUNK_ELEMENTS_ELSEWHERE = {"cpu": 2**22}, 2**24
LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Encoding:
    """What is kept of a row.

    Args:
        kind: `dense`, `top_k` or `sampled`.
        columns: The number of classes C.
        kept: The number of classes K kept per row; of no meaning for `dense`.
        temperature: T of the probabilities that are kept; None for raw logits, `dense` only.

    Raises:
        InputError: Unknown kind, or a number of classes that it cannot keep.
    """

    kind: Kind
    columns: int
    kept: int
    temperature: float | None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"unknown{did_you_mean(str(self.kind), get_args(Kind))}",
                key="--kind",
                found=self.kind,
                accepted=", ".join(get_args(Kind)),
            )
        if self.kind != "dense" and not (type(self.kept) is int and 1 <= self.kept < self.columns):
            raise InputError(
                "out of range",
                key="--classes",
                found=self.kept,
                accepted=f"1 to {self.columns - 1}, or --kind dense for all {self.columns}",
            )

    @property
    def bytes_per_row(self) -> int:
        """The size of a row on the disk."""
        number = np.dtype(self._number).itemsize
        if self.kind == "dense":
            return 2 * self.columns + number
        rest = 2 if self.kind == "top_k" else 2 + number
        return self.kept * (number + 2) + rest

    @property
    def widths(self) -> dict[str, int | None]:
        """The arrays that are stored, with their columns; None for one number per row."""
        if self.kind == "dense":
            return {"rows": self.columns, "top": None}
        if self.kind == "top_k":
            return {"classes": self.kept, "log_p": self.kept + 1}
        return {"classes": self.kept, "log_p": self.kept, "top": None, "entropy": None}

    @property
    def softness(self) -> float:
        """The temperature, 1 where there is none."""
        return self.temperature or 1.0

    @property
    def _number(self) -> type[np.unsignedinteger]:
        return np.uint16 if self.columns <= 2**16 else np.uint32

    def encode(self, rows_NC: Tensor, chance_N: Tensor) -> Arrays:
        """Returns what is stored of a teacher's rows."""
        rows_NC = rows_NC.float()
        if self.kind == "dense":
            top_N = self._numbers(rows_NC.argmax(dim=1))
            if self.temperature is not None:  # a softmax does not see it, and halves are finer at 0
                rows_NC = rows_NC - rows_NC.amax(dim=1, keepdim=True)
            else:
                _check_range(rows_NC)
            return {"rows": _half(rows_NC), "top": top_N}
        if self.kind == "top_k":
            log_p_NC = F.log_softmax(rows_NC / self.softness, dim=1)
            log_p_NK, classes_NK = log_p_NC.topk(self.kept, dim=1)
            tail_N1 = log_p_NC.scatter(1, classes_NK, -torch.inf).logsumexp(1, keepdim=True)
            both = torch.cat([log_p_NK, tail_N1], dim=1)
            return {"classes": self._numbers(classes_NK), "log_p": _half(both)}
        elements = CHUNK_ELEMENTS.get(rows_NC.device.type, CHUNK_ELEMENTS_ELSEWHERE)
        size = max(1, elements // self.columns)
        begins = range(0, max(len(rows_NC), 1), size)
        parts = [self._sample(rows_NC[i : i + size], chance_N[i : i + size]) for i in begins]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _sample(self, rows_NC: Tensor, chance_N: Tensor) -> Arrays:
        p_NC = F.softmax(rows_NC.double() / self.softness, dim=1)
        classes_NK, weights_NK = sample_classes(p_NC, self.kept, chance_N.to(p_NC.device))
        return {
            "classes": self._numbers(classes_NK),
            "log_p": _half(weights_NK.log()),
            "top": self._numbers(p_NC.argmax(dim=1)),
            "entropy": _half(torch.special.entr(p_NC).sum(dim=1)),
        }

    def _numbers(self, classes: Tensor) -> npt.NDArray[np.generic]:
        numbers: npt.NDArray[np.generic] = classes.cpu().numpy().astype(self._number)
        return numbers


def sample_classes(p_NC: Tensor, count: int, chance_N: Tensor) -> tuple[Tensor, Tensor]:
    """Draws classes without replacement and weighs them, so that the weights' expectation is p.

    Classes with p of at least a threshold t are always kept, with weight p; each other one is kept
    with probability p / t, with weight t. The threshold is such that exactly `count` are kept; then
    the weights of a row add up to 1. Of all such schemes this one has the least sum of variances.
    All chance of a row is one number: the others are drawn at equal distances along their summed
    probabilities.

    Source: Cohen et al., "Stream sampling for variance-optimal estimation of subset sums", SODA
    2009; sampled targets for distillation, drawn with replacement: arXiv 2503.16870.
    """
    top_NK, order_NK = p_NC.topk(count, dim=1)
    before_NK = F.pad(top_NK.cumsum(1)[:, :-1], (1, 0))  # the mass of the m most probable ones
    places_K = torch.arange(count, device=p_NC.device)
    thresholds_NK = (1 - before_NK).clamp(min=0) / (count - places_K)
    certain_N = (top_NK <= thresholds_NK).long().argmax(1)
    certain_N = torch.where((top_NK <= thresholds_NK).any(1), certain_N, count - 1)
    threshold_N1 = thresholds_NK.gather(1, certain_N[:, None])
    is_certain_NK = places_K < certain_N[:, None]
    others_NC = p_NC.scatter(1, order_NK, torch.where(is_certain_NK, 0.0, top_NK))
    points_NK = (places_K - certain_N[:, None] + chance_N[:, None]) * threshold_N1
    sums_NC = others_NC.cumsum(1)
    # A rounding must not put the last point behind the last class that has a probability.
    points_NK = torch.minimum(points_NK, sums_NC[:, -1:] * (1 - 1e-15))
    drawn_NK = torch.searchsorted(sums_NC, points_NK, right=True).clamp(max=p_NC.shape[1] - 1)
    classes_NK = torch.where(is_certain_NK, order_NK, drawn_NK)
    return classes_NK, torch.where(is_certain_NK, top_NK, threshold_N1)


@dataclass(frozen=True)
class SparseTargets:
    """Targets of N rows as a loss takes them, in float32.

    Args:
        top_N: The teacher's most probable class.
        log_p: Dense: logits [N, C]. Otherwise log-probabilities of the classes kept, and, for
            `top_k`, in a last column that of all others together.
        classes_NK: The classes kept, none for dense.
        entropy_N: The entropy of the teacher for `sampled`, zero otherwise.
    """

    top_N: Tensor
    log_p: Tensor
    classes_NK: Tensor
    entropy_N: Tensor

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> SparseTargets:
        """Returns targets from what was stored, on the CPU."""
        if "rows" in arrays:
            rows_NC = torch.from_numpy(arrays["rows"].astype(np.float32))
            no_classes = torch.zeros(len(rows_NC), 0, dtype=torch.int64)
            argmax_N = torch.from_numpy(arrays["top"].astype(np.int64))
            return cls(argmax_N, rows_NC, no_classes, rows_NC.new_zeros(len(rows_NC)))
        classes_NK = torch.from_numpy(arrays["classes"].astype(np.int64))
        # Rounded to 16 bits, the probabilities no longer add up to 1.
        log_p = F.log_softmax(torch.from_numpy(arrays["log_p"].astype(np.float32)), dim=1)
        if "top" not in arrays:
            return cls(classes_NK[:, 0], log_p, classes_NK, log_p.new_zeros(len(log_p)))
        top_N, entropy_N = arrays["top"].astype(np.int64), arrays["entropy"].astype(np.float32)
        return cls(torch.from_numpy(top_N), log_p, classes_NK, torch.from_numpy(entropy_N))

    def to(self, device: torch.device) -> SparseTargets:
        """Returns the targets on a device, without waiting for it."""
        if device.type == "cpu":
            return self
        return self._each(lambda part: part.pin_memory().to(device, non_blocking=True))

    def detach(self) -> SparseTargets:
        """Returns the targets, which have no graph."""
        return self

    def __len__(self) -> int:
        return len(self.log_p)

    def __getitem__(self, chosen: slice) -> SparseTargets:
        return self._each(lambda part: part[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> SparseTargets:
        parts = (self.top_N, self.log_p, self.classes_NK, self.entropy_N)
        return SparseTargets(*map(change, parts))


def _check_range(rows_NC: Tensor) -> None:
    largest = float(rows_NC.abs().max()) if rows_NC.numel() else 0.0
    if largest > LARGEST:
        raise InputError(
            "the loss needs logits of the teachers as they are, and 16 bits cannot hold them",
            key="distillation.loss",
            found=f"{largest:.6g}",
            accepted=f"logits of at most {LARGEST:,.0f}, or a loss of probabilities, such as "
            "KLDivergence",
        )


def _half(values: Tensor) -> npt.NDArray[np.generic]:
    """Returns numbers in 16 bits.

    Logarithms below the range become its lowest number, whose probability is zero as well: minus
    infinity times a probability of zero would be NaN.
    """
    halves: npt.NDArray[np.generic] = values.clamp(min=-LARGEST).cpu().numpy().astype(np.float16)
    return halves


# ----------------------------------------------------------------------
# Losses of student rows against sparse targets of a teacher.


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
