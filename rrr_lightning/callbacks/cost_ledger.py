"""`CostLedger`: what a run costs, by phase, in seconds, operations, energy and money.

    Trainer(max_steps=5_000, callbacks=[CostLedger(price_per_device_hour=2.5)])

The ledger is written to `ledger.json` beside the run every few seconds, and is saved in its
checkpoints. A run that goes on from a checkpoint goes on from its ledger: steps that a crash lost
and that are done once more are paid twice, and counted as redone.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.callbacks.ledger import (
    FILE,
    OTHER,
    TEACHER,
    VALIDATION,
    WAIT,
    Part,
    add_part,
    check_ledger,
    continued,
    new_ledger,
    read_ledger,
    write_ledger,
)
from rrr_lightning.callbacks.profiler import (
    Session,
    describe_git,
    describe_hardware,
    describe_versions,
)
from rrr_lightning.callbacks.step import forget_logged
from rrr_lightning.callbacks.teacher_targets import TeacherMeter
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.models.student import is_logging_step

LOGGED_KEYS = ("cost/seconds", "cost/data_wait_seconds", "cost/teacher_seconds", "cost/flops")


class CostLedger(Callback):
    """Measures a training run and keeps its ledger; logs `cost/*` where other metrics are logged.

    The numbers of the run are not touched, and the device is never waited for.

    Args:
        path: The file; by default `ledger.json` in the trainer's `default_root_dir`.
        price_per_device_hour: What an hour of one device costs, in any currency; gives `money`.
        every_n_seconds: Seconds between two writes, which is the most that a kill can lose.
    """

    def __init__(
        self,
        path: str | None = None,
        price_per_device_hour: float | None = None,
        every_n_seconds: float = 5.0,
    ) -> None:
        check_types(CostLedger.__init__, locals(), "cost.")
        if price_per_device_hour is not None and not price_per_device_hour >= 0:
            raise InputError(
                "must not be negative",
                key="cost.price_per_device_hour",
                found=price_per_device_hour,
                accepted="0 or more, or null",
            )
        if not every_n_seconds > 0:
            raise InputError(
                "must be positive",
                key="cost.every_n_seconds",
                found=every_n_seconds,
                accepted="a number of seconds above 0",
            )
        self.path = path
        self.price_per_device_hour = price_per_device_hour
        self.every_n_seconds = every_n_seconds
        self._begun: Session | None = None
        self._session: Session | None = None
        self._resumes = False
        self._paid = new_ledger()  # by earlier processes of the run
        self._kept: dict[str, Any] | None = None  # the checkpoint's ledger, to be gone on from
        self._on_disk: dict[str, Any] | None = None  # the file's, of the same run
        self._about: dict[str, Any] = {}
        self._file: Path | None = None
        self._world_size = 1
        self._written = 0.0
        self._has_logged = False

    def begin(self, resumes: bool = False) -> None:
        """Starts the clock before `fit` does, so that what goes before it is counted as set-up.

        Args:
            resumes: Whether to go on from the file of a run that has left no checkpoint.
        """
        self._begun, self._resumes = Session(), resumes

    # ------------------------------------------------------------------------------ before step 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock, for `fit` alone, and takes down what the run runs on."""
        if stage != "fit":
            return
        self._session, self._begun = self._begun or Session(), None
        device = trainer.strategy.root_device
        self._session.place(device)
        if trainer.global_step == 0:
            self._paid = new_ledger()
        self._kept = self._on_disk = self._file = None
        self._world_size = trainer.world_size
        for callback in _distillations(trainer):
            callback.meter = self._session
        if trainer.is_global_zero:
            if not getattr(trainer, "fast_dev_run", False):
                self._file = Path(self.path or Path(trainer.default_root_dir, FILE))
            self._about = {
                "hardware": describe_hardware(device),
                "versions": describe_versions(),
                "git": describe_git(),
            }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the checkpoint's ledger, and from what the file knows of the same run.

        Raises:
            InputError: One of them is damaged, or of another version.
        """
        if self._session is None:
            return
        self._kept = check_ledger(state_dict, "the checkpoint")
        on_disk = None if self._file is None else read_ledger(self._file)
        if on_disk is not None and on_disk["run"] == self._kept["run"]:
            self._on_disk = on_disk

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure the training loop."""
        if self._session is None:
            return
        if self._kept is None and self._resumes and self._file is not None:
            self._on_disk = read_ledger(self._file)
        self._resumes = False
        self._paid["step"] = trainer.global_step
        self._go_on(trainer.global_step)
        teachers = [each for callback in _distillations(trainer) for each in callback.taught_by()]
        if teachers and trainer.is_global_zero:
            self._about["teachers"] = teachers
        self._session.install(trainer)

    # ------------------------------------------------------------------------------ every step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the step; writes and logs where it is time to."""
        if self._session is None:
            return
        self._session.end_batch(trainer.global_step)
        now = time.monotonic()
        if self._session.steps and now - self._written >= self.every_n_seconds:
            self._written = now
            self._write(self._now())
        if trainer.loggers and is_logging_step(trainer):
            for name, value in self._to_log().items():
                pl_module.log(name, value, on_step=True, on_epoch=False, batch_size=1)
            self._has_logged = True
        elif self._has_logged:
            forget_logged(trainer, LOGGED_KEYS)
            self._has_logged = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Books what follows to validation; the sanity check is part of the set-up."""
        if self._session is not None and not trainer.sanity_checking:
            self._session.clock.enter(VALIDATION)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the validation, and writes."""
        if self._session is not None and not trainer.sanity_checking:
            self._session.clock.enter(OTHER)
            self._write(self._now())

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes, so that the file is never behind a checkpoint."""
        if self._session is not None:
            self._write(self._now())

    # ------------------------------------------------------------------------------ the end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Books what follows to no phase of training."""
        if self._session is not None:
            self._session.clock.enter(OTHER)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sums over ranks, writes for the last time, and leaves the trainer as it was."""
        if stage != "fit" or self._session is None:
            return
        self._leave(trainer)
        self._go_on(trainer.global_step)  # where there was nothing left to train
        self._session.clock.finish()
        part = self._session.part()
        if self._world_size > 1:  # each rank fills its own row, so that one sum gathers them
            own = torch.tensor(part.summable(), dtype=torch.float64)
            ranks = torch.zeros(self._world_size, len(own), dtype=torch.float64)
            ranks[trainer.global_rank] = own
            ranks = ranks.to(trainer.strategy.root_device)
            part = part.sum_of(trainer.strategy.reduce(ranks, reduce_op="sum").tolist())
        self._paid = self._now(part)
        self._session = None
        self._write(self._paid)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes what was paid until then; other ranks may be gone."""
        if self._session is None:
            return
        self._leave(trainer)
        with suppress(RuntimeError):  # of a device that has failed
            self._write(self._now())

    def state_dict(self) -> dict[str, Any]:
        """The ledger up to now, other ranks taken to be like this one; plain types."""
        return self._now()

    # ------------------------------------------------------------------------------ the ledger

    def _go_on(self, step: int) -> None:
        """Takes over, once, what earlier processes of the run have paid."""
        kept, on_disk, self._kept, self._on_disk = self._kept, self._on_disk, None, None
        if kept is not None or on_disk is not None:
            hardware = self._about.get("hardware")
            self._paid = continued(kept, on_disk, step, hardware, self._world_size)

    def _now(self, part: Part | None = None) -> dict[str, Any]:
        session = self._session
        if session is None:
            return self._paid
        part = part or session.part().times(self._world_size)
        ledger = add_part(self._paid, part, self.price_per_device_hour)
        ledger["step"] = self._paid["step"] + part.steps
        for kind, seconds in session.step_seconds().items():
            ledger["step_seconds"][kind] = seconds or ledger["step_seconds"][kind]
        return ledger | {"world_size": self._world_size} | self._about

    def _to_log(self) -> dict[str, float]:
        ledger = self._now()
        phases = ledger["phases"]
        training = [ledger["flops"]["student"], ledger["flops"]["teacher"]]
        values = (
            ledger["seconds"],
            phases[WAIT]["seconds"],
            phases[TEACHER]["seconds"],
            None if None in training else sum(training),
        )
        named = zip(LOGGED_KEYS, values, strict=True)
        return {name: value for name, value in named if value is not None}

    def _write(self, ledger: dict[str, Any]) -> None:
        if self._file is not None and ledger["steps"]:
            write_ledger(self._file, ledger)

    def _leave(self, trainer: Trainer) -> None:
        if self._session is not None:
            self._session.uninstall()
        for callback in _distillations(trainer):
            callback.meter = TeacherMeter()


def _distillations(trainer: Trainer) -> list[DistillationCallback]:
    return [each for each in trainer.callbacks if isinstance(each, DistillationCallback)]  # type: ignore[attr-defined]
