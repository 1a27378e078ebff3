from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.errors import InputError
from rrr_lightning.models.text_bodies import agree_on_tokens, stored_vocabulary
from rrr_lightning.tokens import Vocabulary
from tests.data.glue_files import write_tokenizer
from tests.models.texts import SMALL

TOKENS = tuple("abcdefgh")


class Data:
    def __init__(self, tokens: tuple[str, ...] = TOKENS, padding: int = 0) -> None:
        self.vocabulary = tokens
        self.special_token_ids = {"pad_token": padding}


def network(size: int = 8) -> Any:
    return transformers.BertModel(transformers.BertConfig(**{**SMALL, "vocab_size": size}))


KNOWN = Vocabulary(TOKENS, {"pad_token": 0})


def test_tokens_come_from_the_body_or_from_the_data() -> None:
    assert agree_on_tokens(network(), KNOWN, None) == KNOWN
    assert agree_on_tokens(network(), None, None) is None
    assert agree_on_tokens(network(), None, object()) is None
    assert agree_on_tokens(network(), None, Data()) == KNOWN
    assert agree_on_tokens(network(64), KNOWN, Data()) is KNOWN  # padded


@pytest.mark.parametrize(
    ("size", "known", "data", "message"),
    [
        (
            7,
            None,
            Data(),
            r"model\.body: .* smaller than the tokenizer's; found '7 tokens'; .* least 8, or",
        ),
        (7, KNOWN, Data(), r"smaller than the tokenizer's"),
        (8, KNOWN, Data(tuple("abcdefhg")), r"data\.tokenizer: .* 2 tokens differ, .* id 6"),
        (8, KNOWN, Data(TOKENS[:5]), r"data\.tokenizer: another vocabulary .* found '5 tokens'"),
        (8, None, Data(padding=3), r"data\.tokenizer: .* token for padding .*found 3; accepted: 0"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(size: int, known: Any, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        agree_on_tokens(network(size), known, data)


def test_a_checkpoint_gives_its_tokens_back(tmp_path: Any) -> None:
    data = GlueDataModule("rte", str(tmp_path), str(write_tokenizer(tmp_path)))
    known = Vocabulary.of_data(data)
    assert known is not None
    described = {
        "tokenizer_json": known.tokenizer_json,
        "special_token_ids": dict(known.special_token_ids),
    }
    torch.save(described, tmp_path / "described")
    again = stored_vocabulary(torch.load(tmp_path / "described", weights_only=True))
    assert again == known
    assert again is not None
    assert again.fingerprint == known.fingerprint != KNOWN.fingerprint
    assert stored_vocabulary({"tokenizer_json": None}) is None
