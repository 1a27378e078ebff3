"""Notes on tensors, for as long as a tensor lives and nobody writes to it.

What the host has found out about a batch before it went to a GPU need not be asked there again,
where an answer is waited for.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

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
