from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch

from rrr_lightning.data.module import BatchLoader, automatic_workers
from rrr_lightning.data.sampling import BatchPlan, Key, KeyedBatches, ShardedBatches
from rrr_lightning.errors import InputError
from tests.data.toy import Numbered


class Refuses(Numbered):
    def __getitem__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        if (0, 7) in keys:
            raise InputError("cannot be read", key="image 7", found="truncated")
        return super().__getitem__(keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_input_error_arrives_as_it_was_raised(workers: int) -> None:
    loader = BatchLoader(Refuses(12), ShardedBatches(12, 3), workers, pin=False)
    batches = iter(loader)
    assert next(batches)[1].tolist() == [0, 1, 2]
    next(batches)
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "image 7: cannot be read; found 'truncated'"
    loader.close()


def test_batches_keep_their_type_and_do_not_depend_on_workers() -> None:
    alone, shared = (
        BatchLoader(Numbered(20), ShardedBatches(20, 6), workers, pin=False) for workers in (0, 2)
    )
    assert len(alone) == len(shared) == 4
    for left, right in zip(alone, shared, strict=True):
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        assert all(torch.equal(*pair) for pair in zip(left, right, strict=True))
    shared.close()


def test_endless_batches_have_no_length() -> None:
    batches = KeyedBatches(20, BatchPlan(5), seed=0, step=lambda: 0)
    with pytest.raises(TypeError):
        len(BatchLoader(Numbered(20), batches, 0, pin=False))


def test_workers_end_at_once_in_the_middle_of_endless_batches() -> None:
    batches = KeyedBatches(20, BatchPlan(5), seed=0, step=lambda: 0)
    loader = BatchLoader(Numbered(20), batches, 2, pin=False)
    iterator = iter(loader)
    next(iterator)
    start = time.perf_counter()
    loader.close()
    assert time.perf_counter() - start < 4  # a worker left to the collector takes 5 seconds


SLURM = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "12"}


@pytest.mark.parametrize(
    ("cores", "devices", "variables", "workers"),
    [
        (96, 8, {}, 11),  # all processes on the same cores
        (96, 8, {"TORCHELASTIC_RUN_ID": "run"}, 11),
        (12, 8, SLURM, 11),  # a task is bound to its own cores
        (96, 8, SLURM, 11),  # or is not bound at all
        (1, 8, SLURM, 0),
        (96, 8, {**SLURM, "TORCHELASTIC_RUN_ID": "run"}, 11),
        (96, 8, {"SLURM_NTASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "96"}, 11),
        (8, 8, {"SLURM_NTASKS_PER_NODE": "8"}, 0),
        (64, 1, {}, 16),
    ],
)
def test_workers_have_the_share_of_a_device(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    devices: int,
    variables: dict[str, str],
    workers: int,
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert automatic_workers(devices) == workers
