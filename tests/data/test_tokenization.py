from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrr_lightning.data.tokenization import Encoder
from rrr_lightning.tokens import load_fast_tokenizer

TEXTS = [
    "Hello, World! unaffable",
    "",
    "word",
    " ".join(f"antidisestablishmentarianism{number}" for number in range(40)),
    "x" * 5000 + " and more " * 100,
    "no" + "\u00a0space" * 400,
    "naïve café — " * 60 + "世界" * 50,
    "a b\tc\nd " * 300,
]


@pytest.fixture(scope="module")
def bert(rrr_data: Path) -> Any:
    return load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))


@pytest.mark.parametrize("length", [4, 16, 128, 400])
def test_truncated_samples_are_those_of_the_tokenizer(bert: Any, length: int) -> None:
    encoder = Encoder(bert, "truncate", length)
    expected = bert(TEXTS, truncation=True, max_length=length)["input_ids"]
    assert encoder(TEXTS) == expected


def test_real_documents_are_encoded_as_by_the_tokenizer(rrr_data: Path, bert: Any) -> None:
    from pyarrow import parquet

    table = parquet.read_table(rrr_data / "text" / "validation.parquet", columns=["text"])
    texts = table["text"][:300].to_pylist()
    encoder = Encoder(bert, "truncate", 128)
    assert encoder._cuts
    assert encoder(texts) == bert(texts, truncation=True, max_length=128)["input_ids"]


def test_the_names_of_special_tokens_in_a_text_are_text(bert: Any) -> None:
    special = set(bert.all_special_ids)
    for mode in ("truncate", "pack"):
        (ids,) = Encoder(bert, mode, 64)(["[MASK] and [PAD] and [CLS]"])  # type: ignore[arg-type]
        inside = ids[1:-1] if mode == "truncate" else ids[:-1]
        assert not special & set(inside)


def test_packed_samples_hold_every_token_but_the_rest(bert: Any) -> None:
    encoder = Encoder(bert, "pack", 16)
    encoded = encoder(TEXTS)
    bare = [bert(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert encoded == [[*ids, bert.sep_token_id] for ids in bare]
    stream = [number for ids in encoded for number in ids]
    samples = encoder.pack(np.array(stream))
    assert samples.shape == (len(stream) // 15, 16)
    assert (samples[:, 0] == bert.cls_token_id).all()
    assert samples[:, 1:].ravel().tolist() == stream[: samples.shape[0] * 15]
    assert encoder.pack(np.array(stream[:14])).shape == (0, 16)


@pytest.mark.parametrize("mode", ["truncate", "pack"])
def test_texts_of_fewer_than_two_tokens_are_short(bert: Any, mode: Any) -> None:
    encoder = Encoder(bert, mode, 16)
    assert [encoder.is_short(ids) for ids in encoder(["", " ", "word", "two words", "x y z"])] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_ids_take_two_bytes_where_the_vocabulary_allows(bert: Any) -> None:
    assert Encoder(bert, "truncate", 8).dtype is np.uint16

    class Large:
        cls_token_id, sep_token_id = 1, 2
        backend_tokenizer = bert.backend_tokenizer

        def __len__(self) -> int:
            return 2**16 + 1

    assert Encoder(Large(), "truncate", 8).dtype is np.uint32
