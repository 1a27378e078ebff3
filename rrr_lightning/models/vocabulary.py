"""Vocabularies: which tokens, under which ids, and whether two sides mean the same by them.

Two vocabularies of one size can hold other tokens, and then every row of a teacher is nonsense; so
identity is checked token by token. A vocabulary may be padded, for the sake of fast matrix
products: the columns after the last real token mean nothing, and rows end before them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.errors import InputError, check

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # names a model on the hub


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Args:
        tokens: The tokens in the order of their ids; empty where an id has none.
        special_token_ids: The ids of the special tokens by name, such as `mask_token`.
        tokenizer_json: The whole tokenizer as `tokenizer.json` has it, where it is a fast one.
    """

    tokens: tuple[str, ...]
    special_token_ids: Mapping[str, int]
    tokenizer_json: str | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Returns the vocabulary of a Hugging Face tokenizer."""
        by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
        last, most = max(by_id, default=-1), 2 * len(by_id) + 1000
        check(
            last < most,
            "tokenizer",
            last,
            f"ids below {most}",
            f"an id is too large for {len(by_id)} tokens",
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return cls(
            tokens=tuple(by_id.get(token_id, "") for token_id in range(last + 1)),
            special_token_ids={
                name: tokenizer.convert_tokens_to_ids(token)
                for name, token in sorted(tokenizer.special_tokens_map.items())
                if isinstance(token, str)
            },
            tokenizer_json=None if backend is None else backend.to_str(),
        )

    @classmethod
    def of_data(cls, data: object) -> Vocabulary | None:
        """Returns the vocabulary of a data module, None where it does not tell its tokens."""
        tokens = getattr(data, "vocabulary", None)
        if tokens is None:
            return None
        special = dict(getattr(data, "special_token_ids", None) or {})
        return cls(tuple(tokens), special, getattr(data, "tokenizer_json", None))

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> Vocabulary | None:
        """Returns the vocabulary in what a checkpoint says about its network, None without one."""
        schema = description.get("schema") or {}
        if not schema.get("special_token_ids") or not schema.get("labels"):
            return None
        return cls(
            tokens=tuple(schema["labels"]),
            special_token_ids=dict(schema["special_token_ids"]),
            tokenizer_json=description.get("tokenizer_json"),
        )

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the tokens, which tells whether two sides mean the same by their ids."""
        return hashlib.sha256("\0".join(self.tokens).encode()).hexdigest()

    @property
    def schema(self) -> RowSchema:
        """What the columns of rows over this vocabulary mean."""
        return RowSchema(
            columns=self.size, labels=self.tokens, special_token_ids=self.special_token_ids
        )


def padded_size(size: int, multiple: int | None) -> int:
    """Returns the least multiple that holds a vocabulary; its own size where there is none.

    >>> padded_size(30522, 64)
    30528
    """
    if multiple is None:
        return size
    if multiple < 1:
        raise InputError(
            "must be positive",
            key="pad_vocabulary_to",
            found=multiple,
            accepted="a whole number from 1, such as 64, or null",
        )
    return -(-size // multiple) * multiple


def agree_on_vocabulary(
    size: int, known: Vocabulary | None, pad_token_id: int | None, data: object
) -> Vocabulary | None:
    """Returns the vocabulary, from `data` where the model does not know its tokens."""
    found = getattr(data, "vocabulary_size", None)
    if isinstance(found, int) and found != size:
        raise InputError(
            "differs from the data's number of tokens",
            key="model.vocabulary_size",
            found=size,
            accepted=str(found),
        )
    given = Vocabulary.of_data(data)
    if given is None:
        return known
    if known is not None:
        check_same_tokens(known, given, "data")
    padding = given.special_token_ids.get("pad_token")
    if None not in (pad_token_id, padding) and pad_token_id != padding:
        raise InputError(
            "the network takes another token for padding than the data's tokenizer",
            key="model.network.pad_token_id",
            found=pad_token_id,
            accepted=str(padding),
        )
    return given


def check_same_tokens(known: Vocabulary, given: Vocabulary, key: str) -> None:
    """Refuses a vocabulary that is not the model's."""
    pairs = list(zip(known.tokens, given.tokens, strict=False))
    differ = [token_id for token_id, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if known.size != given.size or differ:
        first = f", the first with id {differ[0]}" if differ else ""
        raise InputError(
            f"another vocabulary than the model's: {len(differ)} tokens differ{first}",
            key=key,
            found=pairs[differ[0]][1] if differ else f"{given.size} tokens",
            accepted=repr(pairs[differ[0]][0]) if differ else f"{known.size} tokens",
        )
    for name in sorted(known.special_token_ids.keys() & given.special_token_ids.keys()):
        if known.special_token_ids[name] != given.special_token_ids[name]:
            raise InputError(
                f"{name} has another id than the model's",
                key=key,
                found=given.special_token_ids[name],
                accepted=str(known.special_token_ids[name]),
            )
