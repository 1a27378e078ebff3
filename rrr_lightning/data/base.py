"""What all data modules share: one global batch size, keyed order, exact resume.

`global_batch_size` is given once; micro-batch and accumulation follow from the devices. The
training loader never ends and starts at the trainer's optimizer step, so nothing about the data is
saved in a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import Sampler

from rrr_lightning.data.loader import BatchLoader, KeyedSet, automatic_workers
from rrr_lightning.data.pacing import pace
from rrr_lightning.data.sampling import (
    BatchPlan,
    EndlessBatches,
    KeyedBatches,
    ShardedBatches,
    rewind_open_window,
)
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.random import check_seed, global_seed


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
