"""Checkpoints that survive a kill: written beside their place, then moved onto it.

Lightning's own saving goes through the system's temporary folder; killed in the middle, it can
leave a truncated file under the final name, which `--ckpt_path last` would then pick.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rrr_lightning.distillation.state_dicts import load_strictly
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check, check_types
from rrr_lightning.files import PART, atomic_file
from rrr_lightning.models.student import (
    TrainingLoss,
    check_loss,
    check_weights,
    is_logging_step,
)

TERMINATED = 128 + signal.SIGTERM

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs out of one folder
    fcntl = None  # type: ignore[assignment]

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
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target.parent)
            with atomic_file(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch turns an error of the disk into a RuntimeError of its own.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            what = f"the checkpoint cannot be written ({reason.strerror})"
            raise InputError(what, key="trainer.default_root_dir", found=str(target)) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint without unpickling anything but tensors and plain types."""
        where: Any = "cpu" if map_location is None else map_location
        return super().load_checkpoint(path, where, weights_only is None or weights_only)


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` in the run folder: after every validation and at the end.

    SIGTERM saves after the step at hand and ends the run with exit code 143. Under SLURM, SIGUSR1
    saves likewise and hands the job back to the queue (exit code 138); Lightning's own handlers,
    which these replace, save in the middle of a step or do not let the ranks agree on one.

    A checkpoint is taken before the next step begins: the validation and the metrics of the steps
    that it holds are recorded by then, so a run that is killed and resumed lacks none of them.

    A loss or weights that are not finite stop the run with an `InputError`, and are not saved.

    Args:
        every_n_steps: Optimizer steps between two further saves; None for no further ones.

    Attributes:
        stops_on_interrupt: Whether SIGINT (Ctrl-C) saves and ends the run as SIGTERM does, with
            exit code 130, and a second one ends it at once. Set by the command line.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        check_types(RunCheckpoint.__init__, locals(), "checkpoint.")
        check(
            every_n_steps is None or every_n_steps >= 1,
            "checkpoint.every_n_steps",
            every_n_steps,
            "a whole number from 1, or null",
            "must be positive",
        )
        self.every_n_steps = every_n_steps
        self.stops_on_interrupt = False
        self._saved_step = self._begun = 0
        self._has_validated = False
        self._signals: StopSignals | None = None
        self._is_stopping = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the step of a resumed run as saved, and listens to signals in Lightning's place."""
        self._saved_step = trainer.global_step
        self._has_validated = self._is_stopping = False
        numbers = [signal.SIGTERM, *([signal.SIGINT] if self.stops_on_interrupt else [])]
        if SLURMEnvironment.detect() and _is_free(signal.SIGUSR1):
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread():
            self._signals = StopSignals(numbers)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Saves where a save is due, and ends a run that a signal has stopped."""
        loop: Any = trainer.fit_loop.epoch_loop
        # Lightning loses count by one when it resumes from certain moments; steps are logged by it.
        loop._batches_that_stepped = trainer.global_step
        step = self._begun = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches:
            return
        is_nth = self.every_n_steps is not None and step > 0 and step % self.every_n_steps == 0
        if self._has_validated or is_nth or self._is_stopping:
            self._save(trainer)
        if self._is_stopping and self._signals is not None:
            if self._signals.asks_for_requeue(trainer) and trainer.is_global_zero:
                requeue()
            raise SIGTERMException(self._signals.exit_code)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets the ranks agree, after each optimizer step, whether a signal has come."""
        foreign = not isinstance(pl_module, TrainingLoss)
        if foreign and is_logging_step(trainer) and isinstance(outputs, Mapping):
            check_loss([(self._begun, outputs["loss"].detach())])
        is_whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._signals is not None and is_whole and trainer.global_step != trainer.max_steps:
            self._is_stopping = self._signals.has_come(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has a checkpoint written before the next step; validation may have taken long."""
        self._has_validated = not trainer.sanity_checking
        if self._signals is not None and self._has_validated:
            self._is_stopping |= self._signals.has_come(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves at the last step, from where a longer run can continue."""
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves when the run was stopped before its last step."""
        self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves when Lightning ends the run between two steps; after other exceptions it is not."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer)
        self._stop_listening()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._stop_listening()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses weights that are not finite, and writes counters as they stand between steps."""
        if not isinstance(pl_module, TrainingLoss):  # this library's modules check themselves
            check_weights(trainer, pl_module)
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        is_endless = trainer.num_training_batches == float("inf")
        for kind in ("total", "current"):
            batches = loops.get("epoch_loop.batch_progress", {}).get(kind)
            if batches and batches["ready"] == batches["processed"] + 1 == batches["completed"] + 1:
                batches["ready"] = batches["started"] = batches["completed"]
            epochs = loops.get("epoch_progress", {}).get(kind)
            if epochs and is_endless and epochs["processed"] == epochs["completed"] + 1:
                epochs["processed"] = epochs["completed"]

    def _stop_listening(self) -> None:
        if self._signals is not None:
            self._signals.close()
            self._signals = None

    def _save(self, trainer: Trainer) -> None:
        """Saves once per optimizer step; all ranks have to take part."""
        if self._saved_step == trainer.global_step or getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir), weights_only=False)
        self._saved_step, self._has_validated = trainer.global_step, False


class StopSignals:
    """Signals that ask a run to stop after the step at hand.

    Args:
        numbers: The signals. A second SIGINT ends the process at once.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._received: int | None = None
        self._former = {number: signal.signal(number, self._hear) for number in numbers}

    def _hear(self, number: int, _: Any) -> None:
        if number == signal.SIGINT:
            if self._received == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            line = b"\nStopping after this step; press Ctrl-C again to stop at once.\n"
            os.write(sys.stderr.fileno(), line)
        self._received = number

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal has ended, as a shell has it."""
        return 128 + (self._received or signal.SIGTERM)

    def has_come(self, trainer: Trainer) -> bool:
        """Whether any rank has received one; all of them have to ask, after the same step."""
        return self._any_rank(trainer, self._received is not None)

    def asks_for_requeue(self, trainer: Trainer) -> bool:
        """Whether SLURM has said on any rank that the time of the job is nearly up."""
        listens = signal.SIGUSR1 in self._former
        return listens and self._any_rank(trainer, self._received == signal.SIGUSR1)

    def close(self) -> None:
        """Gives the signals back to their former handlers, unless Lightning has reset them."""
        for number, former in self._former.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, former)

    @staticmethod
    def _any_rank(trainer: Trainer, value: bool) -> bool:
        if trainer.world_size == 1:
            return value
        return trainer.strategy.reduce_boolean_decision(value, all=False)


def _is_free(number: int) -> bool:
    """Whether nobody but Lightning listens to a signal."""
    handler = signal.getsignal(number)
    return handler == signal.SIG_DFL or "lightning" in type(handler).__module__


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


class RunFolder(Callback):
    """Makes the run folder this process's own, and writes `config.yaml` into it.

    Nothing is made before the first optimizer step has gone well: until then the run may still be
    refused by its module, a teacher or the first batch.

    Args:
        folder: The run folder.
        config: Returns the text of `config.yaml`.
    """

    def __init__(self, folder: str | Path, config: Callable[[], str]) -> None:
        self.folder = Path(folder)
        self._config = config
        self._descriptor: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes a folder that is there already."""
        if stage == "fit" and trainer.is_global_zero and self.folder.exists():
            self._take()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Makes the folder and writes the file, once."""
        if not trainer.is_global_zero or self._config is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take()
        with atomic_file(self.folder / "config.yaml") as file:
            file.write(self._config().encode())
        self._config = None  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets other processes write there."""
        self._let_go()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lets other processes write there."""
        self._let_go()

    def _take(self) -> None:
        """Locks the folder; the operating system releases the lock however a process ends."""
        if self._descriptor is not None or fcntl is None:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                "another process is writing a run into this folder",
                key="trainer.default_root_dir",
                found=str(self.folder),
                accepted="another folder, or the same call once that run has ended",
            ) from error
        self._descriptor = descriptor

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def check_run_folder(folder: str | Path) -> None:
    """Tries, before any step, whether a run can write into a folder; leaves nothing there."""
    key, path = "trainer.default_root_dir", Path(folder)
    check("://" not in str(folder), key, str(folder), "a local folder",
          "addresses are not supported: a run writes to a local or mounted folder")  # fmt: skip
    try:
        above = next(each for each in (path, *path.absolute().parents) if each.exists())
        check(above.is_dir(), key, str(folder), "a folder, or a path where one can be made",
              f"{above} is no folder")  # fmt: skip
        with tempfile.TemporaryDirectory(dir=above, prefix=".try-") as trial:
            missing = path.absolute().relative_to(above.absolute())
            (Path(trial) / missing / "checkpoints").mkdir(parents=True)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot be written to ({reason})",
            key=key,
            found=str(folder),
            accepted="a folder that this user may write to",
        ) from error


def last_checkpoint(run_folder: str | Path) -> Path:
    """Returns where a run keeps its newest checkpoint."""
    return Path(run_folder, "checkpoints", "last.ckpt")


def find_checkpoint(run_folder: str | Path, asked: str | None, training: bool) -> Path | None:
    """Returns the checkpoint that a command starts from, None for a fresh run."""
    last = last_checkpoint(run_folder)
    if training:
        check_run_folder(run_folder)
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
    """Returns the content of a checkpoint that fits a module, its weights left out."""
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
