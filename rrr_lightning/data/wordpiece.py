"""A WordPiece vocabulary that is trained on the documents, and always the same.

The `tokenizers` library alone gives another one in every process: it numbers the pieces of its
alphabet in the order of a hash table, and ties between merges follow these numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from rrr_lightning.data.documents import Documents
from rrr_lightning.data.preparation import build_once, fingerprint, write_file
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import rebuild_tokenizer, single_threaded_tokenizers

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SMALLEST_VOCABULARY = 100
TRAINING_DOCUMENTS = 50_000
RULES = 1  # to be raised when the same documents come to give another vocabulary


def trained_size(spec: str) -> int | None:
    """Returns the size that `train:<size>` asks for; None for the name of a ready tokenizer."""
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


def trained_tokenizer(documents: Documents, size: int, cache: Path) -> Any:
    """Returns a fast tokenizer trained on documents, from the cache where it is there."""
    recipe = {"rules": RULES, "size": size, "documents": documents.fingerprint()}
    target = cache / f"tokenizer-{fingerprint(recipe)}"

    def build(folder: Path) -> None:
        description = train_wordpiece(documents, size)
        write_file(folder / "tokenizer.json", lambda path: path.write_text(description))

    build_once(target, build)
    special_token_ids = {role: number for number, role in enumerate(SPECIAL_TOKENS)}
    return rebuild_tokenizer((target / "tokenizer.json").read_text(), special_token_ids)


def train_wordpiece(documents: Iterable[str], size: int) -> str:
    """Returns the JSON of a lower-casing WordPiece tokenizer like BERT's; always the same."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    texts = list(islice(documents, TRAINING_DOCUMENTS))
    normalizer = normalizers.BertNormalizer(lowercase=True)
    letters = _alphabet(texts, normalizer, limit=min(1000, max(32, size // 32)))
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
