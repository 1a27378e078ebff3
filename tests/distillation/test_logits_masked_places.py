from __future__ import annotations

import pytest
import torch

from rrr_lightning.distillation.logits import carry_places, masked_places, moved_pair
from tests.models.texts import batch


def test_masked_tokens_are_counted_once_for_a_batch_and_again_when_it_changes() -> None:
    labels = batch()["labels"]
    first = masked_places(labels)
    assert torch.equal(labels.flatten()[first], labels[labels != -100])
    assert masked_places(labels) is first
    assert masked_places(labels.clone()) is not first
    labels[0, 0] = 7
    assert len(masked_places(labels)) == int((labels != -100).sum())
    with torch.inference_mode():
        frozen = labels.clone()
        assert torch.equal(masked_places(frozen), masked_places(labels))
        frozen.fill_(-100)
        assert len(masked_places(frozen)) == 0


def test_what_is_noted_in_validation_is_of_use_in_training() -> None:
    labels = batch()["labels"]
    with torch.inference_mode():
        places = masked_places(labels)
    assert masked_places(labels) is places
    rows = torch.ones(labels.numel(), 2, requires_grad=True)
    rows.index_select(0, places).sum().backward()
    assert rows.grad is not None


def test_masked_tokens_are_counted_before_they_go_to_the_device() -> None:
    # The meta device cannot count at all.
    before = batch()
    after = {name: each.to("meta") for name, each in before.items()}
    carry_places(before, after)
    assert masked_places(after["labels"]).shape == masked_places(before["labels"]).shape
    after["labels"] += 0
    with pytest.raises(RuntimeError, match="nonzero"):
        masked_places(after["labels"])


def test_nothing_is_counted_for_a_batch_that_cannot_have_a_note() -> None:
    before = batch()
    with torch.inference_mode():
        after = {name: each.to("meta") for name, each in before.items()}
    assert moved_pair(before, after, "labels") is None
    assert moved_pair(before, before, "labels") is None
    plain = {name: each.clone() for name, each in before.items()}
    assert moved_pair(before, plain, "labels") == (before["labels"], plain["labels"])


def test_what_is_no_batch_of_masked_tokens_is_left_alone() -> None:
    for before in (torch.ones(2), {"input_ids": torch.ones(2)}, {"labels": [1]}):
        carry_places(before, before)
