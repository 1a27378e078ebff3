from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from rrr_lightning.errors import InputError
from rrr_lightning.tokens import (
    Vocabulary,
    agree_on_vocabulary,
    check_same_tokens,
    load_tokenizer,
    padded_size,
)
from tests.models.texts import TOKENS, TextData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(TOKENS))
    transformers.BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path)
    return tmp_path


def test_a_tokenizer_tells_its_vocabulary(folder: Path) -> None:
    known = Vocabulary.of(load_tokenizer(str(folder), "model.tokenizer"))
    assert (known.size, known.tokens) == (30, tuple(TOKENS))
    assert known.special_token_ids["mask_token"] == 4
    assert known.tokenizer_json is not None
    assert '"[MASK]"' in known.tokenizer_json
    assert known.schema.columns == 30


class Gaps:
    """A tokenizer that leaves ids out and is no fast one."""

    def __init__(self) -> None:
        self.special_tokens_map = {"mask_token": "m", "extra": ["x"]}

    def get_vocab(self) -> dict[str, int]:
        return {"m": 0, "w": 5}

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.get_vocab()[token]


def test_ids_left_out_have_no_token() -> None:
    assert Vocabulary.of(Gaps()) == Vocabulary(("m", "", "", "", "", "w"), {"mask_token": 0})


def test_padding_goes_to_the_next_multiple() -> None:
    assert [padded_size(size, 64) for size in (1, 64, 65)] == [64, 64, 128]
    assert padded_size(65, None) == 65
    with pytest.raises(InputError, match="pad_vocabulary_to: must be positive; found 0"):
        padded_size(65, 0)


def test_a_model_takes_the_vocabulary_of_the_data() -> None:
    data = TextData()
    assert agree_on_vocabulary(30, None, 0, data) == Vocabulary.of_data(data)
    assert agree_on_vocabulary(30, None, None, None) is None
    known = Vocabulary.of_data(data)
    assert agree_on_vocabulary(30, known, 0, object()) == known
    assert agree_on_vocabulary(30, known, 0, data) == known


def test_other_tokens_and_other_special_ids_are_refused() -> None:
    known: Any = Vocabulary.of_data(TextData())
    for change, message in (
        (
            {"tokens": ("a", *TOKENS[1:])},
            r"data: .*1 tokens differ, .* id 0; found 'a'",
        ),
        ({"tokens": (*TOKENS, "a")}, "0 tokens differ; found '31 tokens'; accepted: 30 tokens"),
        ({"special_token_ids": {"mask_token": 9}}, "mask_token has another id .*found 9"),
    ):
        with pytest.raises(InputError, match=message):
            check_same_tokens(known, replace(known, **change), "data")


def test_a_description_without_tokens_gives_none() -> None:
    assert Vocabulary.described({}) is None
    assert Vocabulary.described({"schema": {"columns": 3, "special_token_ids": None}}) is None
    stored = {"labels": ["a", "m"], "special_token_ids": {"mask_token": 1}}
    found = Vocabulary.described({"schema": stored, "tokenizer_json": "{}"})
    assert found == Vocabulary(("a", "m"), {"mask_token": 1}, "{}")
