"""How many token positions an epoch of GLUE has: padded to 256, random batches, and in buckets.

    python scripts/benchmarks/token_positions.py --tokenizer bert-base-uncased --json rows.json

Two rows for a task, with the batch size of the published protocol, over the epochs of some seeds:
random batches, and batches of similar lengths, each padded to its longest text, over padding all
to 256 tokens. The share of padding that is left is in the JSON. Nothing is trained. Needs the
folder of real test data: `RRR_DATA`, or `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _timing import be_quiet, parse, report, row_of

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.length_buckets import LengthBuckets
from rrr_lightning.data.sampling import BatchPlan, KeyedBatches
from rrr_lightning.glue.protocol import find_protocol

LENGTH = 256


def count(batches: KeyedBatches, lengths: torch.Tensor) -> tuple[int, int]:
    """Returns the positions of an epoch, and how many of them are tokens."""
    order = batches.order(0)[: batches.steps_per_epoch * batches.plan.global_batch_size]
    found = lengths[order].view(batches.steps_per_epoch, -1)
    return int((found.amax(dim=1) * found.shape[1]).sum()), int(found.sum())


def measure(task: str, source: str, tokenizer: str, seeds: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a task."""
    size = find_protocol("published").tasks[task].batch_size
    data = GlueDataModule(task, source, tokenizer, max_length=LENGTH, global_batch_size=size)
    lengths, plan = data.split("train").lengths, BatchPlan(size)
    ways = {
        "random batches": lambda seed: KeyedBatches(len(lengths), plan, seed, lambda: 0),
        "length buckets": lambda seed: LengthBuckets(lengths, plan, seed, lambda: 0),
    }
    for name, make in ways.items():
        counts = [count(make(seed), lengths) for seed in range(seeds)]
        padded = LENGTH * size * make(0).steps_per_epoch
        ratios = [positions / padded for positions, _ in counts]
        row = row_of(f"token positions, {name} / padding to {LENGTH}, {task}", ratios, None)
        left = [1 - tokens / positions for positions, tokens in counts]
        yield row | {"batch_size": size, "padding": left, "tokenizer": Path(tokenizer).name}


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="a folder or hub id")
    parser.add_argument("--tasks", default="cola,rte,mrpc,stsb,sst2", help="names with commas")
    arguments = parse(parser, repeats=3, steps=1)
    be_quiet()
    beside = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    source = str(Path(os.environ.get("RRR_DATA", beside)) / "glue")
    rows = (
        row
        for task in arguments.tasks.split(",")
        for row in measure(task, source, arguments.tokenizer, arguments.repeats)
    )
    return report(rows, arguments.json, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
