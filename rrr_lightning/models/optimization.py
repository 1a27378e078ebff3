"""Learning-rate schedules, and where AdamW can update all parameters in one fused pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lightning.pytorch import LightningModule
from torch import Tensor

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


# ----------------------------------------------------------------------
# Which hooks run code of others, between the data set and the step or after it.


ON_BATCHES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def hook_of_others(part: object, hooks: Sequence[str] = ON_BATCHES) -> str | None:
    """Returns the name of a hook that is neither Lightning's nor this library's."""
    ours = ("rrr_lightning.", "lightning.")
    return next(
        (name for name in hooks if not getattr(part, name).__module__.startswith(ours)), None
    )


# ----------------------------------------------------------------------
# Where AdamW goes over parameters, gradients and moments in one pass.


DEVICES = ("cpu", "cuda")
SEES_GRADIENTS = "on_before_optimizer_step"


def can_fuse(module: LightningModule) -> bool | None:
    """Returns whether AdamW over the module's parameters is to be torch's fused one.

    Fused optimizers undo the scaling of half-precision gradients by themselves. So Lightning
    refuses to clip gradients in mixed precision with them, and hooks see gradients that are scaled.
    """
    trainer = None if module._trainer is None else module.trainer
    callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    seen = (
        hook_of_others(module, (SEES_GRADIENTS, "configure_gradient_clipping")) is not None
        or any(hook_of_others(each, (SEES_GRADIENTS,)) is not None for each in callbacks)
        or (trainer is not None and (trainer.gradient_clip_val or trainer.precision == "16-mixed"))
    )
    known = all(_is_known(each) for each in module.parameters() if each.requires_grad)
    return True if known and not seen else None


def _is_known(parameter: Tensor) -> bool:
    """Whether a parameter lies in memory as fused kernels expect it: they look at no strides."""
    known = parameter.device.type in DEVICES and parameter.is_floating_point()
    return known and parameter.is_contiguous()
