from __future__ import annotations

from pathlib import Path

import pytest

from rrr_lightning.data.documents import open_documents
from rrr_lightning.data.splits import choose_splits, is_ignored, split_files
from rrr_lightning.errors import InputError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "valid", "test"), ("train", "valid", "test")),
        (("Train", "Val"), ("Train", "Val", None)),
        (("training", "dev", "TEST"), ("training", "dev", "TEST")),
        (("train", "eval", "extra"), ("train", "eval", None)),
        (("train", "test"), ("train", "test", "test")),
    ],
)
def test_any_word_for_a_split(names: tuple[str, ...], expected: tuple[str | None, ...]) -> None:
    assert choose_splits(names, "here") == expected


@pytest.mark.parametrize("names", [("train", "Train"), ("train", "val", "dev")])
def test_two_splits_for_one_role_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"data.source: here has several splits for"):
        choose_splits(names, "here")


def test_a_name_that_the_user_sets_is_taken() -> None:
    assert choose_splits(("train", "val", "dev"), "here", "train", "dev").validation == "dev"


def test_files_are_grouped_by_the_outermost_name() -> None:
    groups = split_files(["train/dev.txt", "c4-Train.0.json", "x.txt"], ("train", None))
    assert groups == {"train": ["train/dev.txt"], "Train": ["c4-Train.0.json"], None: ["x.txt"]}
    for paths in (["train/a.txt", "train.txt"], ["train-dev.txt"]):
        with pytest.raises(InputError, match=r"data\.source"):
            split_files(paths, ())


def test_what_is_no_data() -> None:
    assert all(map(is_ignored, ("README.txt", "LICENSE", ".x", "Thumbs.db", "notes.md")))
    assert not any(map(is_ignored, ("notice.png", "readme.jsonl", "data.csv")))


@pytest.mark.parametrize("stray", ["train-1.jsonl.xz", "train-2.csv", "more.tsv", "train2.jsonl"])
def test_text_files_that_would_be_left_out_are_refused(stray: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / stray).write_text('{"text": "b"}\n')
    with pytest.raises(InputError, match=stray.partition(".")[0]):
        open_documents(str(tmp_path), None, "train", None, "text", False)


def test_a_folder_of_save_to_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="save_to_disk"):
        open_documents(str(tmp_path), None, "train", None, "text", False)


def test_other_files_are_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "other.jsonl").write_text('{"text": "b"}\n')
    open_documents(str(tmp_path), None, "train", None, "text", False)
    assert "not used, by their names: other.jsonl" in caplog.text
