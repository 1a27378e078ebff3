"""Checkpoints that survive a kill: written beside their place, then moved onto it.

Lightning's own saving goes through the system's temporary folder; killed in the middle, it can
leave a truncated file under the final name, which `--ckpt_path last` would then pick.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rrr_lightning.distillation.state_dicts import load_strictly
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.models.training_loss import (
    TrainingLoss,
    check_loss,
    check_weights,
    is_logging_step,
)

PART = ".part"

logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes `.NAME.part` beside the target, flushes it to the disk, and renames it.

    Reads with `weights_only=True` unless told otherwise. Addresses with a protocol, such as
    `s3://bucket/last.ckpt`, are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves a checkpoint so that `path` holds either the former file or the whole new one."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        part = target.with_name(f".{target.name}{PART}")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint without unpickling anything but tensors and plain types."""
        where: Any = "cpu" if map_location is None else map_location
        return super().load_checkpoint(path, where, weights_only is None or weights_only)


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run folder: every n steps, at the end, and on SIGTERM.

    Under SLURM, SIGUSR1 saves at the end of the optimizer step, hands the job back to the queue and
    ends the run. Lightning's own handler, which this one takes the place of, would save in the
    middle of whatever is going on, to a file that `--ckpt_path last` does not read.

    A loss or weights that are not finite stop the run with an `InputError`, and are not saved.

    Args:
        every_n_steps: Optimizer steps between two saves.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise InputError(
                "must be positive",
                key="checkpoint.every_n_steps",
                found=every_n_steps,
                accepted="a whole number from 1",
            )
        self.every_n_steps = every_n_steps
        self._saved_step = self._stepped = self._begun = 0
        self._is_leaving = False
        self._notice: RequeueNotice | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to SLURM before Lightning does, which leaves signals alone that are heard."""
        if SLURMEnvironment.detect() and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            self._notice = RequeueNotice()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the step of a resumed run as saved."""
        self._saved_step = self._stepped = trainer.global_step
        self._is_leaving = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends a run that goes back to the queue, once its last step has been logged."""
        self._begun = trainer.global_step
        if self._is_leaving:
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where a save is due, and at the last step, from where a longer run can go on."""
        step = trainer.global_step
        foreign = not isinstance(pl_module, TrainingLoss)
        if foreign and is_logging_step(trainer) and isinstance(outputs, Mapping):
            check_loss([(self._begun, outputs["loss"].detach())])
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            self._save(trainer)
        if self._notice is None or step in (self._stepped, trainer.max_steps):
            return
        self._stepped = step
        if self._notice.is_given(trainer):
            self._is_leaving = True
            self._save(trainer)
            if trainer.is_global_zero:
                requeue()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses weights that are not finite; modules of this library do so themselves."""
        if not isinstance(pl_module, TrainingLoss):
            check_weights(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves when the run was stopped before its last step."""
        self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves on SIGTERM, raised between two steps; after other exceptions it is not safe."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops listening."""
        if self._notice is not None:
            self._notice.close()
            self._notice = None

    def _save(self, trainer: Trainer) -> None:
        """Saves once per optimizer step; all ranks have to take part."""
        if self._saved_step == trainer.global_step or getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir), weights_only=False)
        self._saved_step = trainer.global_step


class RequeueNotice:
    """Hears SIGUSR1, by which SLURM says that the time of a job is nearly up."""

    def __init__(self) -> None:
        self._is_heard = False
        self._former = signal.signal(signal.SIGUSR1, self._hear)

    def _hear(self, *_: Any) -> None:
        self._is_heard = True

    def is_given(self, trainer: Trainer) -> bool:
        """Whether any rank has heard it; all of them have to ask, after the same step."""
        return trainer.strategy.reduce_boolean_decision(self._is_heard, all=False)

    def close(self) -> None:
        """Gives the signal back to whom it belonged."""
        signal.signal(signal.SIGUSR1, self._former)


def requeue() -> None:
    """Hands this SLURM job back to the queue, which ends it; says so where that fails."""
    found = os.environ
    job = found.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in found:
        job = f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        rank_zero_info(f"The time of job {job} is nearly up: saved, and handed back to the queue.")
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning(
            "job %s is saved, but could not be handed back to the queue (%s); started again, it "
            "goes on from there",
            job,
            error,
        )


def last_checkpoint(run_folder: str | Path) -> Path:
    """Returns where a run keeps its newest checkpoint."""
    return Path(run_folder, "checkpoints", "last.ckpt")


def find_checkpoint(run_folder: str | Path, asked: str | None, training: bool) -> Path | None:
    """Returns the checkpoint that a command starts from, None for a fresh run.

    Args:
        run_folder: The trainer's `default_root_dir`.
        asked: `--ckpt_path`: a file, `last` for the run folder's own, or None.
        training: Whether the command trains; only then can `last` mean a fresh start.

    Raises:
        InputError: There is no such file, or a fresh run would go into a used folder.
    """
    last = last_checkpoint(run_folder)
    if training and Path(run_folder).exists() and not Path(run_folder).is_dir():
        raise InputError(
            "is no folder",
            key="trainer.default_root_dir",
            found=str(run_folder),
            accepted="a folder, or a path where one can be made",
        )
    if asked is None:
        if training and any(last.parent.glob("*.ckpt")):
            raise InputError(
                "the folder holds the checkpoints of a run",
                key="trainer.default_root_dir",
                found=str(run_folder),
                accepted="another folder, or --ckpt_path last to continue that run",
            )
        return None
    path = last if asked == "last" else Path(asked)
    if path.is_file():
        return path
    if asked == "last" and training:
        rank_zero_info(f"There is no {last} yet: the run starts at step 0.")
        return None
    raise InputError("no such checkpoint", key="ckpt_path", found=str(path))


def check_checkpoint(path: Path, module: LightningModule) -> dict[str, Any]:
    """Returns the content of a checkpoint that fits a module, its weights left out.

    Raises:
        InputError: The file is damaged, was not written by Lightning, or is of another network.
    """
    checkpoint = read_checkpoint(path, key="ckpt_path", plain=True)
    if not isinstance(checkpoint.get("state_dict"), Mapping) or "global_step" not in checkpoint:
        raise InputError(
            f"{path} is not a checkpoint of a training run",
            key="ckpt_path",
            found=", ".join(map(str, list(checkpoint)[:6])),
            accepted="a file that `rrr fit` or a Lightning trainer wrote",
        )
    load_strictly(module, checkpoint["state_dict"], "ckpt_path")
    return {key: value for key, value in checkpoint.items() if key != "state_dict"}


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed save left in a folder."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
