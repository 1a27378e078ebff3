from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rrr_lightning.data.documents import FileDocuments
from rrr_lightning.data.masking import Masking
from rrr_lightning.data.text import StreamedText, masked_batch, open_stream
from rrr_lightning.data.tokenization import Encoder
from rrr_lightning.data.wordpiece import trained_tokenizer
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import load_fast_tokenizer

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]


def text(number: int) -> str:
    return " ".join(WORDS[: 2 + number // 2 % 10])


def stream(folder: Path, texts: list[str], batch: int = 4, seed: int = 3) -> StreamedText:
    for file in range(2):
        (folder / f"{file}.txt").write_text("\n\n".join(texts[file::2]))
    documents = FileDocuments([str(folder / f"{file}.txt") for file in range(2)], "text")
    tokenizer = trained_tokenizer(documents, 100, folder / "cache")
    masking = Masking(len(tokenizer), tokenizer.all_special_ids, 4, seed=seed)
    encoder = Encoder(tokenizer, "truncate", 8)
    return open_stream(documents, encoder, masking, 0, batch, seed, folder / "cache")


def test_a_batch_is_what_the_collator_of_hugging_face_gives(rrr_data: Path) -> None:
    tokenizer = load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))
    texts = ["a short text about nothing", "a longer " * 20]
    rows = tokenizer(texts, truncation=True, max_length=16, return_token_type_ids=False)
    collator = transformers.DataCollatorForLanguageModeling(
        tokenizer, pad_to_multiple_of=16, return_tensors="pt"
    )
    expected = collator([{"input_ids": ids} for ids in rows["input_ids"]])
    ids = np.zeros((2, 16), dtype=np.int64)
    for row, its in enumerate(rows["input_ids"]):
        ids[row, : len(its)] = its
    lengths = np.array([len(its) for its in rows["input_ids"]])
    special = tokenizer.all_special_ids
    masking = Masking(len(tokenizer), special, tokenizer.mask_token_id, probability=0.5)
    batch = masked_batch(ids, lengths, masking, [(0, 0), (0, 1)])
    assert {name: (item.shape, item.dtype) for name, item in batch.items()} == {
        name: (expected[name].shape, torch.int64)
        for name in ("input_ids", "attention_mask", "labels")
    }
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    hidden = batch["labels"] != -100
    restored = torch.where(hidden, batch["labels"], batch["input_ids"])
    assert torch.equal(restored, torch.from_numpy(ids))
    assert hidden.any()
    assert not hidden[batch["attention_mask"] == 0].any()


def test_a_streamed_batch_holds_the_documents_of_its_keys(tmp_path: Path) -> None:
    texts = [text(number) for number in range(20)]
    source = stream(tmp_path, texts)
    assert len(source.lanes) == 2
    keys = [(0, 0), (0, 1), (1, 0), (1, 5)]
    batch = source[keys]
    tokenizer = source.encoder._tokenizer
    restored = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    found = [source._lane(lane)[position].text for lane, position in keys]
    expected = tokenizer(found, truncation=True, max_length=8)["input_ids"]
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [row[:size].tolist() for row, size in zip(restored, lengths, strict=True)] == expected
    with pytest.raises(TypeError, match="a stream has no length"):
        len(source)


def test_the_masks_of_a_streamed_document_follow_its_epoch_not_its_batch(tmp_path: Path) -> None:
    texts = [" ".join(WORDS[:6])] * 16
    source = stream(tmp_path, texts)
    alone = source[[(0, 5)]]["labels"]
    assert torch.equal(source[[(0, 4), (0, 5), (1, 0)]]["labels"][1:2], alone)
    views = {source._lane(0)[position].key for position in range(16)}
    assert {epoch for epoch, _ in views} == {0, 1}
    one, two = (source[[(0, at) for at in range(start, start + 8)]] for start in (0, 8))
    assert torch.equal(one["attention_mask"], two["attention_mask"])
    assert not torch.equal(one["labels"], two["labels"])


def test_a_copy_in_another_process_gives_the_same(tmp_path: Path) -> None:
    source = stream(tmp_path, [f"[MASK] {text(number)}" for number in range(20)])
    copy = pickle.loads(pickle.dumps(source))
    for name, item in source[[(0, 0), (1, 3)]].items():
        assert torch.equal(copy[[(0, 0), (1, 3)]][name], item)


def test_a_document_without_tokens_has_no_targets(tmp_path: Path) -> None:
    source = stream(tmp_path, [".", ".", *[text(number) for number in range(14)]])
    batch = source[[(lane, position) for lane in range(2) for position in range(8)]]
    assert batch["attention_mask"].sum(1).min() == 3


def test_a_stream_of_nothing_but_short_documents_is_refused(tmp_path: Path) -> None:
    line = r"data.source: the first 6 documents have fewer than two tokens; found '.*0.txt and 1"
    with pytest.raises(InputError, match=line):
        stream(tmp_path, ["word"] * 6)
