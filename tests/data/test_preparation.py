from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrr_lightning.data import preparation
from rrr_lightning.data.preparation import prepare
from rrr_lightning.data.tokenization import Encoder, MappedSamples
from rrr_lightning.data.wordpiece import SPECIAL_TOKENS, train_wordpiece
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import rebuild_tokenizer

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Texts:
    """Documents of 2 to 11 words; those whose number is in `short` have one word."""

    name = "texts"

    def __init__(self, count: int = 100, short: tuple[int, ...] = (), kill_at: int = -1) -> None:
        self.count, self.short, self.kill_at = count, short, kill_at

    def __iter__(self) -> Iterator[str]:
        for number in range(self.count):
            if number == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            words = WORDS[: 1 if number in self.short else 2 + number % 9]
            yield " ".join([*words, WORDS[number // 10 % 10]][: len(words)])

    def fingerprint(self) -> dict[str, Any]:
        return {"count": self.count, "short": list(self.short)}


TOKENIZER_JSON = train_wordpiece(Texts(), 100)
TOKENIZER = rebuild_tokenizer(
    TOKENIZER_JSON, {role: number for number, role in enumerate(SPECIAL_TOKENS)}
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "CHUNK_DOCUMENTS", 4)
    monkeypatch.setattr(preparation, "PART_CHUNKS", 3)


def prepared(cache: Path, documents: Texts, mode: Any = "truncate", length: int = 8) -> Path:
    return prepare(documents, Encoder(TOKENIZER, mode, length), TOKENIZER_JSON, cache)


def rows(folder: Path, length: int = 8) -> list[list[int]]:
    samples = MappedSamples(folder)
    ids, lengths = samples.padded(range(len(samples)), length, 0)
    return [row[:size].tolist() for row, size in zip(ids, lengths, strict=True)]


def test_every_document_is_a_sample_in_the_order_of_the_source(tmp_path: Path) -> None:
    folder = prepared(tmp_path, Texts())
    assert rows(folder) == TOKENIZER(list(Texts()), truncation=True, max_length=8)["input_ids"]
    summary = MappedSamples(folder).summary
    assert (summary["documents"], summary["short"], len(summary["parts"])) == (100, 0, 9)


def test_packed_documents_follow_each_other_within_a_part(tmp_path: Path) -> None:
    packed = rows(prepared(tmp_path, Texts(), mode="pack"))
    bare = TOKENIZER(list(Texts()), add_special_tokens=False)["input_ids"]
    expected = []
    for start in range(0, 100, 12):
        stream = [number for ids in bare[start : start + 12] for number in [*ids, 3]]
        expected += [[2, *stream[at : at + 7]] for at in range(0, len(stream) - 6, 7)]
    assert packed == expected


def test_what_is_prepared_is_kept_and_what_differs_is_not_mixed(tmp_path: Path) -> None:
    folder = prepared(tmp_path, Texts())
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepared(tmp_path, Texts()) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    others = [
        prepared(tmp_path, Texts(count=99)),
        prepared(tmp_path, Texts(), mode="pack"),
        prepared(tmp_path, Texts(), length=9),
        prepare(Texts(), Encoder(TOKENIZER, "truncate", 8), TOKENIZER_JSON + " ", tmp_path),
    ]
    assert len({folder, *others}) == 5


def run_and_kill(cache: Path, kill_at: int) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from tests.data.test_preparation import *;"
        "preparation.CHUNK_DOCUMENTS, preparation.PART_CHUNKS = 4, 3;"
        "prepared(Path(sys.argv[1]), Texts(kill_at=int(sys.argv[2])))"
    )
    arguments = [sys.executable, "-c", code, str(cache), str(kill_at)]
    assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_is_never_used_by_half(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole", Texts())
    cache = tmp_path / "killed"
    run_and_kill(cache, kill_at=70)
    (partial,) = cache.glob("*.partial")
    assert not (cache / whole.name).exists()
    kept = {path.name: path.stat().st_mtime_ns for path in partial.glob("part-*.arrow")}
    assert 0 < len(kept) < 9
    (partial / "part-00007.arrow.writing").write_text("half a part")
    folder = prepared(cache, Texts())
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    for name in sorted(path.name for path in whole.glob("part-*.arrow")):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert rows(folder) == rows(whole)
    assert not list(cache.glob("*.partial"))


def test_documents_of_fewer_than_two_tokens_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = prepared(tmp_path, Texts(short=(3, 50)))
    assert "texts: 2 of 100 documents have fewer than two tokens and are left out." in caplog.text
    assert len(MappedSamples(folder)) == 98
    kept = [text for text in Texts(short=(3, 50)) if " " in text]
    assert rows(folder) == TOKENIZER(kept, truncation=True, max_length=8)["input_ids"]


@pytest.mark.parametrize("mode", ["truncate", "pack"])
def test_a_source_without_samples_is_refused(tmp_path: Path, mode: str) -> None:
    line = (
        "data.source: gives no sample: of 3 documents 3 have fewer than two tokens; found 'texts'"
    )
    with pytest.raises(InputError, match=line):
        prepared(tmp_path, Texts(count=3, short=(0, 1, 2)), mode)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_error_of_a_document_stops_the_preparation(tmp_path: Path) -> None:
    class Broken(Texts):
        def __iter__(self) -> Iterator[str]:
            yield from super().__iter__()
            raise InputError("is corrupt", key="data.source", found="file")

    with pytest.raises(InputError, match="is corrupt; found 'file'"):
        prepared(tmp_path, Broken())
    assert len(rows(prepared(tmp_path, Texts()))) == 100


def test_ids_are_stored_in_two_bytes(tmp_path: Path) -> None:
    samples = MappedSamples(prepared(tmp_path, Texts()))
    assert samples._parts[0][0].dtype == np.uint16
