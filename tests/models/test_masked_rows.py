from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from rrr_lightning.errors import InputError
from rrr_lightning.models.masked_rows import (
    KeywordInputs,
    MaskedRows,
    check_rows_once,
    input_names,
    usable_positions,
)
from tests.models.texts import FAMILIES, ROUNDING, batch, masked_lm


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_the_masked_rows_of_all_logits(family: str) -> None:
    network, given = masked_lm(family), batch()
    full = network(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    rows = MaskedRows(network).logits({**given, "special_tokens_mask": given["labels"]})
    torch.testing.assert_close(rows, full[given["labels"] != -100], **ROUNDING)


def test_the_head_sees_masked_tokens_only_and_keeps_no_hook() -> None:
    network, given = masked_lm(), batch()
    seen: list[int] = []
    handle = network.cls.register_forward_hook(lambda *args: seen.append(args[2].shape[1]))
    MaskedRows(network).logits(given)
    handle.remove()
    assert seen == [int((given["labels"] != -100).sum())]
    assert not network.bert._forward_hooks
    given["labels"].fill_(-100)
    assert MaskedRows(network).logits(given).shape == (0, 32)
    assert network(input_ids=given["input_ids"]).logits.shape == (3, 8, 32)


def test_batches_that_do_not_fit_are_refused() -> None:
    rows = MaskedRows(masked_lm()).logits
    with pytest.raises(InputError, match="which tokens are masked"):
        rows({"input_ids": torch.zeros(1, 2, dtype=torch.long)})
    with pytest.raises(InputError, match="which tokens are masked"):
        rows(torch.zeros(1, 2, dtype=torch.long))  # type: ignore[arg-type]
    long = torch.zeros(1, 21, dtype=torch.long)
    with pytest.raises(InputError, match="found 21; accepted: at most 20"):
        rows({"input_ids": long, "labels": long})


def test_a_batch_with_nothing_to_take_names_what_is_taken() -> None:
    with pytest.raises(InputError, match=r"teacher_inputs.*found 'image, label'.*input_ids"):
        KeywordInputs(masked_lm())({"image": 1, "label": 2})


def test_networks_with_one_type_of_token_are_not_told_types() -> None:
    given = {"input_ids": torch.ones(1, 3), "token_type_ids": torch.tensor([[0, 1, 1]])}
    roberta = masked_lm("roberta")
    for types in (1, 2):
        roberta.config.type_vocab_size = types
        assert ("token_type_ids" in KeywordInputs(roberta)(given)) == (types == 2)
        assert ("token_type_ids" in input_names(roberta)) == (types == 2)
    assert "token_type_ids" not in input_names(masked_lm("distilbert"))
    assert "labels" not in input_names(roberta)


def test_only_rows_are_asked_of_any_base_model() -> None:
    """A base model that answers with a tuple is served too."""

    class Base(nn.Module):
        def forward(self, input_ids: Tensor) -> tuple[Tensor, str]:
            return input_ids[..., None].float(), "pooled"

    class Network(nn.Module):
        config = transformers.BertConfig()

        def __init__(self) -> None:
            super().__init__()
            self.base_model = Base()

        def forward(self, input_ids: Tensor, labels: Any = None) -> Any:
            return transformers.modeling_outputs.MaskedLMOutput(
                logits=self.base_model(input_ids)[0] * 2
            )

    tokens = torch.arange(6).view(2, 3)
    labels = torch.where(tokens % 2 == 1, tokens, -100)
    rows = MaskedRows(Network()).logits({"input_ids": tokens, "labels": labels})
    assert rows.tolist() == [[2.0], [6.0], [10.0]]


def test_columns_after_the_real_tokens_are_cut_off() -> None:
    network, given = masked_lm(), batch()
    whole, cut = MaskedRows(network).logits(given), MaskedRows(network, 30).logits(given)
    assert torch.equal(cut, whole[:, :30])


def test_positions_are_counted_as_the_network_counts_them() -> None:
    assert usable_positions(masked_lm("bert")) == 20
    roberta = masked_lm("roberta")
    assert usable_positions(roberta) == 19  # the first is the padding's
    tokens = torch.full((1, 19), 5)
    assert MaskedRows(roberta).logits({"input_ids": tokens, "labels": tokens}).shape == (19, 32)
    roberta.config.max_position_embeddings = -1
    assert usable_positions(roberta) is None


@pytest.mark.parametrize("kind", ["Flaubert", "XLM"])
def test_all_positions_count_where_padding_takes_none(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=32, emb_dim=8, n_layers=1, n_heads=2, max_position_embeddings=12
    )
    network = getattr(transformers, f"{kind}WithLMHeadModel")(config).eval()
    assert usable_positions(network) == 12
    ids = torch.full((1, 12), 5)
    assert MaskedRows(network).logits({"input_ids": ids, "labels": ids}).shape == (12, 32)


def test_a_network_is_tried_without_a_trace() -> None:
    rows = MaskedRows(masked_lm().train())
    state = torch.get_rng_state()
    check_rows_once(rows, "model.network")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in rows.modules())


@pytest.mark.parametrize("fault", [AttributeError("x\ny"), RuntimeError(), AssertionError("size")])
def test_a_network_that_fails_is_refused_in_one_line(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = MaskedRows(masked_lm())

    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(rows.network, "forward", fail)
    with pytest.raises(InputError, match=r"model.network: a network of this kind") as caught:
        check_rows_once(rows, "model.network")
    assert "\n" not in str(caught.value)
