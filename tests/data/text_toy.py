"""A small corpus of numbered documents, and a tiny masked-LM module that notes what it saw."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from rrr_lightning.data.text import Batch, TextDataModule

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def document(number: int) -> str:
    """Begins with its number, in words; 7 to 11 words long."""
    words = [DIGITS[int(digit)] for digit in f"{number:03d}"]
    return " ".join([*words, "is", "the", "number", "of", *["this"] * (number % 5)])


def write_corpus(folder: Path, train: int = 50, validation: int = 11, files: int = 4) -> Path:
    """Training documents from 0 and validation documents from 900, in JSON lines."""
    folder.mkdir(exist_ok=True)
    for file in range(files):
        write_documents(folder / f"train-{file}.jsonl", range(file, train, files))
    write_documents(folder / "validation.jsonl", range(900, 900 + validation))
    return folder


def write_documents(path: Path, numbers: range) -> None:
    path.write_text("".join(json.dumps({"text": document(n)}) + "\n" for n in numbers))


def text_data(folder: Path, **settings: Any) -> TextDataModule:
    """12 documents a step, so 4 steps an epoch of the 50 documents; the cache is in the folder."""
    given = {
        "source": str(folder),
        "tokenizer": "train:300",
        "sequence_length": 16,
        "mask_probability": 0.3,
        "global_batch_size": 12,
        "cache_dir": str(folder / "cache"),
        "seed": 3,
    }
    return TextDataModule(**{**given, **settings})


def numbers_of(batch: Batch, vocabulary: tuple[str, ...]) -> list[int]:
    """Which documents a batch holds, whatever is masked; none where rows are packed."""
    ids = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    words = [[vocabulary[token] for token in row[1:4]] for row in ids.tolist()]
    numbered = [row for row in words if set(row) <= set(DIGITS)]
    return [int("".join(str(DIGITS.index(word)) for word in row)) for row in numbered]


def digest(batch: Batch) -> str:
    """Stands for every id, mask and label of a batch."""
    parts = (batch[name].numpy().tobytes() for name in ("input_ids", "attention_mask", "labels"))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


class MaskedNotes(LightningModule):
    """Predicts each token from itself; `seen` holds (step, digest, numbers) in order."""

    def __init__(self, vocabulary: tuple[str, ...]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Sequential(
                nn.Embedding(len(vocabulary), 4), nn.Linear(4, len(vocabulary))
            )
        self.seen: list[tuple[int, str, list[int]]] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        numbers = numbers_of(batch, self.vocabulary)
        self.seen.append((self.trainer.global_step, digest(batch), numbers))
        return nn.functional.cross_entropy(self.net(batch["input_ids"]).mT, batch["labels"])

    def validation_step(self, batch: Batch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)
