"""Hub functions are asked for a local folder, which `datasets` treats like a repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from rrr_lightning.data.documents import (
    Documents,
    FileDocuments,
    hub_files,
    hub_tables,
    open_documents,
)
from rrr_lightning.data.embedded import EmbeddedProse
from rrr_lightning.errors import InputError


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


def write(path: Path, *texts: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def opened(
    source: object,
    train: str = "train",
    validation: str | None = None,
    config: str | None = None,
    streaming: bool = False,
) -> tuple[Documents, Documents | None]:
    return open_documents(str(source), config, train, validation, "text", streaming)[:2]


def both(source: object, *names: str) -> list[list[str] | None]:
    return [None if part is None else list(part) for part in opened(source, *names)]


def test_embedded_prose() -> None:
    train, validation = opened("embedded")
    assert isinstance(train, EmbeddedProse)
    assert isinstance(validation, EmbeddedProse)
    assert (train.split, validation.split) == ("train", "validation")


def test_a_file_is_a_training_split(tmp_path: Path) -> None:
    assert both(write(tmp_path / "a.jsonl", "x", "y")) == [["x", "y"], None]


def test_a_folder_has_splits_by_file_names(tmp_path: Path) -> None:
    write(tmp_path / "c4-train.00000-of-00002.json", "a")
    write(tmp_path / "c4-train.00001-of-00002.json", "b")
    write(tmp_path / "c4-validation.00000-of-00001.json", "c")
    write(tmp_path / "trainer_notes.txt", "not a split")
    write(tmp_path / ".hidden-train.json", "hidden")
    (tmp_path / "README.md").write_text("what this is")
    assert both(tmp_path) == [["a", "b"], ["c"]]
    assert both(tmp_path, "validation", "train") == [["c"], ["a", "b"]]


def test_a_folder_has_splits_by_folders(tmp_path: Path) -> None:
    write(tmp_path / "train" / "deep" / "0.jsonl", "a")
    write(tmp_path / "train" / "1.jsonl", "b")
    write(tmp_path / "held" / "0.jsonl", "c")
    assert both(tmp_path) == [["b", "a"], None]
    assert both(tmp_path, "train", "held") == [["b", "a"], ["c"]]


def test_a_folder_without_names_of_splits_is_a_training_split(tmp_path: Path) -> None:
    write(tmp_path / "0.jsonl", "a")
    write(tmp_path / "1.jsonl", "b")
    assert both(tmp_path) == [["a", "b"], None]


@pytest.mark.parametrize("function", [hub_tables, hub_files])
def test_a_repository_with_splits(tmp_path: Path, function: object) -> None:
    write(tmp_path / "train.jsonl", "a", "b")
    write(tmp_path / "validation.jsonl", "c")
    names, open_split = function(str(tmp_path), None, "text")  # type: ignore[operator]
    assert sorted(names) == ["train", "validation"]
    assert [list(open_split(name)) for name in ("train", "validation")] == [["a", "b"], ["c"]]


def test_a_stream_is_the_files_of_the_repository(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", "a")
    part = hub_files(str(tmp_path), None, "text")[1]("train")
    assert isinstance(part, FileDocuments)
    assert part.files == (file,)
    (tmp_path / "train.jsonl").rename(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"data.streaming: cannot be streamed; found '.*csv'"):
        hub_files(str(tmp_path), None, "text")


def test_a_hub_id_is_asked_for_with_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(source: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((source, config, split))
        return datasets.Dataset.from_dict({"text": [split]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "test"])
    train, validation = opened("owner/name", config="en")
    assert [list(train), list(validation or [])] == [["train"], ["test"]]
    assert asked == [("owner/name", "en", "train"), ("owner/name", "en", "test")]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("owner/unknown", "neither here nor a data set of the hub that can be reached .*owner/unk"),
        ("no/such/folder", "data.source: no such file or folder; found 'no/such/folder'"),
        ("missing.jsonl", "no such file or folder; found 'missing.jsonl'; accepted: embedded"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_sources(source: str, line: str, streaming: bool) -> None:
    with pytest.raises(InputError, match=line):
        opened(source, streaming=streaming)


def test_unknown_configurations_and_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", "a")
    write(tmp_path / "test.jsonl", "b")
    for function in (hub_tables, hub_files):
        with pytest.raises(InputError, match=r"BuilderConfig 'de' not found.*, de'"):
            function(str(tmp_path), "de", "text")
    for names, line in (
        (("trian",), "train_split: .* no such split.*; found 'trian'; accepted: test, train"),
        (("train", "dev"), "val_split: .* no such split.*; found 'dev'; accepted: test, train"),
    ):
        with pytest.raises(InputError, match=line):
            opened(tmp_path, *names)
    with pytest.raises(InputError, match=r"data.config: is for data sets on the hub; found 'en'"):
        opened(tmp_path, config="en")


def test_folders_and_files_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no text files"):
        opened(tmp_path)
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"unknown format; found .*a.csv"):
        opened(tmp_path / "a.csv")
