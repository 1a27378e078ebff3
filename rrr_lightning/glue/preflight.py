"""Reads checkpoint and data before any job starts, so that what is wrong is said once and early."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.data.stored_tokenizer import tokenizer_from
from rrr_lightning.errors import InputError, check
from rrr_lightning.glue.fine_tune import make_data, settings_of
from rrr_lightning.glue.plan import CHECKPOINTS, Run
from rrr_lightning.models import hugging_face
from rrr_lightning.models.input_vocabulary import agree_on_tokens
from rrr_lightning.models.masked_rows import usable_positions
from rrr_lightning.models.text_classifier import TextClassifier

# What the classes of a run call their arguments, and what the command line calls them.
OPTIONS = {
    "model.body:": "--checkpoint:",
    "data.tokenizer:": "--checkpoint:",
    "data.source:": "--data:",
    "data.micro_batch_size:": "--micro_batch_size:",
}


def inspect_inputs(runs: Sequence[Run], checkpoint: str) -> dict[str, dict[str, str]]:
    """Returns hashes of the texts and labels that runs train and evaluate on, by task and split."""
    data_sha256 = {}
    with _options_in_errors(), torch.random.fork_rng(devices=[]):
        with _options_in_errors(CHECKPOINTS), _without_warnings():
            model = _network(checkpoint, settings_of(runs[0].config).dropout)
        for run in {run.task: run for run in runs}.values():
            data = make_data({**run.config, "data_sha256": None})
            _check_fit(model, data)
            _check_rows(data, run)
            data_sha256[run.task] = data.sha256
    return data_sha256


def _network(checkpoint: str, dropout: float | None) -> TextClassifier:
    try:
        return TextClassifier(checkpoint, dropout=dropout)
    except InputError as error:
        unknown = f"hf:{checkpoint} cannot be loaded"
        if unknown not in str(error) or Path(checkpoint).expanduser().exists():
            raise
        # A path that is not there is read as a hub id.
        neither = f"{checkpoint} is no file or folder here, and no model that the hub gives"
        raise InputError(str(error).replace(unknown, neither)) from error


def _check_rows(data: GlueDataModule, run: Run) -> None:
    """Reads the splits that a run needs, and refuses too few rows to train on."""
    rows = data.rows
    if run.config["predict_test"]:
        for split in data.test_splits:
            data.split(split)
    batch_size = run.config["batch_size"]
    check(
        rows["train"] >= batch_size,
        f"--settings {run.task}.batch_size",
        batch_size,
        f"at most {rows['train']}",
        "is more than the rows of the training split",
    )
    BatchPlan(batch_size, data.micro_batch_size)  # refuses what does not divide a step


def _check_fit(model: TextClassifier, data: GlueDataModule) -> None:
    """Refuses a network that does not have the tokens or positions of the data."""
    known = model.vocabulary
    with _options_in_errors(CHECKPOINTS):
        data.tokenizer = tokenizer_from(
            None if known is None else known.tokenizer_json,
            None if known is None else known.special_token_ids,
            "the checkpoint",
        )
    agree_on_tokens(model.network, known, data)
    longest = usable_positions(model.network)
    check(
        longest is None or data.max_length <= longest,
        f"--settings {data.task}.max_length",
        data.max_length,
        f"at most {longest}, as by every_task: {{max_length: {longest}}}",
        "is longer than the network's positions",
    )


@contextlib.contextmanager
def _options_in_errors(accepted: str | None = None) -> Iterator[None]:
    """Names the option of the command instead of the argument of a class, and what it accepts."""
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
    """Silences the warning that a folder has no tokenizer, which is an error a moment later."""
    logger = logging.getLogger(hugging_face.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
