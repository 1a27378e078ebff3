from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rrr_lightning.data.glue import EncodedTexts
from rrr_lightning.data.glue_sources import read_split
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.data.sampling import (
    BATCHES_PER_POOL,
    BatchPlan,
    KeyedBatches,
    LengthBuckets,
    evaluation_order,
)
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import load_fast_tokenizer

LENGTHS = torch.randint(3, 90, (1003,), generator=torch.Generator().manual_seed(0))


def buckets(seed: int = 1, lengths: Tensor = LENGTHS, **plan: int) -> LengthBuckets:
    return LengthBuckets(lengths, BatchPlan(**{"global_batch_size": 8, **plan}), seed, lambda: 0)


def positions(lengths: Tensor, order: Tensor, size: int) -> int:
    """Token positions of one epoch when every batch is padded to its longest text."""
    batches = lengths[order[: len(order) // size * size]].view(-1, size)
    return int(batches.amax(dim=1).sum()) * size


def test_an_epoch_brings_every_sample_once_and_drops_those_that_chance_drops() -> None:
    made = buckets()
    for epoch in range(3):
        order = made.order(epoch)
        assert torch.equal(order.sort().values, torch.arange(1003))
        used = made.steps_per_epoch * 8
        plain = KeyedBatches.order(made, epoch)
        assert torch.equal(order[used:], plain[used:])
    assert not torch.equal(made.order(0)[used:], made.order(1)[used:])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert torch.equal(buckets().order(2), buckets().order(2))
    assert not torch.equal(buckets().order(2), buckets().order(3))
    assert not torch.equal(buckets(seed=2).order(2), buckets().order(2))


def test_batches_do_not_come_by_length() -> None:
    means = LENGTHS[buckets().order(0)[:1000]].view(-1, 8).float().mean(dim=1)
    assert (means.diff() > 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    thirds = torch.stack([third.mean() for third in means.tensor_split(3)])
    assert thirds.std() < means.std() / 3


def test_who_meets_whom_changes_with_the_epoch() -> None:
    made = buckets()
    for pool in (0, BATCHES_PER_POOL):
        batch = set(made.order(0)[8 * pool : 8 * pool + 8].tolist())
        others = made.order(1)[:1000].view(-1, 8).tolist()
        assert max(len(batch & set(other)) for other in others) <= 4


def test_the_samples_of_a_step_do_not_depend_on_the_split() -> None:
    def step(number: int, world_size: int, micro: int) -> set[int]:
        found = []
        for rank in range(world_size):
            made = buckets(world_size=world_size, rank=rank, micro_batch_size=micro)
            for part in range(made.plan.accumulation):
                found += [index for _, index in made.micro_batch(number, part)]
        assert len(found) == 8
        return set(found)

    for number in (0, 17, 130):
        alone = step(number, 1, 8)
        assert alone == step(number, 1, 2) == step(number, 2, 2) == step(number, 4, 1)


@pytest.mark.parametrize(("task", "size"), [("rte", 16), ("mrpc", 32), ("cola", 32)])
def test_real_tasks_take_a_third_of_the_token_positions(
    rrr_data: Path, task: str, size: int
) -> None:
    tokenizer = load_fast_tokenizer(str(rrr_data / "bert-base-uncased"))
    rows = read_split(str(rrr_data / "glue"), TASKS[task], "train")
    lengths = EncodedTexts(lambda: tokenizer, rows.texts, None, 256).lengths
    made = buckets(lengths=lengths, global_batch_size=size)
    used = made.steps_per_epoch * size
    taken = positions(lengths, made.order(0), size)
    assert 256 * used >= 3 * taken
    real = int(lengths[made.order(0)[:used]].sum())
    assert taken <= 1.1 * real  # less than a tenth is padding
    assert positions(lengths, KeyedBatches.order(made, 0), size) > 1.4 * taken


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_an_evaluation_goes_from_short_to_long_on_every_rank(world_size: int) -> None:
    order = evaluation_order(LENGTHS, world_size)
    assert torch.equal(order.sort().values, torch.arange(1003))
    bounds = [1003 * rank // world_size for rank in range(world_size + 1)]
    totals = []
    for start, stop in pairwise(bounds):
        share = LENGTHS[order[start:stop]]
        falls = (share.diff() < 0).sum()
        assert falls <= 1  # where parts are of unequal size
        totals.append(int(share.sum()))
    assert max(totals) < 1.05 * min(totals)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.global_batch_size: is larger than the data set"):
        buckets(lengths=LENGTHS[:7])
