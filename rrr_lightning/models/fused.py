"""Where the default optimizers go over parameters, gradients and moments in one pass."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

DEVICES = ("cpu", "cuda")


def can_fuse(module: LightningModule) -> bool | None:
    """Returns whether an optimizer of the module's parameters is to be torch's fused one.

    Not where gradients are clipped: Lightning refuses that in mixed precision with optimizers that
    undo the scaling of gradients by themselves, as fused ones do.

    Args:
        module: The module, on the device that it is trained on.

    Returns:
        True, or None, for which torch chooses by the device.
    """
    clips = is_overridden("configure_gradient_clipping", module) or (
        module._trainer is not None and module.trainer.gradient_clip_val
    )
    trained = [each for each in module.parameters() if each.requires_grad]
    known = all(each.device.type in DEVICES and each.is_floating_point() for each in trained)
    return True if known and not clips else None
