"""The tokens that a text classifier reads: from its body, its data, or its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrr_lightning.errors import InputError
from rrr_lightning.models.vocabulary import Vocabulary, check_same_tokens


def agree_on_tokens(network: Any, known: Vocabulary | None, data: object) -> Vocabulary | None:
    """Returns the vocabulary, from `data` where the body does not tell it."""
    given = Vocabulary.of_data(data)
    if given is None:
        return known
    most = network.get_input_embeddings().num_embeddings
    if given.size > most:
        raise InputError(
            "the network's vocabulary is smaller than the tokenizer's",
            key="model.body",
            found=f"{most} tokens",
            accepted=f"a network with at least {given.size}, or a tokenizer with at most {most}",
        )
    if known is not None:
        check_same_tokens(known, given, "data.tokenizer")
    ours, theirs = network.config.pad_token_id, given.special_token_ids.get("pad_token")
    if None not in (ours, theirs) and ours != theirs:
        raise InputError(
            "the network takes another token for padding than the data's tokenizer",
            key="data.tokenizer",
            found=theirs,
            accepted=str(ours),
        )
    return known or given


def stored_vocabulary(described: Mapping[str, Any]) -> Vocabulary | None:
    """Returns the vocabulary in what a checkpoint says about a classifier, None without one."""
    from tokenizers import Tokenizer

    tokenizer_json = described.get("tokenizer_json")
    if not tokenizer_json:
        return None
    by_id = {
        number: token for token, number in Tokenizer.from_str(tokenizer_json).get_vocab().items()
    }
    return Vocabulary(
        tokens=tuple(by_id.get(number, "") for number in range(max(by_id) + 1)),
        special_token_ids=dict(described.get("special_token_ids") or {}),
        tokenizer_json=tokenizer_json,
    )
