"""Masks that networks take without a look inside leave every row as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rrr_lightning.models.masked_rows import (
    FAMILIES as READY,
)
from rrr_lightning.models.masked_rows import (
    KeywordInputs,
    MaskedRows,
    carry_mask,
    ready_mask,
    takes_ready_masks,
)
from rrr_lightning.models.text_classifier import TextClassifier
from tests.models.texts import FAMILIES, batch, masked_lm


def moved(padded: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch, and the same batch as if it had come from the host."""
    before = batch()
    if not padded:
        before["attention_mask"].fill_(1)
    after = {name: each.clone() for name, each in before.items()}
    carry_mask(before, after)
    return before, after


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_rows_are_the_same(family: str, padded: bool) -> None:
    rows = MaskedRows(masked_lm(family)).logits
    before, after = moved(padded)
    torch.testing.assert_close(rows(after), rows(before), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_logits_of_classifiers_are_the_same(family: str, padded: bool) -> None:
    network = TextClassifier(masked_lm(family).config.to_dict(), seed=0).eval()
    before, after = moved(padded)
    torch.testing.assert_close(network(after), network(before), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("padded", [False, True])
def test_networks_do_not_ask_again(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    all_of = Tensor.all

    def counted(tensor: Tensor, *args: Any) -> Tensor:
        asked.append(tensor)
        return all_of(tensor, *args)

    before, after = moved(padded)
    monkeypatch.setattr(Tensor, "all", counted)
    for family in READY:
        network = masked_lm(family)
        assert takes_ready_masks(network.config)
        MaskedRows(network).logits(after)
        assert not asked, family
        MaskedRows(network).logits(before)  # of which nothing is known
        assert asked, family
        asked.clear()


def test_the_rows_of_padding_are_seen_by_nobody() -> None:
    _, after = moved(padded=True)
    mask = ready_mask(after["attention_mask"])
    assert mask is not None
    assert (mask.dtype, mask.shape) == (torch.bool, (3, 1, 8, 8))
    assert mask[2, 0].sum() == 8 * 6
    assert mask[:2].all()


def test_other_networks_keep_their_mask() -> None:
    _, after = moved(padded=False)
    modern, plain = masked_lm("modernbert"), masked_lm()
    assert KeywordInputs(modern)(after)["attention_mask"] is after["attention_mask"]
    inputs = KeywordInputs(plain)
    assert inputs(after)["attention_mask"] is None
    plain.set_attn_implementation("eager")
    assert inputs(after)["attention_mask"] is after["attention_mask"]
