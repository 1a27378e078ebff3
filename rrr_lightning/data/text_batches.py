"""Batches for masked language modelling, as Hugging Face's `DataCollatorForLanguageModeling` gives.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from rrr_lightning.data.cache import fingerprint, writing
from rrr_lightning.data.documents import FileDocuments
from rrr_lightning.data.encoding import Encoder
from rrr_lightning.data.file_counts import FileCounts
from rrr_lightning.data.lanes import Lane, deal_files
from rrr_lightning.data.mapped import MappedSamples
from rrr_lightning.data.masking import Masking, Tokens
from rrr_lightning.data.sampling import Key
from rrr_lightning.data.text_files import sizes_of
from rrr_lightning.errors import InputError

FIRST_LOOK = 64  # documents of a stream that are looked at before the first step

Batch = dict[str, torch.Tensor]


def masked_batch(
    ids_BT: Tokens, lengths_B: npt.NDArray[np.int64], masking: Masking, keys: Sequence[Key]
) -> Batch:
    """Returns `input_ids`, `attention_mask` and `labels`, all int64 [B, T]."""
    inputs_BT, labels_BT = masking(ids_BT, keys)
    attention_BT = np.arange(ids_BT.shape[1]) < lengths_B[:, None]
    arrays = {
        "input_ids": inputs_BT,
        "attention_mask": attention_BT.astype(np.int64),
        "labels": labels_BT,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class PreparedText:
    """Prepared samples with masks, as a set of keyed batches.

    Args:
        samples: The samples.
        masking: Chooses and hides the targets.
        length: Tokens of a row.
        padding: The id that fills up a row.
    """

    samples: MappedSamples
    masking: Masking
    length: int
    padding: int

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        indices = [index for _, index in keys]
        return masked_batch(
            *self.samples.padded(indices, self.length, self.padding), self.masking, keys
        )


@dataclass(frozen=True)
class StreamedText:
    """Documents of a stream with masks, read and tokenized when they are asked for.

    Args:
        files: The files of the stream.
        lanes: The numbers of each lane's files.
        seed: Seed of the order.
        encoder: From texts to samples.
        masking: Chooses and hides the targets.
        padding: The id that fills up a row.
    """

    files: FileCounts
    lanes: list[list[int]]
    seed: int
    encoder: Encoder
    masking: Masking
    padding: int
    _open: dict[int, Lane] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> NoReturn:
        raise TypeError("a stream has no length")

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        found = [self._lane(lane)[position] for lane, position in keys]
        encoded = self.encoder([text for _, text in found])
        ids_BT = np.full((len(found), self.encoder.length), self.padding, dtype=np.int64)
        for row, ids in enumerate(encoded):
            ids_BT[row, : len(ids)] = ids
        lengths_B = np.array([len(ids) for ids in encoded], dtype=np.int64)
        return masked_batch(ids_BT, lengths_B, self.masking, [key for key, _ in found])

    def _lane(self, number: int) -> Lane:
        if number not in self._open:
            self._open[number] = Lane(number, self.lanes[number], self.files, self.seed)
        return self._open[number]


def open_stream(
    documents: FileDocuments,
    encoder: Encoder,
    masking: Masking,
    padding: int,
    global_batch_size: int,
    seed: int,
    cache: Path,
) -> StreamedText:
    """Returns the documents of files as a stream, after a look at the first of them."""
    first = encoder(list(islice(documents, FIRST_LOOK)))
    if all(map(encoder.is_short, first)):
        raise InputError(
            f"the first {len(first)} documents have fewer than two tokens",
            key="data.source",
            found=documents.name,
        )
    folder = cache / f"stream-{fingerprint(documents.fingerprint())}"
    with writing(cache):
        folder.mkdir(parents=True, exist_ok=True)
    files = FileCounts(documents.files, documents.column, folder)
    lanes = deal_files(sizes_of(documents.files), global_batch_size)
    return StreamedText(files, lanes, seed, encoder, masking, padding)
