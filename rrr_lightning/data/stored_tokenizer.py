"""The tokenizer that a checkpoint of this library carries, read without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rrr_lightning.data.tokenizer import NEEDED_TO_CLASSIFY, check_tokenizer, rebuild_tokenizer
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError

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
