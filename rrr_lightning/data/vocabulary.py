"""What a data module of texts tells its model about the tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any


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
        by_id = {number: token for token, number in self.tokenizer.get_vocab().items()}
        return tuple(by_id.get(number, "") for number in range(max(by_id) + 1))

    @property
    def vocabulary_size(self) -> int:
        """The greatest id plus one."""
        return len(self.vocabulary)

    @property
    def special_token_ids(self) -> dict[str, int]:
        """The ids of the special tokens by name, such as `mask_token`."""
        named = sorted(self.tokenizer.special_tokens_map.items())
        return {
            name: int(self.tokenizer.convert_tokens_to_ids(token))
            for name, token in named
            if isinstance(token, str)
        }
