"""The learning rate over a run: linear warm-up, then a decay to the end, in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from rrr_lightning.errors import check


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
    """Refuses optimizer and schedule arguments that no run can use."""
    for name, value in {"learning_rate": learning_rate, "weight_decay": weight_decay}.items():
        # From 2**127 on, products of float32 overflow.
        check(0 <= value < 2.0**127, f"model.{name}", value, "a number in [0, 2**127)")
    both = warmup_steps is not None and warmup_fraction is not None
    found = f"warmup_steps {warmup_steps} and warmup_fraction {warmup_fraction}"
    check(not both, "model.warmup_steps", found, "one of the two", "given twice")
    check((warmup_steps or 0) >= 0, "model.warmup_steps", warmup_steps, "0 or more")
    fraction = warmup_fraction or 0.0
    check(0 <= fraction < 1, "model.warmup_fraction", warmup_fraction, "a number in [0, 1)")
