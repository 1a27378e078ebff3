from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.files import (
    PART,
    atomic_file,
    atomic_path,
    check_regular_files,
    content_of,
    read_json,
    read_yaml,
    sha256_of,
)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert not list(tmp_path.glob(f".*{PART}"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_former_file_and_no_rest(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"former")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"former"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_a_library_writes_is_whole_too(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_path(path) as part:
        part.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"

    def write() -> None:
        with atomic_path(path) as part:
            part.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"new"]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3 << 20)], ids=len)
def test_the_digest_is_that_of_the_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 5000 + b"]" * 5000, "levels|too deep|column"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "a key stands twice"),
        (b'{"a": "\xff"}', "no UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), "no UTF-8 text"),
        (b"\0\0", "line 1|odd characters"),
        (b'{"a": secret words: [', "line 1, column"),
        (b"9" * 5000, "numbers too long|odd characters"),
    ],
)
def test_damaged_files_are_refused_without_their_content(
    tmp_path: Path, read: Callable[[Path, str], Any], content: bytes, message: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"key: .*({message})") as caught:
        read(path, "key")
    assert "secret" not in str(caught.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(InputError, match=r"no regular file|cannot be read|no path"):
            read_json(path)
    with pytest.raises(InputError, match="no regular file"):
        check_regular_files(tmp_path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="too large"):
        read_json(tmp_path / "a")


def tenfold(item: str) -> str:
    """YAML in which each of nine lines repeats the line before it nine times."""
    return "".join(f"a{i}: &a{i} {item % ', '.join([f'*a{i - 1}'] * 9)}\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        ("a0: &a0 [1, 2, 3]\n" + tenfold("[%s]"), "more than 100000 values"),
        ("a0: &a0 {x: 1}\n" + tenfold("{<<: [%s]}"), "more than 100000 values"),
        ("a: &b [*b]", "holds itself"),
        ("a: &b {c: *b}", "holds itself"),
    ],
)
def test_aliases_that_would_fill_the_memory_are_refused(
    tmp_path: Path, bomb: str, message: str
) -> None:
    (tmp_path / "a.yaml").write_text(bomb)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "a.yaml")


def test_anchors_and_merges_of_an_ordinary_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {b: 1, c: [2]}\nd: *a\ne: {<<: *a, b: 3}\n")
    a = {"b": 1, "c": [2]}
    assert read_yaml(tmp_path / "a.yaml") == {"a": a, "d": a, "e": {"b": 3, "c": [2]}}


@pytest.mark.parametrize(
    ("content", "take"),
    [
        ({}, lambda found: found["version"]),
        ([], lambda found: found["version"]),
        ({"a": 1}, lambda found: found["a"]["b"]),
        ({"a": "x"}, lambda found: found["a"] + 1),
        ({"a": 10**400}, lambda found: float(found["a"])),
        (None, lambda found: found.get("a")),
        ({"a": 0}, lambda found: 1 / found["a"]),
    ],
)
def test_content_of_another_form_is_refused_in_one_line(
    tmp_path: Path, content: object, take: object
) -> None:
    with (
        pytest.raises(InputError, match=r"^data: a.json is damaged: .* (missing|expected)$"),
        content_of("a.json", "data"),
    ):
        take(content)  # type: ignore[operator]


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'["\udfff x"]', r'{"\ud83d": 1}'])
def test_half_a_character_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    for read in (read_json, read_yaml):
        with pytest.raises(InputError, match="odd characters"):
            read(path)
    path.write_text(r'["\ud83d\ude00", "\u00e9"]')
    assert read_json(path) == ["😀", "é"]
