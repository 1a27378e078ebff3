"""A tiny body with a tokenizer, and small data of every task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.files import read_json
from rrr_lightning.glue.fine_tune import fine_tune
from rrr_lightning.glue.plan import SETTINGS
from rrr_lightning.jobs import Held, Job, Outcome
from rrr_lightning.jobs.locks import RUNNER_LOCK, holder
from rrr_lightning.jobs.process import MARKER, write_json
from tests.data.glue_files import write_parquet, write_tokenizer

TRAIN, JUDGED = 48, 24
SETTINGS_OF_TESTS = {
    "every_task": {"max_steps": 4, "batch_size": 8, "max_length": 32, "seeds": [3]}
}


def write_body(folder: Path, tokenizer: bool = True, **changes: Any) -> Path:
    """Saves a pretrained BERT of two small layers as a Hugging Face folder."""
    sizes = {"vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 0, **changes}
    if tokenizer:
        write_tokenizer(folder)
    torch.manual_seed(0)
    network: Any = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_body(tmp_path_factory.mktemp("body")))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("glue")
    for task in TASKS:
        write_parquet(root, task, TRAIN, JUDGED)
    return str(root)


def config_of(body: str, data: str, task: str = "rte", **changes: Any) -> dict[str, Any]:
    """The settings of one job."""
    settings: dict[str, Any] = {
        "epochs": 1.0,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_fraction": 0.2,
        "max_length": 32,
        "dropout": 0.1,
        "precision": "bf16",
        "max_steps": None,
        "start": "checkpoint",
        "task": task,
        "seed": 3,
        "checkpoint": body,
        "data": data,
        "save_network": False,
        "predict_test": False,
    }
    return {**settings, **changes}


def run_here(jobs: Sequence[Job], folder: Path, places: object, stream: Any, held: Held) -> Outcome:
    """Runs fine-tuning jobs in this process, one after the other."""
    assert holder(folder / RUNNER_LOCK) is not None
    outcome = Outcome()
    for job in jobs:
        assert all(list(folder.glob(f"jobs/{need}-*/{MARKER}")) for need in job.needs)
        if not job.finished:
            result = fine_tune(read_json(job.folder / SETTINGS), job.folder)
            write_json(job.folder / MARKER, {"result": result})
            outcome.ran += 1
    stream.write(f"{outcome.ran} jobs run\n")
    return outcome
