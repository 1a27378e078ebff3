from __future__ import annotations

from functools import cached_property
from typing import Any

import transformers
from tokenizers import Tokenizer, models

from rrr_lightning.tokens import TellsVocabulary, rebuild_tokenizer

WORDS = {"[PAD]": 0, "[UNK]": 1, "b": 3, "a": 4}  # no token has the id 2


class Data(TellsVocabulary):
    @cached_property
    def tokenizer(self) -> Any:
        backend = Tokenizer(models.WordPiece(WORDS, unk_token="[UNK]"))
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
        )


def test_tokens_in_the_order_of_their_ids() -> None:
    data = Data()
    assert data.vocabulary == ("[PAD]", "[UNK]", "", "b", "a")
    assert data.vocabulary_size == 5
    assert data.special_token_ids == {"pad_token": 0, "unk_token": 1}


def test_what_it_tells_rebuilds_the_tokenizer() -> None:
    again = rebuild_tokenizer(Data().tokenizer_json, Data().special_token_ids)
    assert again("ab")["input_ids"] == Data().tokenizer("ab")["input_ids"]
    assert again.pad_token_id == 0
