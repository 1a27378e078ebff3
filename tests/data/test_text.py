from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from pyarrow import parquet, table

from rrr_lightning.data import embedded
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.data.text import Batch, TextDataModule
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import rebuild_tokenizer
from tests.data.text_toy import digest, numbers_of, text_data, write_corpus, write_documents
from tests.data.toy import make_trainer

WAYS: dict[str, dict[str, Any]] = {"map": {}, "stream": {"streaming": True}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


def batches(data: TextDataModule, count: int) -> list[Batch]:
    data.prepare_data()
    data.setup("fit")
    return list(islice(data.train_dataloader(), count))


@pytest.mark.parametrize("way", WAYS)
def test_batches_hold_documents_with_masks(corpus: Path, way: str) -> None:
    data = text_data(corpus, micro_batch_size=4, **WAYS[way])
    seen = []
    for batch in batches(data, 12):
        assert {name: item.shape for name, item in batch.items()} == dict.fromkeys(
            ("input_ids", "attention_mask", "labels"), (4, 16)
        )
        assert all(item.dtype == torch.int64 for item in batch.values())
        assert ((batch["input_ids"] == data.tokenizer.pad_token_id) <= ~batch["attention_mask"]).all
        seen += numbers_of(batch, data.vocabulary)
    assert len(set(seen)) == len(seen) == 48
    assert set(seen) <= set(range(50))


@pytest.mark.parametrize("way", WAYS)
def test_workers_do_not_change_what_is_seen(corpus: Path, way: str) -> None:
    runs = []
    for workers in (0, 2):
        data = text_data(corpus, micro_batch_size=4, num_workers=workers, **WAYS[way])
        runs.append([digest(batch) for batch in batches(data, 20)])
        for loader in data._loaders:
            loader.close()
    assert runs[0] == runs[1]


def rows_by_document(data: TextDataModule, count: int) -> dict[int, list[list[int]]]:
    """Inputs and labels of each document, one list for each time it was seen."""
    rows: dict[int, list[list[int]]] = {}
    for batch in batches(data, count):
        both = torch.cat([batch["input_ids"], batch["labels"]], 1).tolist()
        for number, row in zip(numbers_of(batch, data.vocabulary), both, strict=True):
            rows.setdefault(number, []).append(row)
    return rows


@pytest.mark.parametrize("way", WAYS)
def test_the_masks_of_a_document_follow_seed_and_epoch_alone(corpus: Path, way: str) -> None:
    whole = rows_by_document(text_data(corpus, **WAYS[way]), 13)
    split = rows_by_document(text_data(corpus, micro_batch_size=2, **WAYS[way]), 13 * 6)
    assert whole == split
    twice = [views for views in whole.values() if len(views) >= 3]
    assert len(twice) > 40
    repeated = [views for views in twice if len(set(map(tuple, views))) < len(views)]
    assert len(repeated) < 0.2 * len(twice)  # by chance: the documents are short
    other = rows_by_document(text_data(corpus, seed=4, **WAYS[way]), 13)
    assert all(other[number][:3] != views[:3] for number, views in whole.items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_disjoint_documents_that_are_the_whole(
    corpus: Path, way: str, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(rank: int, ranks: int) -> list[list[int]]:
        data = text_data(corpus, global_batch_size=6, **WAYS[way])
        plan = BatchPlan(6, None, ranks, rank)
        monkeypatch.setattr(TextDataModule, "plan", plan)
        return [numbers_of(batch, data.vocabulary) for batch in batches(data, 25)]

    alone = seen(0, 1)
    shares = [seen(rank, world) for rank in range(world)]
    for step, expected in enumerate(alone):
        together = [number for share in shares for number in share[step]]
        assert len(set(together)) == 6
        assert sorted(together) == sorted(expected)
    if way == "map":  # a whole number of steps, the remainder dropped: 48 of 50 in each epoch
        for start in (0, 8, 16):
            assert len({n for numbers in alone[start : start + 8] for n in numbers}) == 48
    else:
        first = [number for numbers in alone for number in numbers]
        assert set(first[:54]) == set(range(50))


def test_validation_masks_never_change(corpus: Path) -> None:
    def validation(**settings: Any) -> list[str]:
        data = text_data(corpus, eval_batch_size=5, **settings)
        data.prepare_data()
        loaders = [data.val_dataloader(), data.val_dataloader()]
        one, two = ([digest(batch) for batch in loader] for loader in loaders)
        assert one == two
        return one

    expected = validation()
    assert len(expected) == 3
    for settings in ({"seed": 9}, {"mask_probability": 0.5}, {"streaming": True}):
        assert validation(**settings) == expected
    data = text_data(corpus, eval_batch_size=20)
    (batch,) = data.val_dataloader()
    assert sorted(numbers_of(batch, data.vocabulary)) == list(range(900, 911))


def test_the_tokenizer_and_its_vocabulary(corpus: Path) -> None:
    data = text_data(corpus)
    assert data.vocabulary[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert data.vocabulary_size == len(data.vocabulary) == len(data.tokenizer)
    assert data.special_token_ids["mask_token"] == 4
    again = rebuild_tokenizer(data.tokenizer_json, data.special_token_ids)
    text = "zero one two is the number"
    assert again(text)["input_ids"] == data.tokenizer(text)["input_ids"]
    assert text_data(corpus, max_documents=20, seed=8).tokenizer_json == data.tokenizer_json


def test_a_tokenizer_from_a_folder(corpus: Path, rrr_data: Path) -> None:
    data = text_data(corpus, tokenizer=str(rrr_data / "bert-base-uncased"))
    assert data.vocabulary_size == 30_522
    assert data.special_token_ids == {
        "cls_token": 101,
        "mask_token": 103,
        "pad_token": 0,
        "sep_token": 102,
        "unk_token": 100,
    }
    (batch,) = batches(data, 1)
    assert len(numbers_of(batch, data.vocabulary)) == 12


def test_packed_batches_have_no_padding(corpus: Path) -> None:
    data = text_data(corpus, mode="pack", global_batch_size=6)
    assert all(batch["attention_mask"].all() for batch in batches(data, 7))


def test_some_of_the_documents(corpus: Path) -> None:
    data = text_data(corpus, max_documents=24, max_val_documents=5)
    data.prepare_data()
    assert [len(part) for part in data.sets] == [24, 5]
    tuned = text_data(corpus, tuning_fraction=0.2)
    tuned.prepare_data()
    train, validation = tuned.sets
    assert len(train) + len(validation) == 50
    assert 2 < len(validation) < 20


def test_embedded_prose_needs_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGES", {"PIL": "pillow"})
    embedded.all_prose.cache_clear()
    data = TextDataModule("embedded", "train:1000", cache_dir=str(tmp_path), global_batch_size=8)
    (batch,) = batches(data, 1)
    embedded.all_prose.cache_clear()
    assert batch["input_ids"].shape == (8, 128)
    rate = (batch["labels"] != -100).sum() / batch["attention_mask"].sum()
    assert 0.05 < rate < 0.25


class Idle(LightningModule):
    def training_step(self, batch: Batch) -> None: ...

    def validation_step(self, batch: Batch) -> None: ...

    def configure_optimizers(self) -> None: ...


def test_a_stream_has_no_fraction_of_an_epoch(corpus: Path, tmp_path: Path) -> None:
    data = text_data(corpus, streaming=True)
    line = r"trainer.val_check_interval: cannot be a fraction.*found 1.0; accepted: a whole number"
    with pytest.raises(InputError, match=line):
        make_trainer(tmp_path, 4).fit(Idle(), datamodule=data)
    with pytest.raises(InputError, match=r"max_steps: .*an epoch has an unknown number of optimiz"):
        make_trainer(tmp_path, -1, max_epochs=-1, val_check_interval=2).fit(Idle(), datamodule=data)


def fresh(folder: Path) -> Path:
    folder.mkdir()
    write_documents(folder / "validation.jsonl", range(900, 905))
    return folder


def bad_sources(folder: Path, case: str) -> dict[str, Any]:
    """Settings and a folder with one thing wrong."""
    train = folder / "train.jsonl"
    if case == "column":
        write_documents(train, range(20))
        return {"column": "body"}
    contents = {
        "empty": b"",
        "latin": b'{"text": "caf\xe9 noir"}\n',
        "number": b'{"text": 7}\n',
        "short": b'{"text": "word"}\n{"text": ""}\n',
    }
    if case in contents:
        train.write_bytes(contents[case])
    if case == "gz":
        (folder / "train.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b c"}\n' * 99)[:-12])
    if case == "parquet":
        parquet.write_table(table({"text": ["a b c"] * 9}), folder / "train.parquet")
        content = (folder / "train.parquet").read_bytes()
        (folder / "train.parquet").write_bytes(content[:-20])
    return {"source": "nobody/nothing"} if case == "dataset" else {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("dataset", r"data.source: is neither here nor a data set of the hub .*nobody/nothing"),
        ("column", r"data.column: .*.jsonl, line 1 has no such column; found 'body'"),
        ("empty", r"data.source: holds no documents; found '.*train.jsonl'"),
        ("latin", r"data.source: is not UTF-8; found '.*train.jsonl, line 1'"),
        ("number", r"data.column: .*train.jsonl, line 1: column 'text' is not text; found 'int'"),
        ("short", r"data.source: .* have fewer than two tokens; found '.*train.jsonl'"),
        ("gz", r"data.source: is corrupt \(.*\); found '.*train.jsonl.gz'"),
        ("parquet", r"data.source: is corrupt \(.*\); found '.*train.parquet'"),
    ],
)
def test_bad_sources_are_named(
    tmp_path: Path, corpus: Path, rrr_data: Path, case: str, line: str, way: str
) -> None:
    folder = fresh(tmp_path / "bad")
    tokenizer = str(rrr_data / "bert-base-uncased")
    data = text_data(folder, tokenizer=tokenizer, **{**WAYS[way], **bad_sources(folder, case)})
    with pytest.raises(InputError, match=line):
        batches(data, 1)


def test_batches_that_do_not_fit(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is larger than the data set of 50 samples; found 64"):
        batches(text_data(corpus, global_batch_size=64), 1)
    with pytest.raises(InputError, match="micro_batch_size: does not divide the 12 samples"):
        batches(text_data(corpus, micro_batch_size=5), 1)
    monkeypatch.setattr(TextDataModule, "_replicas", lambda self: (5, 0))
    with pytest.raises(InputError, match="global_batch_size: does not divide among 5 ranks"):
        batches(text_data(corpus), 1)


def test_nothing_to_validate_on(tmp_path: Path) -> None:
    write_documents(tmp_path / "a.jsonl", range(30))
    line = "tuning_fraction: nothing to validate on: .*a.jsonl has no validation or test split"
    with pytest.raises(InputError, match=line):
        text_data(tmp_path / "a.jsonl", cache_dir=str(tmp_path / "cache")).prepare_data()


def test_a_cache_that_cannot_be_written_is_named(corpus: Path) -> None:
    data = text_data(corpus, cache_dir=str(corpus / "train-0.jsonl"))
    line = r"data.cache_dir: cannot be written \(.*\); found '.*train-0.jsonl'"
    with pytest.raises(InputError, match=line):
        data.prepare_data()


def test_the_test_split_is_tested_with_the_masks_of_evaluation(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    write_documents(folder / "test.jsonl", range(800, 807))
    for _ in range(2):
        data = text_data(folder, tuning_fraction=0.1)
        data.setup("test")
        tested = list(data.test_dataloader())
        assert sorted(numbers_of(tested[0], data.vocabulary)) == list(range(800, 807))
    digests = [digest(batch) for seed in (1, 2) for batch in seeded(folder, seed).test_dataloader()]
    assert digests == [digest(tested[0])] * 2


def seeded(folder: Path, seed: int) -> TextDataModule:
    data = text_data(folder, seed=seed)
    data.setup("test")
    return data


def test_text_without_a_test_split_is_tested_on_what_was_not_validated_on(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    data = text_data(folder, tuning_fraction=0.1)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert sorted(numbers_of(batch, data.vocabulary)) == list(range(900, 911))
    data = text_data(folder)
    data.setup("test")
    with pytest.raises(InputError, match=r"no test split with labels; .* or `validate`"):
        data.test_dataloader()


def test_predict_has_no_meaning_for_text(tmp_path: Path) -> None:
    data = text_data(write_corpus(tmp_path / "corpus"))
    with pytest.raises(InputError, match=r"predict has no meaning .*; found 'TextDataModule'"):
        data.predict_dataloader()
