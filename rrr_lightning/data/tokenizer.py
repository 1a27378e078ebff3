"""Hugging Face tokenizers: by name or folder, and from what travels in a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rrr_lightning import tokens
from rrr_lightning.errors import InputError

NEEDED = ("mask_token", "pad_token", "cls_token", "sep_token")
NEEDED_TO_CLASSIFY = ("pad_token",)


def load_tokenizer(spec: str, needed: Sequence[str] = NEEDED) -> Any:
    """Returns the fast tokenizer of a folder or hub id."""
    import transformers

    accepted = "train:<size>, " * (needed == NEEDED)
    tokenizer = tokens.load_tokenizer(spec, "data.tokenizer", accepted)
    check_tokenizer(tokenizer, spec, needed)
    # transformers knows by its class what a tokenizer gives; this class is any tokenizer's.
    is_any = type(tokenizer) is transformers.PreTrainedTokenizerFast
    if is_any and "model_input_names" not in tokenizer.init_kwargs:
        tokenizer.model_input_names = _input_names(tokenizer.backend_tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: Any, name: str, needed: Sequence[str] = NEEDED) -> None:
    """Refuses a tokenizer that cannot serve a masked language model, or has not what is needed."""
    if not tokenizer.is_fast:
        raise InputError(
            "is not a fast tokenizer",
            key="data.tokenizer",
            found=name,
            accepted="a folder with tokenizer.json",
        )
    for role in needed:
        if getattr(tokenizer, role) is None:
            what = f"has no {role.replace('_', ' ')}"
            accepted = f"a tokenizer with {', '.join(needed).replace('_', ' ')}"
            raise InputError(what, key="data.tokenizer", found=name, accepted=accepted)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            "has no tokens but special ones; is its vocabulary file missing?",
            key="data.tokenizer",
            found=name,
        )


def rebuild_tokenizer(tokenizer_json: str, special_token_ids: Mapping[str, int]) -> Any:
    """Returns a fast tokenizer from what travels in a checkpoint.

    Of a pair of texts it gives `token_type_ids` where its special tokens go with some, as BERT's
    do and RoBERTa's do not. transformers knows that by the class of a tokenizer, which does not
    travel.
    """
    import transformers
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer_json)
    named = {name: backend.id_to_token(number) for name, number in special_token_ids.items()}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=_input_names(backend), **named
    )


def _input_names(backend: Any) -> list[str]:
    """What a tokenizer gives: `token_type_ids` where its special tokens go with some."""
    pair = backend.encode("a", "a")
    tells_texts_apart = any(pair.special_tokens_mask) and any(pair.type_ids)
    return ["input_ids", *["token_type_ids"] * tells_texts_apart, "attention_mask"]


@contextmanager
def single_threaded_tokenizers() -> Iterator[None]:
    """Keeps the library from starting threads of its own, which do not survive a fork."""
    former = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if former is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = former
