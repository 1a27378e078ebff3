"""Files are written by other tools where there are any, and every damage names its file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rrr_lightning.data.text_files import kind_of, read_documents, sizes_of
from rrr_lightning.errors import InputError

TEXTS = ["one\ttwo", "Grüße, 世界", "", "a\nb", "🙂 last"]


def lines(texts: list[str] = TEXTS) -> bytes:
    return "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in texts).encode()


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def table(path: Path, column: Any, **settings: Any) -> str:
    parquet.write_table(pa.table({"text": column, "url": ["x"] * len(column)}), path, **settings)
    return str(path)


def every_kind(folder: Path) -> list[str]:
    return [
        table(folder / "a.parquet", TEXTS, row_group_size=2),
        table(folder / "b.parquet", pa.array(TEXTS, pa.large_string())),
        write(folder / "c.jsonl", lines()),
        write(folder / "d.json.gz", gzip.compress(lines()[:30]) + gzip.compress(lines()[30:])),
        write(folder / "e.jsonl.zst", zstd(lines()[:30]) + zstd(lines()[30:])),
        write(folder / "f.JSONL", b"\xef\xbb\xbf" + lines().replace(b"\n", b"\r\n\r\n")),
    ]


def read(file: str, start: int) -> tuple[list[str], int]:
    """The documents and what the reader returns: how many the file has."""
    documents, reader = [], read_documents(file, "text", start)
    while True:
        try:
            documents.append(next(reader))
        except StopIteration as end:
            return documents, end.value


def test_every_format_gives_the_same_documents_from_any_start(tmp_path: Path) -> None:
    for file in every_kind(tmp_path):
        for start in range(len(TEXTS) + 2):
            assert read(file, start) == (TEXTS[start:], len(TEXTS)), (file, start)


def test_a_blank_line_ends_a_document_of_a_text_file(tmp_path: Path) -> None:
    content = "\ufeff\nA title\nand a line.\n\n \n\nThe next.\r\n\r\nThe last"
    file = write(tmp_path / "a.txt", content.encode())
    packed = write(tmp_path / "a.txt.gz", gzip.compress(content.encode()))
    expected = ["A title\nand a line.", "The next.", "The last"]
    for start in range(4):
        assert read(file, start) == read(packed, start) == (expected[start:], 3)


def test_a_file_behind_an_address(tmp_path: Path) -> None:
    address = "file://" + write(tmp_path / "a.jsonl.gz", gzip.compress(lines()))
    assert list(read_documents(address, "text")) == TEXTS
    with pytest.raises(InputError, match="cannot be read"):
        list(read_documents(address + "x.jsonl", "text"))


def damaged(folder: Path, case: str) -> str:
    packed = gzip.compress(lines(["x" * 50, "y" * 500] * 50))
    bad = b'{"text": "caf\xe9"}\n'
    contents = {
        "cut.jsonl.gz": packed[: len(packed) // 2],
        "not.jsonl.gz": b"not compressed",
        "flipped.jsonl.gz": packed[:60] + bytes([packed[60] ^ 255]) + packed[61:],
        "cut.jsonl.zst": zstd(lines())[:-9],
        "not.jsonl.zst": b"not compressed at all",
        "not.parquet": b"PAR1 but no table",
        "latin.jsonl": lines() + bad,
        "latin.txt": b"good\n\nbad \xff\n",
        "latin.jsonl.gz": gzip.compress(bad),
        "surrogate.jsonl": b'{"text": "\\ud800"}\n',
        "empty.jsonl": b"",
        "blank.txt": b"\n \n",
        "empty.txt.gz": gzip.compress(b""),
        "no.jsonl": lines() + b"no json\n",
        "list.json": b"[1, 2]\n",
        "other.jsonl": b'{"txet": "a"}\n',
        "number.jsonl": b'{"text": 3}\n',
        "wall.txt": b"a line of a document\n" * 300_000,
    }
    return write(folder / case, contents[case])


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("cut.jsonl.gz", "is corrupt (Compressed file ended before the end-of-stream marker"),
        ("not.jsonl.gz", "is corrupt (Not a gzipped file"),
        ("flipped.jsonl.gz", "is corrupt ("),
        ("cut.jsonl.zst", "is corrupt ("),
        ("not.jsonl.zst", "is corrupt (ZSTD decompress failed"),
        ("not.parquet", "is corrupt (Parquet magic bytes not found"),
        ("latin.jsonl", "is not UTF-8; found '{file}, line 6'"),
        ("latin.txt", "is not UTF-8; found '{file}, line 3'"),
        ("latin.jsonl.gz", "is not UTF-8; found '{file}, line 1'"),
        ("surrogate.jsonl", "is not UTF-8; found '{file}, line 1'"),
        ("empty.jsonl", "holds no documents"),
        ("blank.txt", "holds no documents"),
        ("empty.txt.gz", "holds no documents"),
        ("no.jsonl", "is not JSON (Expecting value); found '{file}, line 6'"),
        ("list.json", "is a JSON list; found '{file}, line 1'; accepted: an object a line"),
        ("other.jsonl", "no such column; did you mean 'txet'?; found 'text'; accepted: txet"),
        ("number.jsonl", "line 1: column 'text' is not text; found 'int'"),
        ("wall.txt", "has 4 MiB without a blank line, which ends a document; found"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, case: str, line: str) -> None:
    file = damaged(tmp_path, case)
    with pytest.raises(InputError) as raised:
        list(read_documents(file, "text"))
    assert line.format(file=file) in str(raised.value)
    assert file in str(raised.value)


def test_wrong_parquet_columns(tmp_path: Path) -> None:
    numbers = table(tmp_path / "numbers.parquet", [1, 2])
    nulls = table(tmp_path / "nulls.parquet", ["a", None])
    empty = table(tmp_path / "empty.parquet", pa.array([], pa.string()))
    other = table(tmp_path / "other.parquet", ["a"])
    latin = table(tmp_path / "latin.parquet", pa.array([b"caf\xe9"]).view(pa.string()))
    for file, column, line in (
        (numbers, "text", "numbers.parquet: column 'text' is not text; found 'int64'"),
        (nulls, "text", "nulls.parquet, row 1: column 'text' is not text; found 'null'"),
        (empty, "text", "empty.parquet"),
        (other, "txt", "other.parquet has no such column; did you mean 'text'.*accepted: text, ur"),
        (latin, "text", "is not UTF-8; found '.*latin.parquet, row 0"),
    ):
        with pytest.raises(InputError, match=line):
            list(read_documents(file, column))


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    file = Path(table(tmp_path / "a.parquet", ["word " * 2000 + str(i) for i in range(50)]))
    content = bytearray(file.read_bytes())
    content[10:60] = bytes(50)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is corrupt .*a.parquet"):
        list(read_documents(str(file), "text"))


def test_missing_files_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        list(read_documents(str(tmp_path / "a.jsonl"), "text"))
    for name in ("a.csv", "a", "a.parquet.gz", "a.gz", "README"):
        assert kind_of(name) is None
        with pytest.raises(InputError, match=r"unknown format; found '.*accepted: .parquet"):
            list(read_documents(str(tmp_path / name), "text"))


def test_sizes_of_files(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{size}.jsonl", bytes(size)) for size in (77, 5, 0)]
    assert sizes_of(files) == sizes_of([f"file://{file}" for file in files]) == [77, 5, 0]
    with pytest.raises(InputError, match=r"cannot be read \(not found\); found 'file://.*b.jsonl'"):
        sizes_of([f"file://{tmp_path / 'b.jsonl'}"])


def test_lines_that_are_one_document_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = write(tmp_path / "one.txt", b"a\nb\nc\n")
    packed = write(tmp_path / "one.txt.gz", gzip.compress(b"\n\na\nb\n\n"))
    for file in (
        write(tmp_path / "two.txt", b"a\n\nb\n"),
        write(tmp_path / "short.txt", b"a\n"),
        write(tmp_path / "lines.jsonl", lines()),
    ):
        read(file, 0)
    with caplog.at_level("INFO"):
        for file in (one, one, packed):
            assert read(file, 0)[1] == 1
    said = "lines are one document, as blank lines separate documents"
    assert caplog.messages == [f"{one}: its 3 {said}", f"{packed}: its 2 {said}"]
