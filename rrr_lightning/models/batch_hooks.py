"""Which code, between the data set and the step, may have changed a batch."""

from __future__ import annotations

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def hook_of_others(part: object) -> str | None:
    """Returns the name of a hook on batches that is neither Lightning's nor this library's.

    Args:
        part: A LightningModule or LightningDataModule.
    """
    ours = ("rrr_lightning.", "lightning.")
    return next(
        (name for name in HOOKS if not getattr(part, name).__module__.startswith(ours)), None
    )
