"""Which hooks run code of others, between the data set and the step or after it."""

from __future__ import annotations

from collections.abc import Sequence

ON_BATCHES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def hook_of_others(part: object, hooks: Sequence[str] = ON_BATCHES) -> str | None:
    """Returns the name of a hook that is neither Lightning's nor this library's."""
    ours = ("rrr_lightning.", "lightning.")
    return next(
        (name for name in hooks if not getattr(part, name).__module__.startswith(ours)), None
    )
