from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest

from rrr_lightning.data.documents import (
    FileDocuments,
    FirstDocuments,
    TableDocuments,
    TuningDocuments,
)
from rrr_lightning.errors import InputError


def numbered(folder: Path, count: int, name: str = "a.txt") -> str:
    path = folder / name
    path.write_text("\n\n".join(f"{name} {number}" for number in range(count)))
    return str(path)


def table(**columns: list[object]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def test_files_follow_each_other(tmp_path: Path) -> None:
    files = [numbered(tmp_path, 2, "b.txt"), numbered(tmp_path, 1, "a.txt")]
    documents = FileDocuments(files, "text")
    assert list(documents) == list(documents) == ["b.txt 0", "b.txt 1", "a.txt 0"]
    assert documents.name == f"{files[0]} and 1 more"


def test_the_fingerprint_of_files_follows_their_state_not_their_folder(tmp_path: Path) -> None:
    file = numbered(tmp_path, 3)
    before = FileDocuments([file], "text").fingerprint()
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "a.txt"
    os.rename(file, moved)
    assert FileDocuments([str(moved)], "text").fingerprint() == before
    assert FileDocuments([str(moved)], "body").fingerprint() != before
    os.utime(moved, (1, 1))
    assert FileDocuments([str(moved)], "text").fingerprint() != before
    address = FileDocuments(["hf://datasets/a/b@0/c.jsonl"], "text")
    assert address.fingerprint()["files"] == [["hf://datasets/a/b@0/c.jsonl"]]


def test_a_table_of_the_hub() -> None:
    texts = [f"document {number}" for number in range(2500)]
    documents = TableDocuments(table(body=texts, n=list(range(2500))), "owner/name", "body")
    assert list(documents) == list(documents) == texts
    assert documents.fingerprint()["column"] == "body"
    assert documents.fingerprint() != TableDocuments(table(body=["x"]), "n", "body").fingerprint()


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"txet": ["a"]}, "owner/name has no such column; did you mean 'txet'"),
        ({"text": [1]}, "owner/name: column 'text' is not text; found .*int64"),
        ({"text": [["a"]]}, "column 'text' is not text"),
        ({"text": ["a", None]}, "data.column: is null; found 'row 1 of owner/name'"),
    ],
)
def test_tables_without_text_are_refused(columns: dict[str, list[object]], line: str) -> None:
    with pytest.raises(InputError, match=line):
        list(TableDocuments(table(**columns), "owner/name", "text"))


def test_the_first_documents(tmp_path: Path) -> None:
    documents = FileDocuments([numbered(tmp_path, 5)], "text")
    first = FirstDocuments(documents, 2)
    assert list(first) == list(first) == ["a.txt 0", "a.txt 1"]
    assert first.fingerprint() == {**documents.fingerprint(), "limit": 2}


def test_a_tuning_split_shares_nothing_and_is_the_whole(tmp_path: Path) -> None:
    documents = FileDocuments([numbered(tmp_path, 9000)], "text")
    held_out = TuningDocuments(documents, 0.1, held_out=True)
    rest = TuningDocuments(documents, 0.1, held_out=False)
    assert sorted([*held_out, *rest]) == sorted(documents)
    assert list(held_out) == list(held_out)
    share = [int(text.split()[1]) for text in held_out]
    assert abs(len(share) / 9000 - 0.1) < 0.016  # 5 standard deviations
    assert abs(sum(number >= 4096 for number in share) / 4904 - 0.1) < 0.022
    assert held_out.fingerprint() != rest.fingerprint() != documents.fingerprint()
    longer = FileDocuments([numbered(tmp_path, 9500)], "text")
    assert set(held_out) <= set(TuningDocuments(longer, 0.1, held_out=True))
