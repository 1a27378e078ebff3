"""From keys to batches, with or without worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset, Sampler

from rrr_lightning.data.sampling import Key
from rrr_lightning.errors import InputError


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
