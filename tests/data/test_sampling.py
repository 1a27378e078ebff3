from __future__ import annotations

from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader

from rrr_lightning.data.sampling import BatchPlan, KeyedBatches, ShardedBatches
from rrr_lightning.errors import InputError
from tests.data.toy import Numbered

LENGTH, SIZE = 50, 12  # four whole steps an epoch, two samples over


def batches(plan: BatchPlan, step: int = 0, seed: int = 1) -> KeyedBatches:
    return KeyedBatches(LENGTH, plan, seed, step=lambda: step)


def step_sets(micro: int | None, world: int, steps: int) -> list[list[tuple[int, int]]]:
    """The keys of each step, put together from all ranks and micro-batches."""
    plans = [BatchPlan(SIZE, micro, world, rank) for rank in range(world)]
    ranks = [iter(batches(plan)) for plan in plans]
    sets = []
    for _ in range(steps):
        parts = [list(chain(*islice(rank, plans[0].accumulation))) for rank in ranks]
        keys = list(chain(*parts))
        assert len(set(keys)) == len(keys) == SIZE
        sets.append(sorted(keys))
    return sets


@pytest.mark.parametrize(("micro", "world"), [(6, 1), (4, 1), (None, 2), (3, 2), (2, 3), (1, 4)])
def test_the_set_of_a_step_does_not_depend_on_the_split(micro: int, world: int) -> None:
    assert step_sets(micro, world, 9) == step_sets(None, 1, 9)


def test_every_epoch_has_whole_steps_and_an_order_of_its_own() -> None:
    keys = list(chain(*islice(batches(BatchPlan(SIZE)), 8)))
    first, second = keys[:48], keys[48:]
    assert {epoch for epoch, _ in first} == {0}
    assert {epoch for epoch, _ in second} == {1}
    assert len({index for _, index in first}) == 48
    assert [index for _, index in first] != [index for _, index in second]


def test_iteration_continues_at_any_step_and_micro_batches_can_be_asked_for() -> None:
    plan = BatchPlan(SIZE, 4)
    whole = list(islice(batches(plan), 30))
    for step in (1, 3, 4, 7):
        assert list(islice(batches(plan, step), 6)) == whole[3 * step : 3 * step + 6]
        assert batches(plan).micro_batch(step, 2) == whole[3 * step + 2]


def test_seeds_give_orders_of_their_own() -> None:
    plan = BatchPlan(SIZE)
    assert next(iter(batches(plan, seed=1))) != next(iter(batches(plan, seed=2)))


def test_a_plain_dataloader_over_keyed_batches_gives_whole_batches() -> None:
    sampler = batches(BatchPlan(SIZE, 4))
    loader = DataLoader(Numbered(LENGTH), sampler=sampler, batch_size=None)
    rows, indices = next(iter(loader))
    assert rows.shape == (4, 6)
    assert indices.tolist() == [index for _, index in sampler.micro_batch(0, 0)]
    with pytest.raises(TypeError, match="never ends"):
        len(loader)


def test_a_micro_batch_above_the_share_is_the_share() -> None:
    plan = BatchPlan(64, 256, world_size=4)
    assert (plan.micro_batch_size, plan.accumulation) == (16, 1)


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((0,), "data.global_batch_size: must be positive; found 0"),
        ((10, None, 4), "data.global_batch_size: does not divide among 4 ranks; found 10"),
        ((64, 12, 2), "data.micro_batch_size: does not divide the 32 samples of a rank's share"),
        ((64, 0), "data.micro_batch_size: does not divide the 64 samples"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes: tuple[int, ...], line: str) -> None:
    with pytest.raises(InputError, match=line):
        BatchPlan(*sizes)


def test_a_global_batch_above_the_data_set_is_refused() -> None:
    line = "data.global_batch_size: is larger than the data set of 50 samples; found 51"
    with pytest.raises(InputError, match=line):
        batches(BatchPlan(51))


@pytest.mark.parametrize("length", [4, 7, 10, 11, 12, 13])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_evaluation_covers_every_sample_once_in_equally_many_batches(
    length: int, size: int, world: int
) -> None:
    ranks = [list(ShardedBatches(length, size, world, rank)) for rank in range(world)]
    assert list(chain(*chain(*ranks))) == [(0, index) for index in range(length)]
    sampler = ShardedBatches(length, size, world, 0)
    assert {len(rank) for rank in ranks} == {len(sampler)}
    assert all(0 < len(batch) <= size + (world > 1) for batch in chain(*ranks))


def test_evaluation_needs_a_sample_per_rank_and_a_batch_size() -> None:
    with pytest.raises(InputError, match="3 samples for 4 ranks"):
        ShardedBatches(3, 2, 4)
    with pytest.raises(InputError, match=r"eval_batch_size: must be positive"):
        ShardedBatches(3, 0)


def test_the_order_is_uniform_over_seeds() -> None:
    first = [batches(BatchPlan(1), seed=seed).micro_batch(0, 0)[0][1] for seed in range(2000)]
    counts = torch.bincount(torch.tensor(first), minlength=LENGTH).double()
    chi_square = ((counts - 40) ** 2 / 40).sum()
    assert chi_square < 90  # 49 degrees of freedom: above 85.4 once in a thousand
