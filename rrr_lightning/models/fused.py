"""Where the default optimizers go over parameters, gradients and moments in one pass."""

from __future__ import annotations

from lightning.pytorch import LightningModule

from rrr_lightning.models.hooks import hook_of_others

DEVICES = ("cpu", "cuda")
ON_GRADIENTS = ("configure_gradient_clipping", "on_before_optimizer_step")


def can_fuse(module: LightningModule) -> bool | None:
    """Returns whether an optimizer of the module's parameters is to be torch's fused one.

    Fused optimizers undo the scaling of half-precision gradients by themselves. So Lightning
    refuses to clip gradients in mixed precision with them, and hooks see gradients that are scaled.

    Args:
        module: The module, on the device that it is trained on.

    Returns:
        True; or None, for which torch chooses by the device, where gradients are clipped, scaled,
        or looked at by hooks of others.
    """
    trainer = None if module._trainer is None else module.trainer
    seen = hook_of_others(module, ON_GRADIENTS) is not None or (
        trainer is not None and (trainer.gradient_clip_val or trainer.precision == "16-mixed")
    )
    trained = [each for each in module.parameters() if each.requires_grad]
    known = all(each.device.type in DEVICES and each.is_floating_point() for each in trained)
    return True if known and not seen else None
