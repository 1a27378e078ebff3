"""Texts, or pairs of texts, as token ids with a label each, padded batch by batch.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrr_lightning.data.sampling import Key

ROWS_AT_A_TIME = 4096  # of which all encodings are held in memory at once
Tokens = npt.NDArray[Any]


class EncodedTexts:
    """Rows of one or two texts; tokenized as a whole when first needed, and held in memory.

    Batches are dicts of int64 tensors: `input_ids`, `attention_mask`, for tokenizers that tell a
    first text from a second one `token_type_ids`, all [B, T] with T the longest of the batch, and
    `labels` [B] (float32 for scores) where there are any.

    Args:
        tokenizer: Returns the fast Hugging Face tokenizer; called when the rows are tokenized.
        texts: One or two lists of equally many texts.
        labels: int64 classes or float32 scores of shape [N], if there are any.
        max_length: Tokens of a row, special ones included; the longer text of a pair is cut first.
    """

    def __init__(
        self,
        tokenizer: Callable[[], Any],
        texts: Sequence[list[str]],
        labels: torch.Tensor | None,
        max_length: int,
    ) -> None:
        self.labels = labels
        self.max_length = max_length
        self._rows = len(texts[0])
        # Let go of once they are used, so that workers that are spawned get arrays alone.
        self._pending: tuple[Callable[[], Any], Sequence[list[str]]] | None = (tokenizer, texts)
        self._padding, self._has_types = 0, False
        self._ids = self._types = self._ends = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self._rows

    @property
    def lengths(self) -> torch.Tensor:
        """The number of tokens of every row, int64 of shape [N]."""
        self.encode()
        return torch.from_numpy(np.diff(self._ends, prepend=0))

    def encode(self) -> None:
        """Tokenizes all rows, once; words such as "[MASK]" in a text are text, not tokens."""
        if self._pending is None:
            return
        from tokenizers import Tokenizer

        tokenizer, texts = self._pending[0](), self._pending[1]
        self._padding = tokenizer.pad_token_id
        self._has_types = "token_type_ids" in tokenizer.model_input_names
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.enable_truncation(self.max_length, strategy="longest_first")
        rows = list(zip(*texts, strict=True)) if len(texts) > 1 else texts[0]
        ids: list[Tokens] = []
        types: list[Tokens] = []
        for start in range(0, self._rows, ROWS_AT_A_TIME):
            for encoding in backend.encode_batch_fast(rows[start : start + ROWS_AT_A_TIME]):
                ids.append(np.array(encoding.ids, dtype=np.int32))
                types.append(np.array(encoding.type_ids, dtype=np.int8))
        self._ends = np.cumsum([len(each) for each in ids], dtype=np.int64)
        self._ids, self._types = np.concatenate(ids), np.concatenate(types)
        self._pending = None

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, torch.Tensor]:
        self.encode()
        indices = np.array([index for _, index in keys])
        ends = self._ends[indices]
        starts = np.where(indices > 0, self._ends[indices - 1], 0)
        lengths_B = ends - starts
        real_BT = np.arange(lengths_B.max()) < lengths_B[:, None]
        places_BT = np.where(real_BT, starts[:, None] + np.arange(lengths_B.max()), 0)
        arrays = {
            "input_ids": np.where(real_BT, self._ids[places_BT], self._padding),
            "attention_mask": real_BT,
        }
        if self._has_types:
            arrays["token_type_ids"] = np.where(real_BT, self._types[places_BT], 0)
        batch = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
        if self.labels is not None:
            batch["labels"] = self.labels[torch.from_numpy(indices)]
        return batch


class Ordered:
    """A set whose rows come in another order: index i is row `order[i]`.

    Args:
        rows: The set.
        order: The rows in their order, int64 of shape [N].
    """

    def __init__(self, rows: EncodedTexts, order: torch.Tensor) -> None:
        self.rows = rows
        self.order = order.tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, torch.Tensor]:
        return self.rows[[(epoch, self.order[index]) for epoch, index in keys]]
