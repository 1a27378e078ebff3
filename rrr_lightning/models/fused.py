"""Where AdamW goes over parameters, gradients and moments in one pass."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor

from rrr_lightning.models.hooks import hook_of_others

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
