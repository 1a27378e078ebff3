from __future__ import annotations

import gc

import torch

from rrr_lightning.distillation.logits import TensorNotes


def test_a_note_holds_until_somebody_writes_to_its_tensor() -> None:
    notes: TensorNotes[str] = TensorNotes()
    one, other = torch.ones(2), torch.ones(2)
    assert notes.of(one) is None
    notes.put(one, "seen")
    assert (notes.of(one), notes.of(other)) == ("seen", None)
    one[0] = 3
    assert notes.of(one) is None
    notes.put(one, "again")
    assert notes.of(one) == "again"


def test_a_note_goes_with_its_tensor() -> None:
    notes: TensorNotes[object] = TensorNotes()
    tensor = torch.ones(2)
    notes.put(tensor, object())
    assert len(notes._notes) == 1
    del tensor
    gc.collect()
    assert len(notes._notes) == 0


def test_a_tensor_whose_changes_are_not_counted_has_no_note() -> None:
    notes: TensorNotes[str] = TensorNotes()
    with torch.inference_mode():
        tensor = torch.ones(2)
        notes.put(tensor, "seen")
        assert notes.of(tensor) is None
