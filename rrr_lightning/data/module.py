"""The base of all data modules: one global batch size, keyed order, exact resume.

`global_batch_size` is given once; micro-batch and accumulation follow from the devices. The
training loader never ends and starts at the trainer's optimizer step, so nothing about the data is
saved in a checkpoint.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from rrr_lightning.data.sampling import (
    BatchPlan,
    EndlessBatches,
    Key,
    KeyedBatches,
    ShardedBatches,
    rewind_open_window,
)
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import check_seed, global_seed


class KeyedSet(Protocol):
    """A data set that makes a whole batch from a list of (epoch, index) keys."""

    def __len__(self) -> int: ...

    def __getitem__(self, keys: Sequence[Key], /) -> Any: ...


class BatchLoader:
    """Iterates over batches of a `KeyedSet`; an `InputError` of a worker arrives as it was raised.

    It is not a `DataLoader` itself: Lightning would advise on its workers and replace its sampler.
    """

    def __init__(self, dataset: KeyedSet, batches: Sampler[Any], workers: int, pin: bool) -> None:
        self.batches = batches
        self.dataset = dataset
        self.loader: DataLoader[Any] = DataLoader(
            _Guarded(dataset),
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            collate_fn=_unchanged,
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if isinstance(batch, _Refusal):
                raise InputError(batch.line)
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def fetch(self, indices: Sequence[int]) -> Any:
        """Returns samples of epoch 0 as a batch, made in this process."""
        return self.dataset[[(0, index) for index in indices]]

    def close(self) -> None:
        """Ends the worker processes now: left to the garbage collector it takes seconds each."""
        iterator = getattr(self.loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self.loader._iterator = None


class _Refusal:
    """An `InputError` on its way out of a worker; torch would wrap the traceback into its text."""

    def __init__(self, line: str) -> None:
        self.line = line


class _Guarded(Dataset[Any]):
    def __init__(self, dataset: KeyedSet) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: Sequence[Key]) -> Any:
        try:
            return self.dataset[keys]
        except InputError as error:
            return _Refusal(str(error))


def automatic_workers(devices: int) -> int:
    """Returns one less than a device's share of the cores, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    of_task = _cores_of_task(devices)
    share = cores // devices if of_task is None else min(cores, of_task)
    return max(0, min(16, share - 1))


def _cores_of_task(devices: int) -> int | None:
    """Returns the cores of this SLURM task, None where it is not one of a single device."""
    found = os.environ.get
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # then a task holds all devices of a node
    if by_torchrun or found("SLURM_NTASKS_PER_NODE") != str(devices):
        return None
    cores = found("SLURM_CPUS_PER_TASK", "")
    return int(cores) if cores.isdecimal() else None


def _unchanged(batch: Any) -> Any:
    return batch


# ----------------------------------------------------------------------
# What the trainer is told about endless training data: accumulation, validation, and an end.


def pace(trainer: Trainer, batches: EndlessBatches) -> dict[str, Any]:
    """Sets accumulation and validation interval; returns the former values by attribute name."""
    finite_epochs = isinstance(trainer.limit_train_batches, int)
    _refuse_contradictions(trainer, batches)
    if not finite_epochs:
        _refuse_fraction(trainer)
        _refuse_unbounded(trainer, batches)
    settings: dict[str, Any] = {"accumulate_grad_batches": batches.plan.accumulation}
    timed = getattr(trainer, "_val_check_time_interval", None) is not None
    if not timed and not finite_epochs and isinstance(trainer.val_check_interval, float):
        if batches.steps_per_epoch is not None:
            steps = max(1, round(trainer.val_check_interval * batches.steps_per_epoch))
            steps *= trainer.check_val_every_n_epoch or 1
            settings["val_check_interval"] = steps * batches.plan.accumulation
            settings["check_val_every_n_epoch"] = None
        elif trainer.limit_val_batches:
            raise InputError(
                "cannot be a fraction, as the length of streamed data is not known",
                key="trainer.val_check_interval",
                found=trainer.val_check_interval,
                accepted="a whole number of micro-batches",
            )
    former = {name: getattr(trainer, name) for name in settings}
    for name, value in settings.items():
        setattr(trainer, name, value)
    return former


def _refuse_contradictions(trainer: Trainer, batches: EndlessBatches) -> None:
    if overfit := getattr(trainer, "overfit_batches", 0):
        raise InputError(
            "cannot be used with keyed batches",
            key="trainer.overfit_batches",
            found=overfit,
            accepted="0.0",
        )
    callbacks = getattr(trainer, "callbacks", [])
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise InputError(
            "GradientAccumulationScheduler changes what a step sees; accumulation follows from "
            "data.global_batch_size and data.micro_batch_size",
            key="trainer.callbacks",
            accepted="leave it out",
        )
    if trainer.accumulate_grad_batches not in (1, batches.plan.accumulation):
        raise InputError(
            f"is {batches.plan.accumulation} by data.global_batch_size and data.micro_batch_size",
            key="trainer.accumulate_grad_batches",
            found=trainer.accumulate_grad_batches,
            accepted="leave it out",
        )


def _refuse_fraction(trainer: Trainer) -> None:
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and limit != 1.0:
        raise InputError(
            "cannot be a fraction, as the training data never end",
            key="trainer.limit_train_batches",
            found=limit,
            accepted="1.0, or a whole number of micro-batches",
        )


def _refuse_unbounded(trainer: Trainer, batches: EndlessBatches) -> None:
    steps = batches.steps_per_epoch
    epoch = f"an epoch has {'an unknown number of' if steps is None else steps} optimizer steps"
    if trainer.max_steps == -1:
        raise InputError(
            f"must be set, as the training data never end; {epoch}",
            key="trainer.max_steps",
            found=trainer.max_steps,
            accepted="a whole number from 1",
        )
    if trainer.max_epochs not in (None, -1):
        raise InputError(
            f"must be -1, as trainer.max_steps ends the run; {epoch}",
            key="trainer.max_epochs",
            found=trainer.max_epochs,
            accepted="-1",
        )


# ----------------------------------------------------------------------
# What all data modules share: one global batch size, keyed order, exact resume.


class KeyedDataModule(LightningDataModule, ABC):
    """Base of the data modules. A subclass says in `load` what its two sets are.

    Args:
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; gradients are accumulated
            over as many as it takes. By default a device's share is not divided.
        eval_batch_size: Samples per device in evaluation; by default that of training.
        num_workers: Processes that load data, per device; None takes one less than the device's
            share of the cores, at most 16.
        seed: Seed of order and views; by default that of `seed_everything`, or 0.
    """

    def __init__(
        self,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = 0,
        seed: int | None = None,
    ) -> None:
        check_types(KeyedDataModule.__init__, locals(), "data.")
        check_seed(seed, "data.seed")
        super().__init__()
        BatchPlan(global_batch_size)
        for key, value in (("micro", micro_batch_size), ("eval", eval_batch_size)):
            if value is not None and value < 1:
                raise InputError(
                    "must be positive",
                    key=f"data.{key}_batch_size",
                    found=value,
                    accepted="a whole number from 1",
                )
        if num_workers is not None and num_workers < 0:
            raise InputError(
                "must not be negative",
                key="data.num_workers",
                found=num_workers,
                accepted="a whole number from 0",
            )
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._sets: tuple[KeyedSet, KeyedSet] | None = None
        self._batches: EndlessBatches | None = None
        self._loaders: list[BatchLoader] = []
        self._trainer_settings: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses the trainer of another package, which would not recognise this module's hooks."""
        if name == "trainer" and value is not None and not isinstance(value, Trainer):
            raise InputError(
                f"{type(self).__name__} is a data module of lightning.pytorch",
                key="trainer",
                found=f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}",
                accepted="lightning.pytorch.Trainer",
            )
        super().__setattr__(name, value)

    @abstractmethod
    def load(self) -> tuple[KeyedSet, KeyedSet]:
        """Returns the training set and the validation set; called once, on every rank."""

    def make_batches(self, training_set: KeyedSet) -> EndlessBatches:
        """Returns the sampler of the training loader."""
        return KeyedBatches(
            len(training_set), self.plan, global_seed(self.seed), step=self._current_step
        )

    @property
    def sets(self) -> tuple[KeyedSet, KeyedSet]:
        """The training set and the validation set, loaded when first asked for."""
        if self._sets is None:
            self._sets = self.load()
        return self._sets

    @property
    def plan(self) -> BatchPlan:
        """The shares of ranks and micro-batches under the current trainer."""
        world_size, rank = self._replicas()
        return BatchPlan(self.global_batch_size, self.micro_batch_size, world_size, rank)

    @property
    def batches(self) -> EndlessBatches:
        """The sampler of the training loader; its `micro_batch` tells the keys of any step."""
        if self._batches is None:
            self._batches = self.make_batches(self.sets[0])
        return self._batches

    def setup(self, stage: str) -> None:
        """Loads the sets, plans the batches and paces the trainer."""
        sets = self.sets
        if stage == "fit":
            self._batches = self.make_batches(sets[0])
            if self.trainer is not None:
                self._trainer_settings = pace(self.trainer, self._batches)

    def train_dataloader(self) -> Iterable[Any]:
        """Returns the endless loader of this rank's micro-batches, from the current step on."""
        if self.trainer is not None:
            rewind_open_window(self.trainer)
        return self._loader(self.sets[0], self.batches)

    def val_dataloader(self) -> Any:
        """Returns the loader of this rank's share of the validation set."""
        return self.eval_loader(self.sets[1])

    def test_set(self) -> KeyedSet | None:
        """Returns the test set, or None where there is none."""
        return None

    def test_dataloader(self) -> Any:
        """Returns the loader of this rank's share of the test set."""
        found = self.test_set()
        if found is None:
            raise InputError(
                "has no test split with labels",
                key="data.source",
                found=getattr(self, "source", type(self).__name__),
                accepted="a source with a test split; or `validate`, which uses the validation set",
            )
        return self.eval_loader(found)

    def predict_dataloader(self) -> Any:
        """Refuses: a module that can be predicted with has a loader of its own."""
        raise InputError(
            "predict has no meaning for this data", key="data", found=type(self).__name__
        )

    def eval_loader(self, dataset: KeyedSet) -> BatchLoader:
        """Returns a loader of this rank's share of a set, each sample once."""
        world_size, rank = self._replicas()
        size = self.eval_batch_size or self.micro_batch_size
        size = size or max(1, self.global_batch_size // world_size)
        return self._loader(dataset, ShardedBatches(len(dataset), size, world_size, rank))

    def state_dict(self) -> dict[str, Any]:
        """What decides which samples a step gets, for a resumed run to be held against."""
        values: dict[str, Any] = {
            "global_batch_size": self.global_batch_size,
            "seed": global_seed(self.seed),
        }
        with suppress(TypeError):  # a stream has no length
            values["training_samples"] = len(self.sets[0])
        return values

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with another order of samples; a validation run may have any."""
        for name, value in self.state_dict().items():
            if self._batches is not None and state_dict[name] != value:
                raise InputError(
                    "differs from the checkpoint's",
                    key=f"data.{name}",
                    found=value,
                    accepted=f"{state_dict[name]} as in the checkpoint, or a new run",
                )

    def teardown(self, stage: str) -> None:
        """Ends the workers and gives the trainer back the settings that `setup` changed."""
        while self._loaders:
            self._loaders.pop().close()
        for name, value in self._trainer_settings.items():
            setattr(self.trainer, name, value)
        self._trainer_settings = {}

    def on_exception(self, exception: BaseException) -> None:
        """Does the same as `teardown`, which is not called then."""
        self.teardown("fit")

    def _loader(self, dataset: KeyedSet, batches: Sampler[Any]) -> BatchLoader:
        trainer, workers = self.trainer, self.num_workers
        if workers is None:
            workers = automatic_workers(trainer.num_devices if trainer is not None else 1)
        if trainer is None:
            return BatchLoader(dataset, batches, workers, pin=False)
        pin = trainer.strategy.root_device.type == "cuda"
        self._loaders.append(BatchLoader(dataset, batches, workers, pin))
        return self._loaders[-1]

    def _replicas(self) -> tuple[int, int]:
        shares = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return (shares["num_replicas"], shares["rank"]) if shares else (1, 0)

    def _current_step(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step
