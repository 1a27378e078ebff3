"""Text for masked language modelling: from a hub id, files, or the prose of installed packages.

Batches are dicts of int64 tensors [B, T], as `DataCollatorForLanguageModeling` gives them:
`input_ids`, `attention_mask`, and `labels` with -100 where there is no target. Documents are
tokenized once and mapped into memory, or streamed; masks are a function of (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from rrr_lightning.data.documents import (
    EMBEDDED,
    Documents,
    FileDocuments,
    choose_documents,
    open_documents,
)
from rrr_lightning.data.masking import Masking, Tokens, check_probability
from rrr_lightning.data.module import KeyedDataModule, KeyedSet
from rrr_lightning.data.preparation import cache_root, fingerprint, prepare, writing
from rrr_lightning.data.sampling import EndlessBatches, Key
from rrr_lightning.data.streaming import FileCounts, Lane, StreamedBatches, deal_files
from rrr_lightning.data.text_files import sizes_of
from rrr_lightning.data.tokenization import Encoder, MappedSamples
from rrr_lightning.data.wordpiece import trained_size, trained_tokenizer
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import global_seed
from rrr_lightning.tokens import TellsVocabulary, load_fast_tokenizer

# ----------------------------------------------------------------------
# Batches for masked language modelling, as Hugging Face's `DataCollatorForLanguageModeling` gives.


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


SHORTEST_SEQUENCE = 8


class TextDataModule(TellsVocabulary, KeyedDataModule):
    """Documents with masks.

    Args:
        source: `embedded` for the prose of installed packages; a `.parquet`, `.jsonl` or `.txt`
            file (the last two also as `.gz` or `.zst`; a blank line ends a document of a text
            file); a folder of such files; or a hub id.
        tokenizer: A hub id or folder of a fast tokenizer, or `train:<size>` for a WordPiece
            vocabulary trained on the source.
        config: The configuration of a data set on the hub, such as `en`.
        train_split: A split on the hub, or a word in the names of a folder's files or sub-folders;
            `train` stands for any word for training.
        val_split: The same; by default any word for validation, or else the test split.
        column: The column or key that holds the text.
        mode: `truncate` for one document a sample, cut and padded; `pack` for documents joined with
            separators, without padding.
        sequence_length: Tokens of a sample, special ones included.
        mask_probability: The probability with which a token is a target in training; in validation
            it is always 0.15, with masks that never change.
        streaming: Read and tokenize training documents where they are, step by step, instead of
            preparing them; validation documents are prepared all the same.
        max_documents: Use only the first so many training documents.
        max_val_documents: Use only the first so many validation documents.
        tuning_fraction: Part of the training documents to validate on instead of `val_split`, the
            same for every seed.
        cache_dir: Folder of prepared data; by default `RRR_CACHE`, or `rrr_lightning` in the user's
            cache folder.
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; by default a device's share.
        eval_batch_size: Samples per device in evaluation; by default that of training.
        num_workers: Processes that load data, per device.
        seed: Seed of order and masks; by default that of `seed_everything`, or 0.
    """

    def __init__(
        self,
        source: str,
        tokenizer: str = "bert-base-uncased",
        config: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        column: str = "text",
        mode: Literal["truncate", "pack"] = "truncate",
        sequence_length: int = 128,
        mask_probability: float = 0.15,
        streaming: bool = False,
        max_documents: int | None = None,
        max_val_documents: int | None = None,
        tuning_fraction: float = 0.0,
        cache_dir: str | None = None,
        global_batch_size: int = 256,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        check_types(TextDataModule.__init__, locals(), "data.")
        super().__init__(global_batch_size, micro_batch_size, eval_batch_size, num_workers, seed)
        self.source = source
        self.tokenizer_name = tokenizer
        self.config = config
        self.train_split = train_split
        self.val_split = val_split
        self.column = column
        self.mode = mode
        self.sequence_length = sequence_length
        self.mask_probability = mask_probability
        self.streaming = streaming
        self.max_documents = max_documents
        self.max_val_documents = max_val_documents
        self.tuning_fraction = tuning_fraction
        self.cache = cache_root(cache_dir)
        check_probability(mask_probability)
        trained_size(tokenizer)
        check_settings(self)

    @cached_property
    def tokenizer(self) -> Any:
        """The fast Hugging Face tokenizer; one to be trained is trained when first asked for."""
        size = trained_size(self.tokenizer_name)
        if size is None:
            return load_fast_tokenizer(self.tokenizer_name)
        return trained_tokenizer(self._opened[0], size, self.cache)

    @cached_property
    def documents(self) -> tuple[Documents, Documents]:
        """The documents to train on and to validate on."""
        most = (self.max_documents, self.max_val_documents)
        return choose_documents(*self._opened[:2], self.tuning_fraction, *most)

    def prepare_data(self) -> None:
        """Trains the tokenizer and tokenizes the documents, unless the cache has the result."""
        for documents in self.documents[int(self.streaming) :]:
            self._prepared(documents)

    def load(self) -> tuple[KeyedSet, KeyedSet]:
        """Returns the training set and the validation set."""
        seed, (train, validation) = global_seed(self.seed), self.documents
        masking = self._masking(self.mask_probability, seed)
        held = self._set(validation, self._masking())
        if not isinstance(train, FileDocuments) or not self.streaming:
            return self._set(train, masking), held
        padding, size = self.tokenizer.pad_token_id, self.global_batch_size
        return open_stream(train, self._encoder(), masking, padding, size, seed, self.cache), held

    def test_set(self) -> KeyedSet | None:
        """Returns the test split with the masks of evaluation, or None where there is none."""
        _, validation, test = self._opened
        if test is None and self.tuning_fraction:
            test = validation
        return None if test is None else self._set(test, self._masking())

    def make_batches(self, training_set: KeyedSet) -> EndlessBatches:
        """Returns the sampler of the training loader."""
        if not isinstance(training_set, StreamedText):
            return super().make_batches(training_set)
        seed = global_seed(self.seed)
        return StreamedBatches(len(training_set.lanes), self.plan, seed, step=self._current_step)

    @cached_property
    def _opened(self) -> tuple[Documents, Documents | None, Documents | None]:
        places = (self.source, self.config, self.train_split, self.val_split)
        return open_documents(*places, self.column, self.streaming)

    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.mode, self.sequence_length)

    def _masking(self, *settings: Any) -> Masking:
        ids = self.tokenizer.all_special_ids
        return Masking(self.vocabulary_size, ids, self.tokenizer.mask_token_id, *settings)

    def _prepared(self, documents: Documents) -> MappedSamples:
        folder = prepare(documents, self._encoder(), self.tokenizer_json, self.cache)
        return MappedSamples(folder)

    def _set(self, documents: Documents, masking: Masking) -> KeyedSet:
        padding = self.tokenizer.pad_token_id
        return PreparedText(self._prepared(documents), masking, self.sequence_length, padding)


def check_settings(data: TextDataModule) -> None:
    """Refuses values out of range and settings that exclude each other."""
    if data.sequence_length < SHORTEST_SEQUENCE:
        raise InputError(
            "is too short",
            key="data.sequence_length",
            found=data.sequence_length,
            accepted=f"a whole number from {SHORTEST_SEQUENCE}",
        )
    if not 0 <= data.tuning_fraction < 1:
        raise InputError(
            "out of range",
            key="data.tuning_fraction",
            found=data.tuning_fraction,
            accepted="a number in [0, 1)",
        )
    limits = {"max_documents": data.max_documents, "max_val_documents": data.max_val_documents}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(
                "must be positive",
                key=f"data.{name}",
                found=limit,
                accepted="a whole number from 1, or null",
            )
    if data.streaming:
        _check_stream(data)


def _check_stream(data: TextDataModule) -> None:
    for name, value, accepted in (
        ("source", EMBEDDED if data.source == EMBEDDED else None, "files or a hub id"),
        ("mode", "pack" if data.mode == "pack" else None, "truncate"),
        ("max_documents", data.max_documents, "null"),
        ("tuning_fraction", data.tuning_fraction or None, "0.0, and a data.val_split"),
    ):
        if value is not None:
            raise InputError(
                "cannot be used with data.streaming",
                key=f"data.{name}",
                found=value,
                accepted=accepted,
            )
