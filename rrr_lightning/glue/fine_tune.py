"""One job of an evaluation: fine-tunes on one task with one seed, judges the end, leaves the rest.

    python -m rrr_lightning.glue.fine_tune FOLDER/settings.json

It writes `result.json` and `predictions.npz` into the folder of the settings. Long runs keep a
checkpoint while they train and go on from it when they are started again.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rrr_lightning.checkpointing import (
    AtomicCheckpointIO,
    RunCheckpoint,
    check_checkpoint,
    last_checkpoint,
)
from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file, read_json
from rrr_lightning.glue.plan import CELLS, NETWORK, PREDICTIONS, fingerprint
from rrr_lightning.glue.protocol import TaskSettings
from rrr_lightning.glue.results import REPORTED, has_collapsed
from rrr_lightning.jobs.process import RESULT, write_json
from rrr_lightning.jobs.runner import WRONG_INPUT
from rrr_lightning.metrics_file import MetricsFile
from rrr_lightning.models.student import Diverged
from rrr_lightning.models.text_classifier import TextClassifier

SAVE_EVERY_STEPS = 1000
EVAL_BATCH_SIZE = 64
LINES = 20
FAILED, TERMINATED = 1, 128 + signal.SIGTERM


def fine_tune(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Runs one fine-tuning and returns its result, which it also writes."""
    start = time.monotonic()
    data = make_data(config)
    check_data_of(config, data)
    model = make_network(config, data.num_classes)
    check_checkpoint_of(config)  # after it was read: it may have been replaced meanwhile
    settings = settings_of(config)
    steps = settings.steps(data.rows_trained)
    checkpoint = last_checkpoint(folder)
    first_step = check_checkpoint(checkpoint, model)["global_step"] if checkpoint.exists() else 0
    trainer = _trainer(config, folder, steps, first_step)
    try:
        trainer.fit(model, data, ckpt_path=checkpoint if first_step else None)
    except Diverged as error:
        raise _diverged(model, data, "a loss or a weight is not finite") from error
    arrays = _validation(trainer, model, data)
    if config["predict_test"]:
        loaders = _loaders(data.predict_dataloader())
        arrays |= {
            f"{split}.predictions": _predict(trainer, model, data, split, loader)
            for split, loader in zip(data.test_splits, loaders, strict=True)
        }
    if config["save_network"]:
        trainer.save_checkpoint(folder / NETWORK, weights_only=True)
    with atomic_file(folder / PREDICTIONS) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    result = {
        "metrics": {
            metric.name: metric(
                arrays[f"{metric.split}.predictions"], arrays[f"{metric.split}.labels"]
            )
            for metric in REPORTED[data.task]
        },
        "collapsed": has_collapsed(
            (arrays[f"{split}.predictions"], arrays[f"{split}.labels"])
            for split in data.glue_task.validation_splits
        ),
        "rows": data.rows,
        "official_rows": data.official_rows,
        "settings": {name: getattr(settings, name) for name in CELLS},
        "fingerprint": config.get("fingerprint"),
        "data_sha256": data.sha256,
        "steps": steps,
        "device": trainer.strategy.root_device.type,
        "precision": trainer.precision,
        "seconds": round(time.monotonic() - start, 3),
    }
    write_json(folder / RESULT, result)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return result


def check_checkpoint_of(config: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that has changed since the evaluation began.

    The network of MNLI lies in this evaluation's own folder and is not checked.
    """
    expected = config.get("fingerprint")
    if expected is None or settings_of(config).start == "mnli":
        return
    found = fingerprint(config["checkpoint"])
    if found != expected:
        raise InputError(
            f"{config['checkpoint']} has changed since the evaluation began",
            key="--checkpoint",
            found=found,
            accepted=f"{expected}; take a copy that nothing writes to any more",
        )


def check_data_of(config: Mapping[str, Any], data: GlueDataModule) -> None:
    """Refuses data that have changed since the evaluation began."""
    expected = config.get("data_sha256") or data.sha256
    for split, found in data.sha256.items():
        if found != expected[split]:
            raise InputError(
                f"texts or labels of {data.task} have changed since the evaluation began",
                key="--data",
                found=split,
                accepted="a copy that nothing writes to any more",
            )


def make_data(config: Mapping[str, Any]) -> GlueDataModule:
    """Returns the data of a run."""
    settings = settings_of(config)
    return GlueDataModule(
        config["task"],
        config["data"],
        max_length=settings.max_length,
        global_batch_size=settings.batch_size,
        micro_batch_size=config.get("micro_batch_size"),
        eval_batch_size=EVAL_BATCH_SIZE,
        seed=config["seed"],
    )


def make_network(config: Mapping[str, Any], num_classes: int) -> TextClassifier:
    """Returns the network of a run, with a new head."""
    settings = settings_of(config)
    return TextClassifier(
        config["checkpoint"],
        num_classes,
        dropout=settings.dropout,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_fraction=settings.warmup_fraction,
        seed=config["seed"],
    )


def settings_of(config: Mapping[str, Any]) -> TaskSettings:
    """Returns the settings of the task as the protocol has them."""
    names = TaskSettings.__dataclass_fields__
    return TaskSettings(**{name: value for name, value in config.items() if name in names})


def _trainer(config: Mapping[str, Any], folder: Path, steps: int, first_step: int) -> Trainer:
    """A trainer for one device; checkpoints are kept of long runs alone."""
    on_gpu = torch.cuda.is_available()
    half = on_gpu and config["precision"] == "bf16"
    is_long = steps > SAVE_EVERY_STEPS
    callbacks: list[Callback] = [_Lines()]
    if is_long:
        callbacks.append(RunCheckpoint(SAVE_EVERY_STEPS))
    return Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if half else "32-true",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,  # the end alone is judged
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, steps // 200),
        logger=MetricsFile(folder, first_step),
        callbacks=callbacks,
        # One process, also where SLURM has given several to the command that runs the jobs.
        plugins=[AtomicCheckpointIO(), LightningEnvironment()],
        default_root_dir=folder,
        enable_checkpointing=is_long,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class _Lines(Callback):
    """Prints a line now and then, for whoever reads the log of the job."""

    def __init__(self) -> None:
        self._step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints the step and the loss."""
        if trainer.global_step == self._step:  # a micro-batch within a step
            return
        self._step = trainer.global_step
        every = max(1, trainer.max_steps // LINES)
        loss = trainer.callback_metrics.get("train/loss")
        if self._step % every == 0 and loss is not None:
            print(f"step {self._step}/{trainer.max_steps}, loss {float(loss):.4f}")


def _validation(
    trainer: Trainer, model: TextClassifier, data: GlueDataModule
) -> dict[str, np.ndarray[Any, Any]]:
    """Predictions and labels of the validation splits."""
    arrays = {}
    splits = data.glue_task.validation_splits
    for split, loader in zip(splits, _loaders(data.val_dataloader()), strict=True):
        arrays[f"{split}.predictions"] = _predict(trainer, model, data, split, loader)
        labels_B = data.split(split).labels
        arrays[f"{split}.labels"] = np.asarray(labels_B)
    return arrays


def _predict(
    trainer: Trainer, model: TextClassifier, data: GlueDataModule, split: str, loader: Any
) -> np.ndarray[Any, Any]:
    """Predicted classes, or scores, in the order of the rows."""
    batches: Any = trainer.predict(model, dataloaders=loader)
    logits_BK = data.in_row_order(split, [batch.float().cpu() for batch in batches])
    broken = int((~logits_BK.isfinite()).any(dim=1).sum())
    if broken:
        what = f"{broken} of {len(logits_BK)} predictions on {split} are not finite"
        raise _diverged(model, data, what)
    found = logits_BK[:, 0] if data.num_classes == 1 else logits_BK.argmax(dim=1)
    array: np.ndarray[Any, Any] = found.numpy()
    return array


def _diverged(model: TextClassifier, data: GlueDataModule, what: str) -> Diverged:
    return Diverged(
        f"the training has diverged: {what}",
        key=f"--settings {data.task}.learning_rate",
        found=model.learning_rate,
        accepted="a smaller rate",
    )


def _loaders(loaders: Any) -> list[Any]:
    return loaders if isinstance(loaders, list) else [loaders]


def main() -> None:
    """Runs the job of the settings file on the command line."""
    settings = Path(sys.argv[1])
    # Names that torch 2.15 has replaced and Lightning 2.6 still uses.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
    try:
        fine_tune(read_json(settings), settings.parent)
    except SIGTERMException:  # would end with 0, as if all were done
        sys.exit(TERMINATED)
    except InputError as error:
        sys.stderr.write(f"rrr: error: {error}\n")
        # It was accepted before the job began: a hub that does not answer may do so next time.
        sys.exit(WRONG_INPUT if isinstance(error, Diverged) else FAILED)


if __name__ == "__main__":
    main()
