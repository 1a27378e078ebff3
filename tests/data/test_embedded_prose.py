from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rrr_lightning.data import embedded
from rrr_lightning.data.embedded import EmbeddedProse, docstrings, document_of, prose_of
from rrr_lightning.errors import InputError

SOURCE = b'''
"""The module is about arrays, and about what can be done with them.

    >>> import arrays
"""

class Array:
    """An array."""

    def sort(self):
        """Sorts the array in place."""

if True:
    async def fetch():
        """Fetches arrays."""

def bare(): return "no docstring"
'''


@pytest.fixture(scope="module")
def documents() -> Iterator[tuple[str, ...]]:
    """The prose of two small packages: that of all takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "PACKAGES", {"PIL": "pillow", "datasets": "datasets"})
        embedded.all_prose.cache_clear()
        yield embedded.all_prose()
    embedded.all_prose.cache_clear()


def test_docstrings_of_modules_classes_and_functions() -> None:
    assert [text.splitlines()[0] for text in docstrings(SOURCE)] == [
        "The module is about arrays, and about what can be done with them.",
        "An array.",
        "Sorts the array in place.",
        "Fetches arrays.",
    ]
    assert list(docstrings(b"def broken(:")) == []
    assert list(docstrings(b"\0")) == []


@pytest.mark.parametrize(
    "block",
    [
        ">>> x = 1 # and this is what it does to all of the others here.",
        ".. note:: This is what it does to all of the others in here.",
        "Args:\n    x: What is taken by this function from all of the others.",
        "x : array of shape (n,)\n    What is taken by this function from all of the others.",
        "Too few words.",
        "| name | what it is | what it does | what it is not |",
        "Returns f(x, y=2) + g_1[0] * self.h(k_2) - A.T @ b.x for i in n.",
        "this does not begin like a sentence, although it goes on like one.",
        "This does not end like a sentence and goes on to nowhere::",
    ],
)
def test_what_is_not_prose_is_dropped(block: str) -> None:
    assert prose_of(block) == ""


def test_markup_is_removed() -> None:
    block = "See `the guide <https://x.org/a>`_ and :meth:`~A.run` for **all** of ``it`` [2]_.\n"
    assert prose_of(block) == "See the guide and A.run for all of it."


def test_what_was_said_before_is_left_out() -> None:
    first, second = (
        "Some words that make a whole sentence of their own.",
        "Other words that make another one of their own.",
    )
    seen: set[bytes] = set()
    assert document_of(f"{first}\n\n{second}", seen) == f"{first}\n{second}"
    assert document_of(first.replace("words", "WORDS"), seen) == ""


def test_it_is_prose_and_nothing_is_said_twice(documents: tuple[str, ...]) -> None:
    paragraphs = [part.lower() for text in documents for part in text.split("\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    letters = "".join(documents)
    assert sum(c.isalpha() or c in " .,\n" for c in letters) > 0.95 * len(letters)


def test_the_splits_share_nothing_and_are_the_whole(documents: tuple[str, ...]) -> None:
    train, validation = list(EmbeddedProse("train")), list(EmbeddedProse("validation"))
    assert sorted(train + validation) == sorted(documents)
    assert not set(train) & set(validation)
    assert 0.03 < len(validation) / len(documents) < 0.07
    with pytest.raises(InputError, match="no such split; found 'test'"):
        EmbeddedProse("test")


def test_the_fingerprint_names_the_versions_and_the_split(documents: tuple[str, ...]) -> None:
    train, validation = (
        EmbeddedProse("train").fingerprint(),
        EmbeddedProse("validation").fingerprint(),
    )
    assert train["versions"]["PIL"]
    assert train != validation
    assert train == EmbeddedProse("train").fingerprint()


@pytest.mark.slow
def test_any_process_reads_the_same_and_imports_none_of_the_packages() -> None:
    code = (
        "import hashlib, sys; from rrr_lightning.data.embedded import all_prose;"
        "before = {*sys.modules}; documents = all_prose();"
        "print(len(documents), sum(map(len, documents)));"
        "print({'sklearn', 'transformers', 'matplotlib'} & (set(sys.modules) - before));"
        "print(hashlib.sha256(repr(documents).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in "12"
    ]
    assert runs[0] == runs[1]
    documents, letters = map(int, runs[0][0].split())
    assert documents > 5_000
    assert letters > 2_000_000
    assert runs[0][1] == "set()"
