"""Looks at checkpoint and data before any job starts, so that what is wrong is said once."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.data.stored_tokenizer import tokenizer_from
from rrr_lightning.errors import InputError
from rrr_lightning.glue.fine_tune import make_data, settings_of
from rrr_lightning.glue.fingerprint import CHECKPOINTS
from rrr_lightning.glue.plan import Run
from rrr_lightning.jobs import Places
from rrr_lightning.jobs.places import cores
from rrr_lightning.models import hugging_face
from rrr_lightning.models.input_vocabulary import agree_on_tokens
from rrr_lightning.models.masked_rows import usable_positions
from rrr_lightning.models.text_classifier import TextClassifier

# Rough: for the order of the jobs and the first guess of the time left.
CORE_FLOPS, GPU_FLOPS = 2.5e10, 6e13
TOKENS_PER_SAMPLE = 40
MOST_SAMPLES_PER_SECOND = 1500.0

# What the parts of a run call their arguments, and what the command line calls them.
OPTIONS = {
    "model.body:": "--checkpoint:",
    "data.tokenizer:": "--checkpoint:",
    "data.source:": "--data:",
    "data.micro_batch_size:": "--micro_batch_size:",
}


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        rows: Rows to train and to judge on, by task.
        data_sha256: What tells their texts and labels from others, by task and split.
        samples_per_second: How many samples a second train, roughly.
    """

    rows: dict[str, tuple[int, int]]
    data_sha256: dict[str, dict[str, str]]
    samples_per_second: float


def look_at(runs: Sequence[Run], checkpoint: str, places: Places) -> Seen:
    """Returns what there is to train on, and how fast.

    Args:
        runs: The runs that have not finished.
        checkpoint: What they start from.
        places: Where they will run.

    Raises:
        InputError: The checkpoint cannot be fine-tuned, or the data of a task are not usable.
    """
    rows, data_sha256 = {}, {}
    with _in_words_of_the_command_line(), torch.random.fork_rng(devices=[]):
        with _in_words_of_the_command_line(CHECKPOINTS), _without_warnings():
            model = _network(checkpoint, settings_of(runs[0].settings).dropout)
        for run in {run.task: run for run in runs}.values():
            data = make_data(run.settings)
            _check_fit(model, data)
            rows[run.task] = _count(data, run)
            data_sha256[run.task] = data.sha256
    return Seen(rows, data_sha256, _samples_per_second(model, places))


def _network(checkpoint: str, dropout: float | None) -> TextClassifier:
    """The network to fine-tune; a path that is not there is not only no model of the hub."""
    try:
        return TextClassifier(checkpoint, dropout=dropout)
    except InputError as error:
        unknown = f"hf:{checkpoint} cannot be loaded"
        if unknown not in str(error) or Path(checkpoint).expanduser().exists():
            raise
        neither = f"{checkpoint} is no file or folder here, and no model that the hub gives"
        raise InputError(str(error).replace(unknown, neither)) from error


def _count(data: GlueDataModule, run: Run) -> tuple[int, int]:
    """Reads the splits that a run needs, and counts the rows."""
    rows = data.rows
    if run.settings["predict_test"]:
        for split in data.test_splits:
            data.split(split)
    batch_size = settings_of(run.settings).batch_size
    if rows["train"] < batch_size:
        raise InputError(
            "is more than the rows of the training split",
            key=f"--settings {run.task}.batch_size",
            found=batch_size,
            accepted=f"at most {rows['train']}",
        )
    BatchPlan(batch_size, data.micro_batch_size)  # refuses what does not divide a step
    return rows["train"], sum(rows.values()) - rows["train"]


def _check_fit(model: TextClassifier, data: GlueDataModule) -> None:
    """Refuses a network that does not have the tokens or positions of the data."""
    known = model.vocabulary
    with _in_words_of_the_command_line(CHECKPOINTS):
        data.tokenizer = tokenizer_from(
            None if known is None else known.tokenizer_json,
            None if known is None else known.special_token_ids,
            "the checkpoint",
        )
    agree_on_tokens(model.network, known, data)
    longest = usable_positions(model.network)
    if longest is not None and data.max_length > longest:
        raise InputError(
            "is longer than the network's positions",
            key=f"--settings {data.task}.max_length",
            found=data.max_length,
            accepted=f"at most {longest}, as by every_task: {{max_length: {longest}}}",
        )


@contextlib.contextmanager
def _in_words_of_the_command_line(accepted: str | None = None) -> Iterator[None]:
    """Names the option to change instead of the argument of a class, and what it accepts."""
    try:
        yield
    except InputError as error:
        line = str(error)
        for name, option in OPTIONS.items():
            if line.startswith(name):
                line = option + line.removeprefix(name)
                if accepted is not None:
                    line = line.partition("; accepted: ")[0] + f"; accepted: {accepted}"
                raise InputError(line) from error
        raise


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps back that a folder has no tokenizer, which is an error in what follows."""
    logger = logging.getLogger(hugging_face.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _samples_per_second(model: TextClassifier, places: Places) -> float:
    embedded = model.network.get_input_embeddings().weight.numel()
    weights = max(1, sum(each.numel() for each in model.network.parameters()) - embedded)
    on_gpu = any(each.get("CUDA_VISIBLE_DEVICES") for each in places.environments)
    on_gpu = on_gpu or places.cluster != "local"
    threads = math.ceil(cores() / len(places.environments))
    flops = GPU_FLOPS if on_gpu else CORE_FLOPS * threads
    return min(MOST_SAMPLES_PER_SECOND, flops / float(6 * weights * TOKENS_PER_SAMPLE))
