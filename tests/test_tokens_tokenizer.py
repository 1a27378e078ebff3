from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing, ByteLevel, RobertaProcessing

from rrr_lightning.data.wordpiece import SPECIAL_TOKENS, train_wordpiece
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import (
    NEEDED_TO_CLASSIFY,
    check_tokenizer,
    load_fast_tokenizer,
    rebuild_tokenizer,
    single_threaded_tokenizers,
)


def ids_of(tokenizer: object) -> dict[str, int]:
    return {role: getattr(tokenizer, f"{role}_id") for role in SPECIAL_TOKENS}


def test_a_tokenizer_comes_back_from_what_a_checkpoint_holds(rrr_data: Path) -> None:
    bert = load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))
    text = "Hello, World! unaffable"
    expected = [101, 7592, 1010, 2088, 999, 14477, 20961, 3468, 102]
    assert bert(text)["input_ids"] == expected
    again = rebuild_tokenizer(bert.backend_tokenizer.to_str(), ids_of(bert))
    assert again(text)["input_ids"] == expected
    assert ids_of(again) == ids_of(bert)
    assert again.is_fast
    assert again.model_input_names == bert.model_input_names
    assert dict(again("Hello", text)) == dict(bert("Hello", text))
    assert again("Hello", text)["token_type_ids"] == [0, 0, 0, *[1] * 8]


def test_token_types_are_given_where_special_tokens_go_with_them(rrr_data: Path) -> None:
    bert = load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))
    backend, ends = bert.backend_tokenizer, [("[SEP]", 102), ("[CLS]", 101)]
    for processor, told in (
        (BertProcessing(*ends), True),
        (RobertaProcessing(*ends), False),
        (ByteLevel(), False),
    ):
        backend.post_processor = processor
        again = rebuild_tokenizer(backend.to_str(), ids_of(bert))
        assert ("token_type_ids" in again("a", "b")) == told


@pytest.mark.parametrize("told", [None, True, False])
def test_a_folder_of_no_class_tells_texts_apart_unless_it_says(
    rrr_data: Path, tmp_path: Path, told: bool | None
) -> None:
    bert = load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))
    named = ["input_ids", *["token_type_ids"] * bool(told), "attention_mask"]
    given = {} if told is None else {"model_input_names": named}
    special = {role: getattr(bert, role) for role in SPECIAL_TOKENS}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert.backend_tokenizer, **special, **given
    ).save_pretrained(tmp_path)
    again = load_fast_tokenizer(str(tmp_path))
    assert ("token_type_ids" in again("a", "b")) == (told is not False)


def test_threads_are_off_inside_and_as_before_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for former in (None, "true"):
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        if former:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", former)
        with single_threaded_tokenizers():
            assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        assert os.environ.get("TOKENIZERS_PARALLELISM") == former


def test_tokenizers_that_are_not_there(tmp_path: Path, rrr_data: Path) -> None:
    for spec in (str(tmp_path), "owner/unknown"):
        with pytest.raises(InputError, match=f"no tokenizer can be loaded.*found '{spec}'"):
            load_fast_tokenizer(spec)
    shutil.copy(rrr_data / "bert-base-uncased" / "tokenizer_config.json", tmp_path)
    with pytest.raises(InputError, match=r"data\.tokenizer: "):  # its vocabulary is missing
        load_fast_tokenizer(str(tmp_path))


def test_a_classifier_needs_no_token_but_padding(tmp_path: Path) -> None:
    backend = Tokenizer.from_str(train_wordpiece(["some words"], 300))
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    bare.save_pretrained(tmp_path)
    assert load_fast_tokenizer(str(tmp_path), NEEDED_TO_CLASSIFY).mask_token is None
    with pytest.raises(InputError, match="has no mask token"):
        load_fast_tokenizer(str(tmp_path))
    without = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(
        InputError, match=r"has no pad token; .*; accepted: a tokenizer with pad to"
    ):
        check_tokenizer(without, "x", NEEDED_TO_CLASSIFY)


@pytest.mark.parametrize("missing", ["mask_token", "pad_token"])
def test_a_tokenizer_without_a_needed_token(tmp_path: Path, missing: str) -> None:
    tokens = {role: token for role, token in SPECIAL_TOKENS.items() if role != missing}
    backend = Tokenizer.from_str(train_wordpiece(["some words"], 300))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(
        tmp_path
    )
    line = f"data.tokenizer: has no {missing.replace('_', ' ')}; found .*; accepted: a tokenizer"
    with pytest.raises(InputError, match=line):
        load_fast_tokenizer(str(tmp_path))
