"""The nine tasks of GLUE, for fine-tuning: texts or pairs of texts with a class or a score.

Batches are dicts as Hugging Face networks take them: `input_ids`, `attention_mask`, `labels`, and
`token_type_ids` where the tokenizer tells a first text from a second one. They are padded to the
longest text of the batch, and texts of similar length meet, so little of a batch is padding; which
texts meet at a step is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rrr_lightning.data.glue_sources import has_diagnostic, read_split
from rrr_lightning.data.glue_tasks import DIAGNOSTIC, DIAGNOSTIC_SPLIT, find_task
from rrr_lightning.data.module import BatchLoader, KeyedDataModule, KeyedSet
from rrr_lightning.data.sampling import Key, LengthBuckets, evaluation_order
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import global_seed
from rrr_lightning.tokens import (
    NEEDED_TO_CLASSIFY,
    TellsVocabulary,
    load_fast_tokenizer,
    stored_tokenizer,
    tokenizer_from,
)

# ----------------------------------------------------------------------
# Texts, or pairs of texts, as token ids with a label each, padded batch by batch.


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


SHORTEST_LENGTH = 8


class GlueDataModule(TellsVocabulary, KeyedDataModule):
    """One task of GLUE.

    `fit` and `validate` use the training and validation splits, and `predict` the test splits,
    which have no labels: `test` is refused. MNLI has two loaders of each: matched and
    mismatched; and a third one to predict, the diagnostic set, where the source has it.

    Args:
        task: `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte` or `wnli`.
        source: A hub id, or a folder with a folder per task of parquet files.
        tokenizer: A folder or hub id of a fast tokenizer, or a checkpoint that carries one; by
            default that of the model.
        max_length: Tokens of a text or pair at most, special ones included.
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; by default a device's share.
        eval_batch_size: Samples per device in evaluation; by default that of training.
        num_workers: Processes that load data, per device.
        seed: Seed of the order; by default that of `seed_everything`, or 0.
    """

    def __init__(
        self,
        task: str,
        source: str = "nyu-mll/glue",
        tokenizer: str | None = None,
        max_length: int = 256,
        global_batch_size: int = 32,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        check_types(GlueDataModule.__init__, locals(), "data.")
        super().__init__(global_batch_size, micro_batch_size, eval_batch_size, num_workers, seed)
        if max_length < SHORTEST_LENGTH:
            raise InputError(
                "is too short for a text",
                key="data.max_length",
                found=max_length,
                accepted=f"a whole number from {SHORTEST_LENGTH}",
            )
        self.glue_task = find_task(task)
        self.task = self.glue_task.name
        self.source = source
        self.tokenizer_name = tokenizer
        self.max_length = max_length
        self._splits: dict[str, EncodedTexts] = {}
        self._sha256: dict[str, str] = {}

    # ------------------------------------------------------------------------------ the task

    @property
    def num_classes(self) -> int:
        """The number of classes; 1 where a score is to be predicted."""
        return len(self.glue_task.labels) or 1

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of their ids."""
        return self.glue_task.labels or None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The official metrics."""
        return self.glue_task.metrics

    @property
    def evaluation_suffixes(self) -> tuple[str, ...]:
        """What is added to the names of metrics, for each loader of an evaluation."""
        return tuple("_mismatched" * ("mis" in name) for name in self.glue_task.validation_splits)

    @cached_property
    def tokenizer(self) -> Any:
        """The fast Hugging Face tokenizer; of its special tokens only padding is needed."""
        if self.tokenizer_name is None:
            model = None if self.trainer is None else self.trainer.lightning_module
            known = getattr(model, "vocabulary", None)
            return tokenizer_from(
                getattr(known, "tokenizer_json", None),
                getattr(known, "special_token_ids", None),
                "the model",
            )
        path = Path(self.tokenizer_name).expanduser()
        if path.is_file():
            return stored_tokenizer(path)
        return load_fast_tokenizer(self.tokenizer_name, NEEDED_TO_CLASSIFY)

    # ------------------------------------------------------------------------------ rows

    @cached_property
    def test_splits(self) -> tuple[str, ...]:
        """The splits to predict; of MNLI also `diagnostic`, where the source has it."""
        splits = self.glue_task.test_splits
        if self.task == "mnli" and has_diagnostic(self.source):
            splits = (*splits, DIAGNOSTIC_SPLIT)
        return splits

    def split(self, name: str) -> EncodedTexts:
        """Returns a split by its name on the hub, such as `validation_matched`.

        Raises:
            InputError: The source has no such split, or one of its rows is bad.
        """
        if name not in self._splits:
            task, part = self.glue_task, name
            if name == DIAGNOSTIC_SPLIT:
                task, part = DIAGNOSTIC, "test"
            rows = read_split(self.source, task, part)
            self._sha256[name] = rows.sha256
            kind = torch.float32 if self.glue_task.is_regression else torch.int64
            labels = None if rows.labels is None else torch.tensor(rows.labels, dtype=kind)
            self._splits[name] = EncodedTexts(
                lambda: self.tokenizer, rows.texts, labels, self.max_length
            )
        return self._splits[name]

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of the training split and the validation splits."""
        names = ("train", *self.glue_task.validation_splits)
        return {name: len(self.split(name)) for name in names}

    @property
    def sha256(self) -> dict[str, str]:
        """The SHA-256 of texts and labels of the same splits."""
        return {name: self._sha256[name] for name in self.rows}

    @property
    def rows_trained(self) -> int:
        """The number of rows of the training split."""
        return len(self.split("train"))

    @property
    def official_rows(self) -> dict[str, int]:
        """What `rows` is for the whole of the official data."""
        return self.glue_task.official_rows(self.rows)

    @property
    def is_subset(self) -> bool:
        """Whether a split has another number of rows than the official one."""
        return self.rows != self.official_rows

    def in_row_order(self, split: str, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns what one device predicted for a split, row by row as the source has them.

        Args:
            split: The name of the split.
            batches: What `Trainer.predict` returned for its loader.
        """
        order = evaluation_order(self.split(split).lengths)
        found = torch.cat(list(batches))
        if len(found) != len(order):
            raise InputError(
                f"these are not the predictions of one device for all of {split}",
                key="batches",
                found=f"{len(found)} rows",
                accepted=f"{len(order)} rows",
            )
        rows = torch.empty_like(found)
        rows[order] = found
        return rows

    # ------------------------------------------------------------------------------ loaders

    def prepare_data(self) -> None:
        """Downloads on one rank what the others then find in the cache."""
        self.load()

    def load(self) -> tuple[EncodedTexts, EncodedTexts]:
        """Returns the training set and the first validation set."""
        return self.split("train"), self.split(self.glue_task.validation_splits[0])

    def make_batches(self, training_set: KeyedSet) -> LengthBuckets:
        """Returns the sampler of the training loader."""
        lengths = self.split("train").lengths
        return LengthBuckets(lengths, self.plan, global_seed(self.seed), step=self._current_step)

    def val_dataloader(self) -> Any:
        """Returns the loader of the validation split, or one for each of MNLI's two."""
        return self._eval_loaders(self.glue_task.validation_splits)

    def predict_dataloader(self) -> Any:
        """Returns the loader of the test split, or one for each of MNLI's."""
        return self._eval_loaders(self.test_splits)

    def _eval_loaders(self, names: Sequence[str]) -> BatchLoader | list[BatchLoader]:
        world_size, _ = self._replicas()
        loaders = [
            self.eval_loader(Ordered(rows, evaluation_order(rows.lengths, world_size)))
            for rows in map(self.split, names)
        ]
        return loaders[0] if len(loaders) == 1 else loaders
