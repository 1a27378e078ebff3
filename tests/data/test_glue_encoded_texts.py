from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from rrr_lightning.data.glue import EncodedTexts, Ordered
from rrr_lightning.data.glue_sources import read_split
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.tokens import load_fast_tokenizer


@pytest.fixture(scope="module")
def bert(rrr_data: Path) -> Any:
    return load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))


def keys(*indices: int) -> list[tuple[int, int]]:
    return [(7, index) for index in indices]


@pytest.mark.parametrize(("task", "length"), [("cola", 256), ("mrpc", 256), ("rte", 64)])
def test_batches_are_those_of_the_tokenizer(
    rrr_data: Path, bert: Any, task: str, length: int
) -> None:
    rows = read_split(str(rrr_data / "glue"), TASKS[task], "validation")
    texts = tuple(column[:200] for column in rows.texts)
    encoded = EncodedTexts(lambda: bert, texts, None, length)
    chosen = [3, 150, 0, 0, 199]
    expected = bert(
        *([column[index] for index in chosen] for column in texts),
        truncation=True,
        max_length=length,
        padding="longest",
        return_tensors="pt",
    )
    batch = encoded[keys(*chosen)]
    assert batch.keys() == expected.keys()
    for name, tensor in batch.items():
        assert torch.equal(tensor, expected[name])
        assert tensor.dtype == torch.int64
    assert encoded.lengths.max() <= length
    assert torch.equal(encoded.lengths[chosen], expected["attention_mask"].sum(dim=1))
    if task == "rte":
        assert (encoded.lengths == length).sum() > 20  # the longer text of a pair is cut first


def test_labels_travel_with_their_rows(bert: Any) -> None:
    for labels in (torch.tensor([2, 0, 1]), torch.tensor([0.5, 3.0, 5.0])):
        encoded = EncodedTexts(lambda: bert, (["a", "b c", "d"],), labels, 16)
        assert torch.equal(encoded[keys(2, 1)]["labels"], labels[[2, 1]])
        assert encoded[keys(2, 1)]["labels"].dtype == labels.dtype


def test_special_words_of_a_text_are_text(bert: Any) -> None:
    encoded = EncodedTexts(lambda: bert, (["a [SEP] b [MASK]"],), None, 16)
    ids = encoded[keys(0)]["input_ids"][0].tolist()
    assert ids.count(bert.sep_token_id) == 1
    assert bert.mask_token_id not in ids


def test_token_types_are_left_out_where_the_tokenizer_has_none(bert: Any) -> None:
    class NoTypes:
        model_input_names = ("input_ids", "attention_mask")
        backend_tokenizer = bert.backend_tokenizer
        pad_token_id = 1

    batch = EncodedTexts(NoTypes, (["a b c", "d"], ["e", "f"]), None, 16)[keys(0, 1)]
    assert sorted(batch) == ["attention_mask", "input_ids"]
    assert batch["input_ids"][1, -2:].tolist() == [1, 1]


def test_texts_are_tokenized_when_they_are_needed_and_go_to_workers_as_arrays(bert: Any) -> None:
    asked: list[int] = []

    def tokenizer() -> Any:
        asked.append(1)
        return bert

    encoded = EncodedTexts(tokenizer, (["a", "b"],), None, 16)
    assert len(encoded) == 2
    assert not asked
    batch = encoded[keys(0, 1)]
    assert len(encoded.lengths) == len(asked) + 1 == 2
    again = pickle.loads(pickle.dumps(encoded))
    assert torch.equal(again[keys(0, 1)]["input_ids"], batch["input_ids"])


def test_ordered_rows(bert: Any) -> None:
    encoded = EncodedTexts(lambda: bert, (["a", "b", "c"],), torch.tensor([0, 1, 2]), 16)
    ordered = Ordered(encoded, torch.tensor([2, 0, 1]))
    assert len(ordered) == 3
    assert ordered[keys(0, 2)]["labels"].tolist() == [2, 1]
