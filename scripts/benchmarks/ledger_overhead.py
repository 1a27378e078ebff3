"""What `CostLedger` adds to a training step.

    python scripts/benchmarks/ledger_overhead.py --device cpu --repeats 20 --json overhead.json

Ratios of seconds per step with the ledger against without it, for a plain step and for a step with
one teacher, on the networks of `step_cost.py`. Half a percent of such a step is less than a busy
machine lets one see, so the same is measured on a network so small that what the ledger adds shows;
that much added to the step of the real network is what the goal is held against. Writing the file
every few seconds is part of what is measured.

The steps on which the ledger counts operations are in the warm-up. How much slower one of them is,
is measured by itself, with every step counted. The most that the ledger ever counts, where every
batch has a shape of its own, is one step in 64 and eight more, which a long run does not see.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _timing import Comparison, StepClock, be_quiet, parse, report
from lightning.pytorch import Callback
from step_cost import WORKLOADS, Workload, distill, with_lightning

from rrr_lightning.callbacks.cost_ledger import CostLedger
from rrr_lightning.callbacks.flop_counter import STEPS_PER_COUNT, FlopTable

WARM_UP_STEPS = 8
GOAL = 1.005
SEEN = 1.02  # what a direct comparison on a busy machine can rule out
TINY = {"network": "cifar_resnet8", "classes": 10, "batch_size": 1, "pixels": 8}

Extras = Callable[[], list[Callback]]


def compare(name: str, work: Workload, extras: Extras, file: Path) -> Comparison:
    """Returns the comparison of steps with a ledger against steps without."""
    return Comparison(
        name,
        lambda clock: run(work, clock, [CostLedger(path=str(file)), *extras()]),
        lambda clock: run(work, clock, extras()),
        goal=SEEN,
    )


def run(work: Workload, clock: StepClock, callbacks: list[Callback]) -> None:
    """Trains a new student."""
    with_lightning(work, clock, callbacks)


def taught(work: Workload) -> Extras:
    """Returns what makes a callback with a teacher of its own."""
    return lambda: [distill([work.build(1).to(work.device)])]


def added(name: str, tiny: dict[str, Any], real: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of what the ledger adds to the small network's step, on the real one's."""
    share = tiny["reference_seconds"] / real["reference_seconds"]
    row = {**tiny, "name": name, "goal": GOAL}
    row["seconds_added"] = (tiny["ratio"] - 1) * tiny["reference_seconds"]
    for key in ("ratio", "low", "high"):
        row[key] = 1 + (tiny[key] - 1) * share
    row["ratios"] = [1 + (ratio - 1) * share for ratio in tiny["ratios"]]
    row["reference_seconds"] = real["reference_seconds"]
    row["seconds"] = row["ratio"] * real["reference_seconds"]
    return {**row, "met": row["ratio"] <= GOAL}


def counted(name: str, each: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of a run all of whose shapes are new, from that of counted steps alone."""
    row = {**each, "name": name, "goal": GOAL}
    for key in ("ratio", "low", "high"):
        row[key] = 1 + (each[key] - 1) / STEPS_PER_COUNT
    row["ratios"] = [1 + (ratio - 1) / STEPS_PER_COUNT for ratio in each["ratios"]]
    row["seconds"] = row["ratio"] * each["reference_seconds"]
    return {**row, "counted_step_ratio": each["ratio"], "met": row["ratio"] <= GOAL}


def count_every_step() -> AbstractContextManager[Any]:
    """Has the ledger count all steps within."""
    see = FlopTable.see

    def always(table: FlopTable, shape: Any) -> bool:
        see(table, shape)
        return True

    return patch.object(FlopTable, "see", always)


def measure(work: Workload, repeats: int, steps: int, file: Path) -> list[dict[str, Any]]:
    """Returns the rows of all comparisons."""
    rows = []
    tiny = replace(work, **TINY)
    for kind, teacher in (("plain", False), ("distilled", True)):
        real, small = (
            compare(
                f"{kind} step with ledger / without", used, taught(used) if teacher else list, file
            ).run(work.device, repeats, WARM_UP_STEPS, steps)
            for used in (work, tiny)
        )
        rows += [real, added(f"{kind} step + what the ledger adds / without", small, real)]
        with count_every_step():
            extras = taught(work) if teacher else list
            each = compare(kind, work, extras, file).run(work.device, repeats, WARM_UP_STEPS, steps)
        rows.append(counted(f"{kind} step with ledger, every shape new / without", each))
    return rows


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments = parse(parser, repeats=20, steps=30)
    be_quiet()
    work = WORKLOADS[arguments.device]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger.json")
        rows = measure(work, arguments.repeats, arguments.steps, file)
        return report(rows, arguments.json, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
