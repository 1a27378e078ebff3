from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer

from rrr_lightning.data.tokenizer import (
    SPECIAL_TOKENS,
    load_tokenizer,
    rebuild_tokenizer,
    single_threaded_tokenizers,
    train_wordpiece,
    trained_size,
)
from rrr_lightning.errors import InputError

TEXTS = [
    "The cat sat on the mat, and the café's cats sat on the other mats.",
    "Another sentence about sitting cats: 3 cats sit, 4 are sitting, 5 have sat.",
    "Überall sitzen Katzen auf Matten. 世界",
] * 3


def ids_of(tokenizer: object) -> dict[str, int]:
    return {role: getattr(tokenizer, f"{role}_id") for role in SPECIAL_TOKENS}


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


def test_training_gives_the_same_in_every_process() -> None:
    code = (
        "from tests.data.test_tokenizer import *;"
        "print(hashlib.sha256(train_wordpiece(TEXTS, 300).encode()).hexdigest())"
    )
    expected = hashlib.sha256(train_wordpiece(TEXTS, 300).encode()).hexdigest()
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.stdout.split() == [expected], run.stderr


def test_the_most_frequent_letters_form_the_alphabet() -> None:
    vocabulary = json.loads(train_wordpiece(["aaa bbb"] * 9 + ["q"], 100))["model"]["vocab"]
    assert {"a", "##a", "b", "##b", "q"} <= set(vocabulary)
    vocabulary = json.loads(train_wordpiece(["abc"] * 9 + ["q"], 100))["model"]["vocab"]
    assert "q" not in vocabulary


def test_a_tokenizer_comes_back_from_what_a_checkpoint_holds(rrr_data: Path) -> None:
    bert = load_tokenizer(str(rrr_data / "bert-base-uncased"))
    text = "Hello, World! unaffable"
    expected = [101, 7592, 1010, 2088, 999, 14477, 20961, 3468, 102]
    assert bert(text)["input_ids"] == expected
    again = rebuild_tokenizer(bert.backend_tokenizer.to_str(), ids_of(bert))
    assert again(text)["input_ids"] == expected
    assert ids_of(again) == ids_of(bert)
    assert again.is_fast


def test_threads_are_off_inside_and_as_before_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for former in (None, "true"):
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        if former:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", former)
        with single_threaded_tokenizers():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        assert os.environ.get("TOKENIZERS_PARALLELISM") == former


@pytest.mark.parametrize("spec", ["train:", "train:12k", "train:-5", "train:99"])
def test_sizes_that_are_none(spec: str) -> None:
    with pytest.raises(InputError, match=f"tokenizer: is no size of a vocabulary; found '{spec}'"):
        trained_size(spec)


def test_names_are_no_sizes() -> None:
    assert trained_size("bert-base-uncased") is None
    assert trained_size("train:4096") == 4096


def test_tokenizers_that_are_not_there(tmp_path: Path, rrr_data: Path) -> None:
    for spec in (str(tmp_path), "owner/unknown"):
        with pytest.raises(InputError, match=f"no tokenizer can be loaded.*found '{spec}'"):
            load_tokenizer(spec)
    shutil.copy(rrr_data / "bert-base-uncased" / "tokenizer_config.json", tmp_path)
    with pytest.raises(InputError, match=r"data\.tokenizer: "):  # its vocabulary is missing
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("missing", ["mask_token", "pad_token"])
def test_a_tokenizer_without_a_needed_token(tmp_path: Path, missing: str) -> None:
    tokens = {role: token for role, token in SPECIAL_TOKENS.items() if role != missing}
    backend = Tokenizer.from_str(train_wordpiece(TEXTS, 300))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(
        tmp_path
    )
    line = f"data.tokenizer: has no {missing.replace('_', ' ')}; found .*; accepted: a tokenizer"
    with pytest.raises(InputError, match=line):
        load_tokenizer(str(tmp_path))
