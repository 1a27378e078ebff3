"""From texts to token ids, in one of two modes.

`truncate`: one document is one sample, with the special tokens at its ends, cut to a length.
`pack`: documents follow each other, each with a separator at its end, and are cut into samples of
one length that begin with the start token; what is left at the end of a part is dropped.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rrr_lightning.data.tokenizer import single_threaded_tokenizers

Mode = Literal["truncate", "pack"]
MODES = ("truncate", "pack")
FEWEST_TOKENS = 2
# English has 4 to 5 characters a token, so of a longer text the rest is rarely needed.
CHARACTERS_PER_TOKEN = 6


class Encoder:
    """Encodes texts; words such as "[MASK]" in a text are text, never special tokens.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        mode: `truncate` or `pack`.
        length: Tokens of a sample, special ones included.
    """

    def __init__(self, tokenizer: Any, mode: Mode, length: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = tokenizer
        self.mode = mode
        self.length = length
        self.start, self.separator = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        description = tokenizer.backend_tokenizer.to_str()
        self._backend = Tokenizer.from_str(description)
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()
        self._specials = 1
        if mode == "truncate":
            self._specials = self._backend.num_special_tokens_to_add(is_pair=False)
            self._backend.enable_truncation(length)
        self._cuts = mode == "truncate" and _splits_at_spaces(json.loads(description))

    def __reduce__(self) -> tuple[type[Encoder], tuple[Any, Mode, int]]:
        return Encoder, (self._tokenizer, self.mode, self.length)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text: a sample, or for `pack` its tokens and a separator."""
        shorter = [self._beginning(text) for text in texts] if self._cuts else texts
        with single_threaded_tokenizers():
            ids = self._encode(shorter)
            again = [
                number
                for number, text in enumerate(texts)
                if len(ids[number]) < self.length and len(shorter[number]) < len(text)
            ]
            if self._cuts and again:
                for number, its in zip(again, self._encode([texts[n] for n in again]), strict=True):
                    ids[number] = its
        return ids

    def is_short(self, ids: list[int]) -> bool:
        """Whether a text has fewer than two tokens, special ones aside."""
        return len(ids) - self._specials < FEWEST_TOKENS

    def pack(self, stream: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns samples [N, length] from texts that follow each other; drops the rest."""
        rows = len(stream) // (self.length - 1)
        samples = np.full((rows, self.length), self.start, dtype=self.dtype)
        samples[:, 1:] = stream[: rows * (self.length - 1)].reshape(rows, self.length - 1)
        return samples

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self.mode == "truncate":
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [[*encoding.ids, self.separator] for encoding in encodings]

    def _beginning(self, text: str) -> str:
        """The text up to a space behind which a sample of this length rarely reaches."""
        enough = CHARACTERS_PER_TOKEN * self.length
        if len(text) <= enough:
            return text
        space = text.find(" ", enough)
        return text if space < 0 else text[:space]


def _splits_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether the tokens before a space do not depend on what follows: so it is with BERT's."""
    kinds = {part: (tokenizer.get(part) or {}).get("type") for part in ("normalizer", "model")}
    return (
        (tokenizer.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and kinds["normalizer"] in (None, "BertNormalizer", "Lowercase")
        and kinds["model"] == "WordPiece"
    )
