"""Every quirk of the official files has a file here that was written for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.glue_rows import GlueRows
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.data.glue_tsv import MOST_BROKEN_LINES, read_tsv, tsv_files
from rrr_lightning.errors import InputError
from tests.data.glue_files import LINE_SEPARATOR, write_lines

RTE = ("index", "sentence1", "sentence2", "label")
QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read(folder: Path, task: str, split: str) -> GlueRows:
    files = tsv_files(folder, TASKS[task], split)
    assert files is not None
    return read_tsv(files, TASKS[task], split)


def test_columns_go_by_their_headers(tmp_path: Path) -> None:
    lines = [RTE, (0, "a b", "c", "not_entailment"), (1, "d", "e", "entailment")]
    write_lines(tmp_path / "train.tsv", lines)
    rows = read(tmp_path, "rte", "train")
    assert rows.texts == (["a b", "d"], ["c", "e"])
    assert rows.labels == [1, 0]


@pytest.mark.parametrize("quoted", ['"never closed', '"a" and b', "'x", '""'])
def test_a_quotation_mark_is_a_character(tmp_path: Path, quoted: str) -> None:
    lines = [RTE, (0, quoted, "b", "entailment"), (1, "c", '"', "entailment")]
    write_lines(tmp_path / "train.tsv", lines)
    assert read(tmp_path, "rte", "train").texts == ([quoted, "c"], ["b", '"'])


def test_cola_has_a_header_in_its_test_file_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.tsv", [("gj04", 1, "", "One."), ("bc01", 0, "*", "Two?")])
    write_lines(tmp_path / "test.tsv", [("index", "sentence"), (0, "Three."), (1, "Four.")])
    rows = read(tmp_path, "cola", "train")
    assert rows.texts == (["One.", "Two?"],)
    assert rows.labels == [1, 0]
    rows = read(tmp_path, "cola", "test")
    assert rows.texts == (["Three.", "Four."],)
    assert rows.labels is None


def mrpc_pair(quality: int, number: int) -> tuple[Any, ...]:
    return quality, number, number + 1, f"first {number}", f"second {number}"


def test_mrpc_is_split_by_the_ids_of_its_validation_rows(tmp_path: Path) -> None:
    pairs = [mrpc_pair(number % 2, 10 * number) for number in range(5)]
    whole = [MRPC, *pairs]
    write_lines(tmp_path / "msr_paraphrase_train.txt", whole, start=BYTE_ORDER_MARK)
    write_lines(tmp_path / "msr_paraphrase_test.txt", [MRPC, mrpc_pair(1, 90)], BYTE_ORDER_MARK)
    assert tsv_files(tmp_path, TASKS["mrpc"], "train") is None  # which rows are to train on?
    write_lines(tmp_path / "dev_ids.tsv", [(10, 11), (40, 41)])
    assert read(tmp_path, "mrpc", "train").texts[0] == ["first 0", "first 20", "first 30"]
    rows = read(tmp_path, "mrpc", "validation")
    assert rows.texts == (["first 10", "first 40"], ["second 10", "second 40"])
    assert rows.labels == [1, 0]
    assert read(tmp_path, "mrpc", "test").labels is None


def test_mrpc_in_files_of_their_own(tmp_path: Path) -> None:
    write_lines(tmp_path / "dev.tsv", [MRPC, mrpc_pair(1, 10)], start=BYTE_ORDER_MARK)
    assert read(tmp_path, "mrpc", "validation").labels == [1]


def qqp_pair(number: int) -> tuple[Any, ...]:
    return number, 2 * number, 2 * number + 1, f"is {number}?", f"was {number}?", number % 2


def test_rows_of_qqp_that_a_line_break_cut_in_two_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [QQP, qqp_pair(1), (2, 4, 5, '"Was it a real'), ('"', "Is it?", 0), qqp_pair(3)]
    write_lines(tmp_path / "train.tsv", lines)
    with caplog.at_level(logging.WARNING):
        rows = read(tmp_path, "qqp", "train")
    assert rows.texts[0] == ["is 1?", "is 3?"]
    assert rows.labels == [1, 1]
    assert "2 lines that do not hold a whole row are left out" in caplog.text
    assert "the first is line 3" in caplog.text


def test_more_of_them_than_the_official_file_has_are_refused(tmp_path: Path) -> None:
    cut = [(number, "cut") for number in range(MOST_BROKEN_LINES + 1)]
    write_lines(tmp_path / "train.tsv", [QQP, *map(qqp_pair, range(9)), *cut])
    line = MOST_BROKEN_LINES + 11
    with pytest.raises(InputError, match=rf"train\.tsv, line {line} has missing fields"):
        read(tmp_path, "qqp", "train")


def test_labels_of_mnli_are_the_last_of_many_fields(tmp_path: Path) -> None:
    header = ("index", "pairID", "sentence1", "sentence2", "label1", "label2", "gold_label")
    line = (0, "1e", "a", "b", "neutral", "neutral", "contradiction")
    write_lines(tmp_path / "dev_mismatched.tsv", [header, line])
    rows = read(tmp_path, "mnli", "validation_mismatched")
    assert (rows.texts, rows.labels) == ((["a"], ["b"]), [2])


def test_scores_of_stsb(tmp_path: Path) -> None:
    header = ("index", "genre", "sentence1", "sentence2", "score")
    write_lines(
        tmp_path / "train.tsv", [header, (0, "news", "a", "b", "3.800"), (1, "", "c", "d", 0)]
    )
    assert read(tmp_path, "stsb", "train").labels == [3.8, 0.0]


def test_lines_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    odd = f"a{LINE_SEPARATOR}b\x0bc\x85d\re"
    path = write_lines(tmp_path / "train.tsv", [RTE, (0, odd, "x", "entailment")])
    assert read(tmp_path, "rte", "train").texts == ([odd], ["x"])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read(tmp_path, "rte", "train").texts == ([odd], ["x"])
    assert read(tmp_path, "rte", "train").labels == [0]


# ------------------------------------------------------------------------------ bad input


def refused(folder: Path, task: str, split: str, lines: list[Any], message: str) -> None:
    write_lines(folder / f"{split.replace('validation', 'dev')}.tsv", lines)
    with pytest.raises(InputError, match=message):
        read(folder, task, split)


def test_a_row_with_missing_fields_is_refused_with_file_and_line(tmp_path: Path) -> None:
    lines = [RTE, (0, "a", "b", "entailment"), (), (1, "a", "b")]
    message = r"train\.tsv, line 4 has missing fields; found 3; accepted: 4"
    refused(tmp_path, "rte", "train", lines, message)


def test_a_row_with_too_many_fields_is_refused(tmp_path: Path) -> None:
    lines = [("gj04", 1, "", "One.", "and more")]
    refused(tmp_path, "cola", "train", lines, r"line 1 has too many fields; found 5; accepted: 4")
    refused(
        tmp_path, "qqp", "test", [QQP[:1] + QQP[3:5], (0, "a", "b", "c")], "line 2 has too many"
    )


def test_a_label_outside_the_set_of_the_task_is_refused(tmp_path: Path) -> None:
    lines = [RTE, (0, "a", "b", "neutral")]
    message = r"train\.tsv, line 2 .*found 'neutral'; accepted: entailment, not_entailment"
    refused(tmp_path, "rte", "train", lines, message)
    header = ("sentence1", "sentence2", "score")
    for bad in ("much", "5.5", "nan"):
        lines = [header, ("a", "b", bad)]
        refused(tmp_path, "stsb", "train", lines, r"line 2 .*a score from 0 to 5")


def test_a_missing_header_is_refused(tmp_path: Path) -> None:
    message = r"line 1 has no field 'sentence2'; found 'index, sentence1, label'"
    refused(tmp_path, "rte", "train", [("index", "sentence1", "label"), (0, "a", 1)], message)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "rte", "validation", [RTE], r"dev\.tsv holds no rows")
    refused(tmp_path, "rte", "validation", [], r"has no field .*found 'an empty file'")
    refused(tmp_path, "cola", "validation", [], r"dev\.tsv holds no rows")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.tsv", [RTE, (0, "a", "b", "entailment")])
    path.write_bytes(path.read_bytes() + b"1\tcaf\xe9\tb\tentailment\n")
    with pytest.raises(InputError, match=r"train\.tsv, line 3 is not UTF-8"):
        read(tmp_path, "rte", "train")
