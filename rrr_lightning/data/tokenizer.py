"""The tokenizer: a Hugging Face one by name or folder, or a WordPiece vocabulary trained here.

Training gives the same vocabulary every time, which the `tokenizers` library alone does not: it
numbers the pieces of its alphabet in the order of a hash table, and ties between merges follow
these numbers.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
NEEDED = ("mask_token", "pad_token", "cls_token", "sep_token")
SMALLEST_VOCABULARY = 100
TRAINING_DOCUMENTS = 50_000
RULES = 1  # to be raised when the same documents come to give another vocabulary


def trained_size(spec: str) -> int | None:
    """Returns the size that `train:<size>` asks for; None for the name of a ready tokenizer.

    Raises:
        InputError: The size is not a whole number, or too small.
    """
    if not spec.startswith("train:"):
        return None
    size = spec.removeprefix("train:")
    if not re.fullmatch(r"\d{1,7}", size) or int(size) < SMALLEST_VOCABULARY:
        raise InputError(
            "is no size of a vocabulary",
            key="data.tokenizer",
            found=spec,
            accepted=f"train: and a whole number from {SMALLEST_VOCABULARY}, such as train:4096",
        )
    return int(size)


def load_tokenizer(spec: str) -> Any:
    """Returns the fast tokenizer of a folder or hub id.

    Raises:
        InputError: There is none, or it has no mask token or another token that is needed.
    """
    import transformers

    folder = Path(spec).expanduser()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else spec, trust_remote_code=False
        )
    except Exception as error:  # files of many formats fail in many ways
        raise InputError(
            f"no tokenizer can be loaded from there ({str(error).partition(chr(10))[0]})",
            key="data.tokenizer",
            found=spec,
            accepted="train:<size>, a folder with tokenizer.json, or the id of a model on the hub",
        ) from error
    check_tokenizer(tokenizer, spec)
    return tokenizer


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuses a tokenizer that cannot serve a masked language model.

    Raises:
        InputError: It is a slow one, lacks a special token, or has special tokens only.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "is not a fast tokenizer",
            key="data.tokenizer",
            found=name,
            accepted="a folder with tokenizer.json",
        )
    for role in NEEDED:
        if getattr(tokenizer, role) is None:
            what = f"has no {role.replace('_', ' ')}"
            accepted = "a tokenizer for masked language models, such as bert-base-uncased"
            raise InputError(what, key="data.tokenizer", found=name, accepted=accepted)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            "has no tokens but special ones; is its vocabulary file missing?",
            key="data.tokenizer",
            found=name,
        )


def train_wordpiece(documents: Iterable[str], size: int) -> str:
    """Returns the JSON of a lower-casing WordPiece tokenizer like BERT's; always the same.

    Args:
        documents: Texts; the first 50,000 are used.
        size: Tokens of the vocabulary at most; fewer where the documents do not give more.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    texts = list(islice(documents, TRAINING_DOCUMENTS))
    normalizer = normalizers.BertNormalizer(lowercase=True)
    letters = _alphabet(texts, normalizer, limit=min(1000, size // 32))
    first = [*SPECIAL_TOKENS.values(), *letters, *(f"##{letter}" for letter in letters)]
    learner = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Named here, the alphabet's pieces get their ids in this order instead of a random one.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    with single_threaded_tokenizers():
        learner.train_from_iterator(texts, trainer)
    vocabulary = learner.get_vocab()
    return _bert_like(dict(sorted(vocabulary.items(), key=lambda item: item[1])))


def _alphabet(texts: list[str], normalizer: Any, limit: int) -> list[str]:
    """The most frequent characters after normalisation, in the order of their frequency."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    counts: Counter[str] = Counter()
    for letter, number in raw.items():
        for normal in normalizer.normalize_str(letter):
            counts[normal] += number
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return [letter for letter in ranked if not letter.isspace()][:limit]


def _bert_like(vocabulary: dict[str, int]) -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    unknown, start, end = (SPECIAL_TOKENS[f"{role}_token"] for role in ("unk", "cls", "sep"))
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B:1 {end}:1",
        special_tokens=[(token, vocabulary[token]) for token in (start, end)],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return str(tokenizer.to_str())


def rebuild_tokenizer(tokenizer_json: str, special_token_ids: Mapping[str, int]) -> Any:
    """Returns a fast tokenizer from what travels in a checkpoint.

    Args:
        tokenizer_json: The whole tokenizer, as `tokenizer.json` has it.
        special_token_ids: The ids of the special tokens by name, such as `mask_token`.
    """
    import transformers
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer_json)
    named = {name: backend.id_to_token(number) for name, number in special_token_ids.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


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
