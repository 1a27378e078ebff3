"""Small folders of GLUE, as parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import transformers

from rrr_lightning.data.glue_tasks import DIAGNOSTIC, TASKS, GlueTask
from rrr_lightning.data.wordpiece import SPECIAL_TOKENS, train_wordpiece

SENTENCE = "the cat sat on a mat and saw that no dog was ever as quick to leave as it was"
WORDS = SENTENCE.split()


def text(number: int, length: int | None = None) -> str:
    """A text of 1 to 17 words, or of the length asked for."""
    length = 1 + number * 7 % 17 if length is None else length
    return " ".join(
        WORDS[(number + place * (1 + number % 3)) % len(WORDS)] for place in range(length)
    )


def label(task: GlueTask, number: int) -> Any:
    return number % 51 / 10 if task.is_regression else number % len(task.labels)


def parquet_rows(task: GlueTask, count: int, labelled: bool = True) -> datasets.Dataset:
    columns: dict[str, list[Any]] = {
        name: [text(number + 5 * place) for number in range(count)]
        for place, name in enumerate(task.columns)
    }
    columns["label"] = [label(task, number) if labelled else -1 for number in range(count)]
    features = {name: datasets.Value("string") for name in task.columns}
    kind = datasets.ClassLabel(names=list(task.labels))
    features["label"] = datasets.Value("float32") if task.is_regression else kind
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write_parquet(root: Path, task: str, train: int = 60, other: int = 10) -> Path:
    """Writes all splits of a task; returns the root."""
    found = TASKS[task]
    (root / task).mkdir(parents=True, exist_ok=True)
    for split in found.rows:
        count = train if split == "train" else other
        rows = parquet_rows(found, count, labelled=not split.startswith("test"))
        rows.to_parquet(str(root / task / f"{split}.parquet"))
    return root


def write_diagnostic(root: Path, count: int = 5) -> None:
    """Writes the diagnostic set beside the tasks."""
    (root / "ax").mkdir(parents=True)
    rows = parquet_rows(DIAGNOSTIC, count, labelled=False)
    rows.to_parquet(str(root / "ax" / "test.parquet"))


def write_tokenizer(folder: Path, size: int = 120) -> Path:
    """Saves a WordPiece tokenizer trained on the texts, which tells the texts of a pair apart."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(train_wordpiece([text(number) for number in range(40)], size))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    ).save_pretrained(folder)
    return folder
