"""Which samples a step sees: a function of `(seed, step)` that nothing has to save.

Optimizer step s owns G (`global_batch_size`) places in the order of its epoch, and an epoch is a
whole number of steps (the remainder is dropped). Ranks and micro-batches share the G places, so the
*set* of samples of a step depends neither on the number of devices nor on the accumulation. The
sampler is endless: it starts at the trainer's current step and forms its own epochs, so that a
resumed run continues where it stopped, be it in the middle of an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch.utils.data import DistributedSampler

from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_permutation

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loops.progress import _ProcessedTracker


Key = tuple[int, int]
"""Names one view of one sample: (epoch, index). Evaluation uses epoch 0."""


@dataclass(frozen=True)
class BatchPlan:
    """How ranks and micro-batches share the samples of an optimizer step.

    Args:
        global_batch_size: Samples of one optimizer step, over all ranks and micro-batches.
        micro_batch_size: The most samples that one rank takes in one forward pass. With None a
            rank's whole share is one micro-batch. Afterwards the field holds the size in use.
        world_size: Number of ranks that see different data.
        rank: This rank.

    Attributes:
        accumulation: Number of micro-batches per optimizer step and rank.

    Raises:
        InputError: A size is below 1, or does not divide.

    >>> BatchPlan(global_batch_size=64, micro_batch_size=8, world_size=2).accumulation
    4
    """

    global_batch_size: int
    micro_batch_size: int | None = None
    world_size: int = 1
    rank: int = 0
    accumulation: int = field(init=False)

    def __post_init__(self) -> None:
        size, micro, world = self.global_batch_size, self.micro_batch_size, self.world_size
        if size < 1:
            raise InputError(
                "must be positive",
                key="data.global_batch_size",
                found=size,
                accepted="a whole number from 1",
            )
        if size % world:
            raise InputError(
                f"does not divide among {world} ranks",
                key="data.global_batch_size",
                found=size,
                accepted=f"a multiple of {world}",
            )
        share = size // world
        if micro is None or micro >= share:
            micro = share
        elif micro < 1 or share % micro:
            raise InputError(
                f"does not divide the {share} samples of a rank's share "
                f"(global_batch_size {size} on {world} rank{'s' if world > 1 else ''})",
                key="data.micro_batch_size",
                found=micro,
                accepted=f"a divisor of {share}",
            )
        object.__setattr__(self, "micro_batch_size", micro)
        object.__setattr__(self, "accumulation", share // micro)

    def places(self, number: int) -> range:
        """Returns which of the step's places, from 0 on, this rank's micro-batch `number` holds."""
        size = self.global_batch_size // (self.world_size * self.accumulation)
        start = (number * self.world_size + self.rank) * size
        return range(start, start + size)


class EndlessBatches(DistributedSampler[Any], ABC):
    """Endless sampler of micro-batches for `DataLoader(dataset, sampler=..., batch_size=None)`.

    Every item is a list of keys; the data set turns such a list into a batch. It is a
    `DistributedSampler` only so that Lightning, which replaces other samplers, leaves it alone.

    Args:
        plan: The shares of ranks and micro-batches.
        seed: Seed of the order.
        step: Returns the optimizer step to continue from; called when an iteration starts.

    Attributes:
        steps_per_epoch: Optimizer steps of an epoch; None where that is not known.
    """

    steps_per_epoch: int | None

    def __init__(self, plan: BatchPlan, seed: int, step: Callable[[], int]) -> None:
        self.plan = plan
        self.seed = seed
        self.step = step

    @abstractmethod
    def micro_batch(self, step: int, number: int) -> list[Key]:
        """Returns the keys of this rank's micro-batch `number` of optimizer step `step`."""

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields micro-batches from the current optimizer step on, without end."""
        step = self.step()
        while True:
            for number in range(self.plan.accumulation):
                yield self.micro_batch(step, number)
            step += 1

    def __len__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} has no length: it never ends")

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the epoch follows from the step, Lightning's own is not used."""


class KeyedBatches(EndlessBatches):
    """Micro-batches of (epoch, index) keys in the keyed order of each epoch.

    Args:
        length: Number of samples in the data set.
        plan: The shares of ranks and micro-batches.
        seed: Seed of the order.
        step: Returns the optimizer step to continue from; called when an iteration starts.

    Raises:
        InputError: The data set is smaller than one global batch.
    """

    def __init__(self, length: int, plan: BatchPlan, seed: int, step: Callable[[], int]) -> None:
        if plan.global_batch_size > length:
            raise InputError(
                f"is larger than the data set of {length} samples",
                key="data.global_batch_size",
                found=plan.global_batch_size,
                accepted=f"1 to {length}",
            )
        super().__init__(plan, seed, step)
        self.length = length
        self.steps_per_epoch: int = length // plan.global_batch_size
        self._cached: tuple[int, torch.Tensor] | None = None

    def order(self, epoch: int) -> torch.Tensor:
        """Returns the indices of an epoch in the order in which steps consume them."""
        return keyed_permutation(self.length, self.seed, "order", epoch)

    def micro_batch(self, step: int, number: int) -> list[Key]:
        """Returns the keys of this rank's micro-batch `number` of optimizer step `step`."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self.order(epoch))
        places = self.plan.places(number)
        start = step_in_epoch * self.plan.global_batch_size + places.start
        return [(epoch, index) for index in self._cached[1][start : start + len(places)].tolist()]


class ShardedBatches(DistributedSampler[Any]):
    """A rank's batches of an evaluation: every sample exactly once, in order, none repeated.

    Ranks hold neighbouring parts that differ by at most one sample and have equally many batches,
    as collective operations in a forward pass require; so a last batch may hold `batch_size` + 1.

    Args:
        length: Number of samples in the data set.
        batch_size: Samples per batch.
        world_size: Number of ranks.
        rank: This rank.

    Raises:
        InputError: There are fewer samples than ranks.
    """

    def __init__(self, length: int, batch_size: int, world_size: int = 1, rank: int = 0) -> None:
        if batch_size < 1:
            raise InputError(
                "must be positive",
                key="data.eval_batch_size",
                found=batch_size,
                accepted="a whole number from 1",
            )
        if length < world_size:
            raise InputError(
                f"the evaluation set has {length} samples for {world_size} ranks",
                key="data",
                accepted="at least one sample per rank",
            )
        self.batch_size = batch_size
        self.start = length * rank // world_size
        self.stop = length * (rank + 1) // world_size
        self.batches = -(-(length // world_size) // batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields lists of (0, index)."""
        for number in range(self.batches):
            start = self.start + number * self.batch_size
            last = number == self.batches - 1
            stop = self.stop if last else start + self.batch_size
            yield [(0, index) for index in range(start, stop)]

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: evaluation has one order."""


def rewind_open_window(trainer: Trainer) -> None:
    """Puts a restored trainer's micro-batch counters back to the start of the accumulation window.

    A checkpoint taken between two optimizer steps holds counters in the middle of a window, but not
    the gradients gathered so far; continued from there, the next optimizer step would silently miss
    them. Called when the training loader is made, which is after a restore and before the first
    batch; the window is then done again as a whole. Without a restore, or at a window's start, this
    changes nothing.
    """
    loop = trainer.fit_loop.epoch_loop
    total, current = (
        cast("_ProcessedTracker", counts)
        for counts in (loop.batch_progress.total, loop.batch_progress.current)
    )
    # Saved in `on_train_batch_end`, the micro-batch counts as done: Lightning adds it on restart.
    ended = total.ready == total.started == total.processed == total.completed + 1
    open_batches = (current.completed + ended) % trainer.accumulate_grad_batches
    if not loop.restarting or (ended and not open_batches):
        return
    for counts in (total, current):
        start = counts.completed + ended - open_batches
        counts.ready = counts.started = counts.processed = counts.completed = start


# ----------------------------------------------------------------------
# Batches of texts of similar length, so that little of a batch is padding.


# The more batches in a pool, the less padding, and the less chance has a say in who meets whom.
# Pools of 50 batches of 16 to 48 leave 2 to 8 % of padding on GLUE.
BATCHES_PER_POOL = 50


class LengthBuckets(KeyedBatches):
    """Keyed micro-batches whose samples have similar lengths.

    Args:
        lengths: The length of every sample, int64 of shape [N].
        plan: The shares of ranks and micro-batches.
        seed: Seed of the order.
        step: Returns the optimizer step to continue from; called when an iteration starts.

    Raises:
        InputError: There are fewer samples than one global batch.
    """

    def __init__(
        self, lengths: torch.Tensor, plan: BatchPlan, seed: int, step: Callable[[], int]
    ) -> None:
        super().__init__(len(lengths), plan, seed, step)
        self.lengths = lengths

    def order(self, epoch: int) -> torch.Tensor:
        """Returns the indices of an epoch in the order in which steps consume them."""
        shuffled = super().order(epoch)
        size = self.plan.global_batch_size
        used = self.steps_per_epoch * size
        pools = torch.split(shuffled[:used], BATCHES_PER_POOL * size)
        # A stable sort leaves equal lengths in the order of chance.
        sorted_pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        batches = torch.cat(sorted_pools).view(-1, size)
        batches = batches[keyed_permutation(len(batches), self.seed, "buckets", epoch)]
        return torch.cat([batches.flatten(), shuffled[used:]])


def evaluation_order(lengths: torch.Tensor, world_size: int = 1) -> torch.Tensor:
    """Returns an order of samples by length, in which neighbouring parts are alike."""
    by_length = lengths.argsort(stable=True)
    return torch.cat([by_length[rank::world_size] for rank in reversed(range(world_size))])
