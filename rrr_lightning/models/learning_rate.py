"""The learning rate over a run: linear warm-up, then a decay to the end, in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from rrr_lightning.errors import InputError, check


def cosine(progress: float) -> float:
    """Returns the factor of a cosine decay: 1 at progress 0, 0 at progress 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def learning_rate_factor(
    step: int, warmup_steps: int, total_steps: int, decay: Callable[[float], float] = cosine
) -> float:
    """Returns what the learning rate is multiplied by at an optimizer step.

    Linear from 0 over `warmup_steps`, then `decay` of the progress made since.

    >>> [learning_rate_factor(step, 2, 4) for step in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return step / warmup_steps
    return decay(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def check_schedule(
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int | None,
    warmup_fraction: float | None,
) -> None:
    """Refuses optimizer and schedule arguments that no run can use.

    Raises:
        InputError: A number out of range, or both ways to say how long the warm-up is.
    """
    for name, value in {"learning_rate": learning_rate, "weight_decay": weight_decay}.items():
        # From 2**127 on, products of float32 overflow.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        check(is_number and 0 <= value < 2.0**127, name, value, "a number in [0, 2**127)")
    if warmup_steps is not None and warmup_fraction is not None:
        raise InputError(
            "given twice",
            key="warmup_steps",
            found=f"warmup_steps {warmup_steps} and warmup_fraction {warmup_fraction}",
            accepted="one of warmup_steps and warmup_fraction",
        )
    if warmup_steps is not None and warmup_steps < 0:
        raise InputError(
            "out of range", key="warmup_steps", found=warmup_steps, accepted="0 or more"
        )
    if warmup_fraction is not None and not 0 <= warmup_fraction < 1:
        raise InputError(
            "out of range",
            key="warmup_fraction",
            found=warmup_fraction,
            accepted="a number in [0, 1)",
        )
