from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rrr_lightning.data.documents import FileDocuments
from rrr_lightning.data.wordpiece import (
    SPECIAL_TOKENS,
    train_wordpiece,
    trained_size,
    trained_tokenizer,
)
from rrr_lightning.errors import InputError

TEXTS = [
    "The cat sat on the mat, and the café's cats sat on the other mats.",
    "Another sentence about sitting cats: 3 cats sit, 4 are sitting, 5 have sat.",
    "Überall sitzen Katzen auf Matten. 世界",
] * 3


def test_the_vocabulary_is_like_berts_and_of_the_size_asked_for() -> None:
    text = train_wordpiece(TEXTS * 200, 500)
    model = json.loads(text)["model"]
    assert model["type"] == "WordPiece"
    assert list(model["vocab"])[:5] == list(SPECIAL_TOKENS.values())
    assert list(model["vocab"].values()) == list(range(len(model["vocab"])))
    assert len(model["vocab"]) <= 500
    tokenizer = Tokenizer.from_str(text)
    assert tokenizer.encode("The Cats sat").tokens == ["[CLS]", "the", "cats", "sat", "[SEP]"]
    assert tokenizer.encode("a", "b").type_ids == [0, 0, 0, 1, 1]


@pytest.mark.slow
def test_training_gives_the_same_in_every_process() -> None:
    code = (
        "from tests.data.test_wordpiece import *;"
        "print(hashlib.sha256(train_wordpiece(TEXTS, 300).encode()).hexdigest())"
    )
    expected = hashlib.sha256(train_wordpiece(TEXTS, 300).encode()).hexdigest()
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout.split() == [expected], run.stderr


def test_the_most_frequent_letters_form_the_alphabet() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz01234"
    vocabulary = json.loads(train_wordpiece([letters] * 9 + ["α"], 100))["model"]["vocab"]
    assert {*letters, *(f"##{letter}" for letter in letters), "α"} <= set(vocabulary)
    vocabulary = json.loads(train_wordpiece([f"{letters}5"] * 9 + ["α"], 100))["model"]["vocab"]
    assert "5" in vocabulary
    assert "α" not in vocabulary


@pytest.mark.parametrize("spec", ["train:", "train:12k", "train:-5", "train:99"])
def test_sizes_that_are_none(spec: str) -> None:
    with pytest.raises(InputError, match=f"tokenizer: is no size of a vocabulary; found '{spec}'"):
        trained_size(spec)


def test_names_are_no_sizes() -> None:
    assert trained_size("bert-base-uncased") is None
    assert trained_size("train:4096") == 4096


def test_a_trained_tokenizer_is_kept_for_its_documents_and_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    documents, cache = FileDocuments([str(tmp_path / "a.txt")], "text"), tmp_path / "cache"
    first = trained_tokenizer(documents, 300, cache)
    (kept,) = cache.glob("tokenizer-*/tokenizer.json")
    assert kept.read_text() == train_wordpiece(TEXTS, 300)
    assert first.mask_token_id == 4
    assert first.is_fast
    before = kept.stat().st_mtime_ns
    assert trained_tokenizer(documents, 300, cache).get_vocab() == first.get_vocab()
    assert kept.stat().st_mtime_ns == before
    trained_tokenizer(documents, 200, cache)
    assert len(list(cache.glob("tokenizer-*/tokenizer.json"))) == 2
