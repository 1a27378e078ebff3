"""Tokenizers and vocabularies: loading, rebuilding from checkpoints, and comparing them.

Two vocabularies of one size can hold other tokens, and then every row of a teacher is nonsense; so
identity is checked token by token. A vocabulary may be padded, for the sake of fast matrix
products: the columns after the last real token mean nothing, and rows end before them.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check

# ----------------------------------------------------------------------
# Loads Hugging Face tokenizers, and says why one that is there cannot be opened.


# Files that hold the tokens of a tokenizer; those after the first two need further packages.
TOKEN_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
    "source.spm",
    "prophetnet.tokenizer",
    "bpe.codes",
    "tokenizer_config.json",
)
# What transformers needs to read the files of SentencePiece, by the names of modules.
_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}


def load_tokenizer(source: str, key: str, accepted: str = "") -> Any:
    """Loads a tokenizer from a local folder or the hub; no code from there is run."""
    import transformers

    folder = Path(source).expanduser()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else source, trust_remote_code=False
        )
        tokenizer("a")  # settings of wrong types show only then
        return tokenizer
    except Exception as error:  # files of many formats fail in many ways
        raise InputError(
            f"no tokenizer can be loaded from there ({_reason(folder, error)})",
            key=key,
            found=source,
            accepted=f"{accepted}a folder with tokenizer.json, or the id of a model on the hub "
            "that is cached or can be reached",
        ) from error


def _reason(folder: Path, error: Exception) -> str:
    """Why it failed; for SentencePiece's files transformers may name the wrong package."""
    pieces = [*folder.glob("*.model"), *folder.glob("*.spm")] if folder.is_dir() else []
    missing = [package for name, package in _SENTENCEPIECE.items() if not _is_installed(name)]
    if pieces and missing and not (folder / "tokenizer.json").is_file():
        return f"{pieces[0].name} needs `pip install {' '.join(missing)}`"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


# ----------------------------------------------------------------------
# Vocabularies: which tokens, under which ids, and whether two sides mean the same by them.


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


# ----------------------------------------------------------------------
# What a data module of texts tells its model about the tokens.


class TellsVocabulary(ABC):
    """Mix-in for a data module with a tokenizer."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The fast Hugging Face tokenizer."""

    @property
    def tokenizer_json(self) -> str:
        """The whole tokenizer as `tokenizer.json` has it, to travel in a checkpoint."""
        return str(self.tokenizer.backend_tokenizer.to_str())

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens in the order of their ids; empty where an id has none."""
        return Vocabulary.of(self.tokenizer).tokens

    @property
    def vocabulary_size(self) -> int:
        """The greatest id plus one."""
        return len(self.vocabulary)

    @property
    def special_token_ids(self) -> dict[str, int]:
        """The ids of the special tokens by name, such as `mask_token`."""
        return dict(Vocabulary.of(self.tokenizer).special_token_ids)


# ----------------------------------------------------------------------
# Hugging Face tokenizers: by name or folder, and from what travels in a checkpoint.


NEEDED = ("mask_token", "pad_token", "cls_token", "sep_token")
NEEDED_TO_CLASSIFY = ("pad_token",)


def load_fast_tokenizer(spec: str, needed: Sequence[str] = NEEDED) -> Any:
    """Returns the fast tokenizer of a folder or hub id."""
    import transformers

    accepted = "train:<size>, " * (needed == NEEDED)
    tokenizer = load_tokenizer(spec, "data.tokenizer", accepted)
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


# ----------------------------------------------------------------------
# The tokenizer that a checkpoint of this library carries, read without its weights.


KEY = "data.tokenizer"
CHECKPOINT_KEY = "rrr_lightning"
_ACCEPTED = "a folder or hub id of a tokenizer, or a checkpoint of a text model that carries one"


def stored_tokenizer(path: Path) -> Any:
    """Returns the tokenizer in a checkpoint; it is opened without running any code from it."""
    content = read_checkpoint(path, KEY, device="meta")
    described = content.get(CHECKPOINT_KEY)
    if not isinstance(described, Mapping):
        raise InputError(f"{path} is no checkpoint of this library", key=KEY, accepted=_ACCEPTED)
    schema = described.get("schema")
    special = schema.get("special_token_ids") if isinstance(schema, Mapping) else None
    special = described.get("special_token_ids") or special
    return tokenizer_from(described.get("tokenizer_json"), special, str(path))


def tokenizer_from(
    tokenizer_json: str | None, special_token_ids: Mapping[str, int] | None, whose: str
) -> Any:
    """Returns a tokenizer from what travels in a checkpoint."""
    if not tokenizer_json or not special_token_ids:
        raise InputError(f"{whose} carries no tokenizer", key=KEY, accepted=_ACCEPTED)
    try:
        tokenizer = rebuild_tokenizer(tokenizer_json, special_token_ids)
    except Exception as error:  # garbage fails in many ways
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        what = f"the tokenizer of {whose} is damaged ({reason})"
        raise InputError(what, key=KEY, accepted=_ACCEPTED) from error
    check_tokenizer(tokenizer, f"the tokenizer of {whose}", NEEDED_TO_CLASSIFY)
    return tokenizer
