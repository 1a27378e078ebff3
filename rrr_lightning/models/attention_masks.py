"""Attention masks that a network takes without a look inside.

transformers asks at every forward pass whether anything is padding, and leaves the mask out where
nothing is, for the faster kernels. On a GPU the host waits for the answer. Here the host knows it
before the batch goes there, and hands over no mask, or one that is taken as it is.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rrr_lightning.distillation.masked_places import moved_pair
from rrr_lightning.distillation.tensor_notes import TensorNotes

# Networks in which every token sees all that are not padding, and nothing else decides.
FAMILIES = ("albert", "bert", "distilbert", "electra", "roberta")

_is_full: TensorNotes[bool] = TensorNotes()  # by mask


def carry_mask(before: Any, after: Any) -> None:
    """Notes whether anything in a batch on a device is padding, as the host sees it."""
    pair = moved_pair(before, after, "attention_mask")
    if pair is not None:
        _is_full.put(pair[1], bool(pair[0].all()))


def takes_ready_masks(config: Any) -> bool:
    """Whether a network of a transformers config takes a mask as `ready_mask` returns it."""
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and not getattr(config, "is_decoder", False)
    )


def ready_mask(mask_BT: Tensor) -> Tensor | None:
    """Returns the same mask, as a network takes it without asking."""
    is_full = _is_full.of(mask_BT)
    if is_full is None or mask_BT.ndim != 2:
        return mask_BT
    if is_full:
        return None
    length = mask_BT.shape[1]
    return mask_BT.bool()[:, None, None, :].expand(-1, 1, length, length).contiguous()
