"""What the loops of all peers are made of: students, batches, optimizers and casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _text_step import TextWorkload
from step_cost import Workload
from torch import Tensor, nn

Work = Workload | TextWorkload
LEARNING_RATE = 1e-4
SGD: dict[str, Any] = {"momentum": 0.875, "weight_decay": 2**-15}
ADAMW: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.02, "fused": True}


def cast(work: Work) -> AbstractContextManager[Any]:
    """Returns what a forward runs under."""
    mixed = work.precision == "bf16-mixed"
    return torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext()


def image_batches(work: Workload, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised images in the layout that convolutions are fastest in, and labels."""
    prepare = work.student().to(work.device).prepare
    for images, labels in work.batches(steps):
        moved = (each.to(work.device, non_blocking=True) for each in (images, labels))
        yield prepare(next(moved)), next(moved)


def text_batches(work: TextWorkload, steps: int) -> Iterator[dict[str, Tensor]]:
    """Yields batches on the device."""
    for batch in work.batches(steps):
        yield {name: each.to(work.device, non_blocking=True) for name, each in batch.items()}


def image_student(work: Workload) -> nn.Module:
    """Returns a new student on the device, as a plain network in training mode."""
    return work.student().network.to(work.device).train()


def text_student(work: TextWorkload) -> nn.Module:
    """Returns a new student on the device: transformers' own network, which gives all logits."""
    network: nn.Module = work.student().network.network
    return network.to(work.device).train()


def image_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Returns what the student is trained with everywhere."""
    return torch.optim.SGD(network.parameters(), LEARNING_RATE, **SGD)


def text_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Returns the same for text."""
    return torch.optim.AdamW(network.parameters(), LEARNING_RATE, **ADAMW)


class Batches:
    """Batches that are made while they are asked for, as many as a loader would say."""

    def __init__(self, make: Callable[[], Iterator[Any]], count: int) -> None:
        self.make = make
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.count


def under_cast(work: Work, network: nn.Module) -> nn.Module:
    """Returns a network each of whose forwards runs under a cast of its own."""
    forward = network.forward

    def cast_forward(*args: Any, **kwargs: Any) -> Any:
        with cast(work):
            return forward(*args, **kwargs)

    network.forward = cast_forward  # type: ignore[method-assign]
    return network
