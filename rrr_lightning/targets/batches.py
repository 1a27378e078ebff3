"""The batches of a run that has not begun, as its training steps will get them.

No training loop runs. The data module makes the very batches of the coming steps, and the student's
module prepares them on the device as in training: normalised, and mixed where it mixes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import Sampler

from rrr_lightning.callbacks.teacher_checks import validation_batches
from rrr_lightning.data.module import BatchLoader, KeyedDataModule, automatic_workers
from rrr_lightning.data.sampling import BatchPlan, EndlessBatches, Key
from rrr_lightning.errors import InputError

NO_TARGET = -100
SOME_SAMPLES = 256  # of a step, to estimate how many rows it has

Counts = npt.NDArray[np.int64]


class ComingBatch(NamedTuple):
    """A micro-batch of a coming step.

    Args:
        step: The optimizer step.
        places: The places of its samples in the global batch.
        counts: How many rows each sample has.
        batch: The batch on the device, as `training_step` will get it.
        is_last: Whether it is the last one of the step.
    """

    step: int
    places: range
    counts: Counts
    batch: Any
    is_last: bool


class ComingBatches:
    """Sets a trainer, a module and a data module up as `fit` does, and tells the coming batches.

    Args:
        trainer: A trainer of one device.
        module: The student.
        data: Its data.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, data: KeyedDataModule) -> None:
        self.trainer, self.module, self.data = trainer, module, data
        connector: Any = trainer._data_connector
        connector.attach_datamodule(module, datamodule=data)
        module.trainer = trainer
        trainer.strategy.connect(module)
        trainer.strategy.setup_environment()
        data.prepare_data()
        trainer.state.fn = TrainerFn.FITTING
        trainer.training = True
        data.setup("fit")
        module.setup("fit")
        trainer.precision_plugin.convert_module(module).to(trainer.strategy.root_device)

    def of(self, steps: Sequence[int]) -> Iterator[ComingBatch]:
        """Yields the micro-batches of some steps, in order."""
        plan, batches = self.data.plan, self.data.batches
        workers = self.data.num_workers
        workers = automatic_workers(1) if workers is None else workers
        pin = self.trainer.strategy.root_device.type == "cuda"
        loader = BatchLoader(self.data.sets[0], _Steps(batches, steps), workers, pin)
        numbers = ((step, number) for step in steps for number in range(plan.accumulation))
        try:
            for (step, number), raw in zip(numbers, loader, strict=True):
                counts = rows_of_samples(raw)
                self._stand_at(step, number)
                is_last = number == plan.accumulation - 1
                yield ComingBatch(step, plan.places(number), counts, self._move(raw), is_last)
        finally:
            loader.close()

    def of_validation(self) -> tuple[Iterator[Any], str]:
        """Returns batches to judge teachers on, on the device, and what to call them."""
        loaders = self.data.val_dataloader()
        batches, what = validation_batches(loaders[0] if isinstance(loaders, list) else loaders)
        return map(self._move_as_in_validation, batches), what

    def _move_as_in_validation(self, raw: Any) -> Any:
        self.trainer.sanity_checking = True
        try:
            return self._move(raw)
        finally:
            self.trainer.training = True

    def rows_per_step(self, step: int) -> float:
        """Returns about how many rows a step has, from some of its samples."""
        whole = copy.copy(self.data.batches)
        whole.plan = BatchPlan(self.data.global_batch_size)
        keys = whole.micro_batch(step, 0)[:SOME_SAMPLES]
        counts = rows_of_samples(self.data.sets[0][keys])
        return float(counts.mean()) * self.data.global_batch_size

    def close(self) -> None:
        """Ends the workers."""
        self.data.teardown("fit")

    def _stand_at(self, step: int, number: int) -> None:
        """Lets the trainer count as it will when this micro-batch arrives."""
        loop: Any = self.trainer.fit_loop.epoch_loop
        for optimizer_steps in (
            loop.automatic_optimization.optim_progress.optimizer.step.total,
            loop.manual_optimization.optim_step_progress.total,
        ):
            optimizer_steps.completed = step
        loop.batch_progress.current.ready = number

    def _move(self, raw: Any) -> Any:
        batch = self.trainer.precision_plugin.convert_input(raw)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)


class _Steps(Sampler[list[Key]]):
    """The keys of the micro-batches of some steps."""

    def __init__(self, batches: EndlessBatches, steps: Sequence[int]) -> None:
        self.batches = batches
        self.steps = steps

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            for number in range(self.batches.plan.accumulation):
                yield self.batches.micro_batch(step, number)

    def __len__(self) -> int:
        return len(self.steps) * self.batches.plan.accumulation


def has_masked_tokens(batch: Any) -> bool:
    """Whether the rows of a batch are the tokens whose label is not -100."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    return isinstance(labels, Tensor) and labels.ndim == 2


def rows_of_samples(batch: Any) -> Counts:
    """Returns how many rows each sample of a batch has: its masked tokens, or one."""
    is_pair = isinstance(batch, list | tuple) and len(batch) > 1
    labels = batch[1] if is_pair else batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor):
        raise InputError(
            "the batches have no labels, which tell the number of rows",
            key="data",
            found=type(batch).__name__,
            accepted="(inputs, labels), or a dict with labels",
        )
    if has_masked_tokens(batch):
        counts: Counts = (labels != NO_TARGET).sum(dim=1).numpy()
        return counts
    return np.ones(len(labels), dtype=np.int64)
