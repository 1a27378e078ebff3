"""Tiny text classifiers and runs on tiny data of GLUE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.models.text_classifier import TextClassifier
from tests.data.glue_files import write_parquet, write_tokenizer
from tests.models.texts import CALM, TINY

TASKS = ("cola", "rte", "mrpc", "stsb", "mnli")
WIDE = {**TINY, "vocab_size": 128, "max_position_embeddings": 64}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> str:
    root: Path = tmp_path_factory.mktemp("glue")
    for task in TASKS:
        write_parquet(root, task, train=61, other=23)
    return str(root)


def task_data(glue: str, tokenizer: str | None, task: str = "rte", **settings: Any) -> Any:
    given: dict[str, Any] = {"global_batch_size": 12, "seed": 3, "max_length": 64, **settings}
    return GlueDataModule(task, glue, tokenizer, **given)


def classifier(classes: int = 2, dropout: bool = False, **arguments: Any) -> TextClassifier:
    given: dict[str, Any] = {"learning_rate": 0.01, "seed": 0, **arguments}
    body = given.pop("body", {**WIDE, **({} if dropout else CALM)})
    return TextClassifier(body, classes, **given)
