"""Where the masked tokens of a batch are, counted once, before the batch goes to a device.

The counts are kept beside the tensor for as long as it lives and nobody writes to it, because
asking a GPU for them again would wait for all its queued work. Suffixes: B batch, T tokens, N
masked tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Note = TypeVar("Note")


class TensorNotes(Generic[Note]):
    """A note by tensor; tensors made under `torch.inference_mode` cannot have any."""

    def __init__(self) -> None:
        self._notes: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Note | None:
        """Returns the note on a tensor, None where there is none, or the tensor has changed."""
        version, note = self._notes.get(tensor, (None, None))
        known = not tensor.is_inference() and version == tensor._version
        return note if known else None

    def put(self, tensor: Tensor, note: Note) -> None:
        """Notes something on a tensor as it is now."""
        if not tensor.is_inference():
            self._notes[tensor] = tensor._version, note


# ----------------------------------------------------------------------
# Where the masked tokens of a batch are, found out once, and before the batch goes to a device.


NO_TARGET = -100

_places: TensorNotes[Tensor] = TensorNotes()  # by labels


@torch.compiler.disable  # type: ignore[untyped-decorator]
def masked_places(labels_BT: Tensor) -> Tensor:
    """Returns where the masked tokens are in the flattened batch, int64 of shape [N].

    On a GPU, counting them waits for the work that is queued. So it is done once for a batch, where
    possible by `carry_places` before it goes there: teacher, student and loss find what has been
    counted.
    """
    places_N = _places.of(labels_BT)
    if places_N is None:
        # What is noted in a validation step may be of use in a training step.
        with torch.inference_mode(torch.is_inference_mode_enabled() and labels_BT.is_inference()):
            places_N = (labels_BT != NO_TARGET).flatten().nonzero().squeeze(1)
        _places.put(labels_BT, places_N)
    return places_N


def carry_places(before: Any, after: Any) -> None:
    """Counts the masked tokens of a batch on the host, for the same batch on a device."""
    pair = moved_pair(before, after, "labels")
    if pair is None:
        return
    host_BT, device_BT = pair
    places_N = masked_places(host_BT)
    if device_BT.device.type == "cuda":
        places_N = places_N.pin_memory()
    _places.put(device_BT, places_N.to(device_BT.device, non_blocking=True))


def moved_pair(before: Any, after: Any, name: str) -> tuple[Tensor, Tensor] | None:
    """Returns a tensor of a batch on the host and on the device, where it can have a note there.

    That is None where it has not moved, or was not on the host, or has no version to note.
    """
    pair = [each.get(name) if isinstance(each, Mapping) else None for each in (before, after)]
    host, device = pair
    if not (isinstance(host, Tensor) and isinstance(device, Tensor)):
        return None
    has_moved = device is not host and host.device.type == "cpu"
    return (host, device) if has_moved and not device.is_inference() else None
