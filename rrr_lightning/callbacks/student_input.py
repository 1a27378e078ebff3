"""What the teachers see of a batch: what the student's network was called with.

A training step may change its batch before the network gets it: mix-up, CutMix, augmentation on the
device, a permutation, a crop, another dtype. The teachers have to see the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.errors import InputError

KEY = "distillation.teacher_inputs"
_TARGETS = ("labels", "label")


class StudentInput:
    """From a call of the student's network to the batch that the teachers get.

    Args:
        teachers: The teachers of the run; none with stored targets.
        knows_statistics: Whether the statistics of the student's images are known.

    Attributes:
        is_known: False once the call turned out not to be that of the whole network, for example of
            a head that was called with features. Then the teachers get the batch as it came.
    """

    def __init__(self, teachers: Sequence[Teacher], knows_statistics: bool) -> None:
        normalized = any(teacher.schema.normalization is not None for teacher in teachers)
        self._needs_pixels = normalized and not knows_statistics
        self.is_known = True
        self._is_tried = False

    def __call__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Any
    ) -> Any:
        """Returns the batch with what the network was called with, or `batch` itself."""
        if not self.is_known:
            return batch
        seen = as_batch(network, args, kwargs, batch)
        if seen is batch:
            return batch
        features = any(tensor.requires_grad for tensor in _tensors(seen))
        if features or next(network.parameters(), None) is None:
            self.is_known = False  # no network, or one that gets what another computed
            return batch
        own, given = _input(batch), _input(seen)
        if isinstance(own, Tensor) and isinstance(given, Tensor):
            if own.ndim != given.ndim:  # flattened, for example
                refuse_changed(seen, batch)
                self.is_known = False
                return batch
            if self._needs_pixels and own.dtype == torch.uint8 and given.dtype != torch.uint8:
                raise InputError(
                    "training_step turns 8-bit images into the network's input itself, and the "
                    "teacher has image statistics of its own",
                    key=KEY,
                    found=str(given.dtype),
                    accepted="a function from the batch to the teacher's input, for example "
                    "`lambda batch: batch[0]` where the step only normalises; or images normalised "
                    "before training_step",
                )
        if not self._is_tried:  # once, as it waits for the device
            self._is_tried = True
            if "labels" not in _arguments(network, args, kwargs):
                _check_masked_words(seen, batch)
        return seen


def as_batch(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Any
) -> Any:
    """Returns what a network was called with in the form of its batch."""
    tensors = _arguments(network, args, kwargs)
    if isinstance(batch, Mapping):
        own = [value for value in batch.values() if isinstance(value, Tensor)]
        kept = [any(_same(value, other) for other in own) for value in tensors.values()]
        if all(kept):
            return batch
        if len(tensors) == 1 and not any(name in batch for name in tensors):
            return next(iter(tensors.values()))
        if "labels" in batch and (any(kept) or _labels_words(batch)):
            return {"labels": batch["labels"], **tensors}
        return tensors
    if len(tensors) != 1:
        return tensors or batch
    (tensor,) = tensors.values()
    if isinstance(batch, tuple | list) and batch:
        return batch if _same(tensor, batch[0]) else (tensor, *batch[1:])
    return batch if _same(tensor, batch) else tensor


def refuse_changed(seen: Any, batch: Any, key: str = KEY) -> None:
    """Refuses an input of the student's network that does not hold the values of the batch."""
    if seen is batch:
        return
    own = [value for value in _tensors(batch) if value.numel()]
    for tensor in _tensors(seen):
        if not any(_equal(tensor, other) for other in own):
            raise InputError(
                "training_step changes the batch before the student's network gets it (mix-up, "
                "augmentation, a permutation, a crop), and a teacher would see it unchanged",
                key=key,
                found=f"{tuple(tensor.shape)} {tensor.dtype}",
                accepted="distillation.student_logits with the name of the network, whose input "
                "the teachers then get; a function from the batch to the teacher's input in "
                "distillation.teacher_inputs; or batches changed before training_step",
            )


def _check_masked_words(seen: Any, batch: Any) -> None:
    """Refuses the batch's labels of words where the network was called with other words."""
    if not isinstance(batch, Mapping) or not isinstance(seen, Mapping) or not _labels_words(batch):
        return
    own, given = (_tensors(each) for each in (batch, seen))
    words = [value for value in given if not value.is_floating_point()]
    if len(words) == len(given) and any(_equal(words[0], other) for other in own):
        return
    raise InputError(
        "training_step changes the texts before the student's network gets them, so that nothing "
        "says which tokens are masked",
        key=KEY,
        found=", ".join(f"{name} {tuple(seen[name].shape)}" for name in seen if name != "labels"),
        accepted="a network that is called with its labels as well; texts changed before "
        "training_step; or, where the labels are still those of the batch, a function from the "
        "batch to the teacher's input",
    )


def _labels_words(batch: Mapping[str, Any]) -> bool:
    """Whether a batch has a label for each of its words."""
    labels = batch.get("labels")
    return isinstance(labels, Tensor) and any(v.shape == labels.shape for v in _tensors(batch))


def _arguments(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The tensors of a call, by the names of the network's arguments."""
    if len(args) == 1 and isinstance(args[0], Mapping):
        named: Mapping[str, Any] = {**args[0], **kwargs}
    else:
        try:
            bound = inspect.signature(network.forward).bind(*args, **kwargs)
            named = {}
            for name, value in bound.arguments.items():
                kind = bound.signature.parameters[name].kind
                if kind is inspect.Parameter.VAR_KEYWORD:
                    named = {**named, **value}
                elif kind is inspect.Parameter.VAR_POSITIONAL:
                    named = {**named, **{f"{name}{n}": each for n, each in enumerate(value)}}
                else:
                    named = {**named, name: value}
        except (TypeError, ValueError):  # no signature, such as that of a script module
            named = {**{f"input{n}": each for n, each in enumerate(args)}, **kwargs}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Mapping):
        return [v for k, v in batch.items() if k not in _TARGETS and isinstance(v, Tensor)]
    found = _input(batch)
    return [found] if isinstance(found, Tensor) else []


def _input(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _same(one: Tensor, other: Any) -> bool:
    """Whether two are one tensor; looks at no value, which would wait for the device."""
    if one is other:
        return True
    return (
        isinstance(other, Tensor)
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and type(one) is type(other)
        and one.data_ptr() == other.data_ptr()
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two hold the same values in the same order, in whatever shape and dtype."""
    if one.numel() != other.numel():
        return False
    one, other = one.detach().flatten(), other.detach().flatten()
    return torch.equal(one, other.to(one.dtype))
