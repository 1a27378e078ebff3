"""Writes targets: the teachers see the batches of the coming run, and what they say is kept.

Nothing is lost but the shard at hand when the process is killed; run again, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.callbacks.run_fingerprint import check_hooks, distilled_steps
from rrr_lightning.callbacks.teacher_checks import TeacherProbe
from rrr_lightning.callbacks.teacher_loading import match_teachers, place_teachers
from rrr_lightning.callbacks.teacher_targets import LiveTeachers
from rrr_lightning.data.masking import random_words
from rrr_lightning.distillation.sparse_targets import Arrays, Encoding
from rrr_lightning.distillation.targets import (
    TargetPlan,
    missing_shards,
    remove_leftovers,
    shard_path,
    write_plan,
    write_shard,
)
from rrr_lightning.errors import InputError, refuse
from rrr_lightning.keyed_rng import global_seed, key_seed
from rrr_lightning.targets.batches import ComingBatch, ComingBatches, Counts
from rrr_lightning.targets.plan import (
    Choice,
    WritingLedger,
    agree,
    check_folder,
    check_space,
    extend,
    make_plan,
    size_text,
)


def write_targets(
    trainer: Trainer,
    module: Any,
    data: Any,
    distillation: DistillationCallback,
    choice: Choice,
    say: Callable[[str], None] = print,
) -> int:
    """Writes the targets of a coming run, and returns how many shards were written."""
    from filelock import FileLock, Timeout

    ledger = WritingLedger(choice.folder)
    steps = distilled_steps(distillation.schedule, trainer.max_steps)
    _check_request(distillation, steps)
    check_folder(choice.folder)
    check_hooks(module, data)
    coming = ComingBatches(trainer, module, data)
    distillation.load(module)
    try:
        source, columns = _place(coming, distillation)
        plan = make_plan(coming, distillation, choice, steps, columns)
        rows = coming.rows_per_step(steps[0]) if plan.has_counts else plan.global_batch_size
        plan = extend(agree(plan, coming, choice.folder), steps, rows)
        check_space(plan, rows, choice.folder, say)
        missing = missing_shards(choice.folder, plan)
        choice.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(choice.folder / ".lock", timeout=0):
            remove_leftovers(choice.folder)
            write_plan(choice.folder, plan)
            ledger.begin(trainer, source)
            _write(coming, source, plan, missing, ledger, choice.folder, say)
            ledger.end()
    except Timeout as error:
        raise InputError(
            "another process writes targets there", key="--out", found=str(choice.folder)
        ) from error
    finally:
        coming.close()
        for teacher in distillation.teachers:
            teacher.release()
    return len(missing)


def _check_request(distillation: DistillationCallback, steps: range) -> None:
    if not steps:
        raise InputError(
            "no step has a positive weight, so there is nothing to write",
            key="distillation.schedule.weight",
            found=distillation.schedule.weight,
            accepted="above 0",
        )
    if distillation.pool.per_rank:
        raise InputError(
            "targets do not know the rank that will read them",
            key="distillation.pool.per_rank",
            found=True,
            accepted="false",
        )


def _place(coming: ComingBatches, distillation: DistillationCallback) -> tuple[LiveTeachers, int]:
    """Places the teachers and tries them; returns them and their number of columns."""
    trainer, teachers = coming.trainer, distillation.teachers
    columns = match_teachers(teachers, coming.module)
    precision = distillation.teacher_precision
    place_teachers(teachers, trainer, precision)
    probe = TeacherProbe(
        teachers,
        columns,
        distillation.teacher_min_accuracy,
        precision,
        distillation.teacher_compile,
        finite=True,
    )
    with trainer.precision_plugin.train_step_context():
        probe.run(trainer, *coming.of_validation())
    if probe.columns is None:
        refuse("data.source", 0, "validation samples", "there is nothing to try the teachers on")
    return LiveTeachers(trainer, teachers, distillation.loss, distillation.pool), probe.columns


def _write(
    coming: ComingBatches,
    source: LiveTeachers,
    plan: TargetPlan,
    missing: list[tuple[int, int]],
    ledger: WritingLedger,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Runs the teachers over the steps of the missing shards."""
    seed = key_seed(global_seed(coming.data.seed), "sampled targets")
    steps = [plan.steps[number] for first, stop in missing for number in range(first, stop)]
    batches = ledger.fetched(coming.of(steps))
    for number, (first, stop) in enumerate(missing, 1):
        kept: list[Arrays] = []
        counts: list[Counts] = []
        while len(kept) < stop - first:
            arrays, count = _step(batches, source, coming.trainer, plan.encoding, seed)
            kept.append(arrays)
            counts.append(count)
            ledger.end_step()
        write_shard(shard_path(folder, first), kept, counts if plan.has_counts else None)
        ledger.write()
        say(
            f"shard {number} of {len(missing)}: steps {plan.steps[first]} to "
            f"{plan.steps[stop - 1]}, {size_text(shard_path(folder, first).stat().st_size)}"
        )


def _step(
    batches: Iterator[ComingBatch],
    source: LiveTeachers,
    trainer: Trainer,
    encoding: Encoding,
    seed: int,
) -> tuple[Arrays, Counts]:
    """Returns what is kept of the rows of a step, and how many rows each sample has."""
    parts: list[Arrays] = []
    counts: list[Counts] = []
    for coming in batches:
        with trainer.precision_plugin.train_step_context():
            _, rows = source.logits(coming.step, coming.batch)
        if len(rows) != coming.counts.sum():
            raise InputError(
                f"the teachers give other than one row per target at step {coming.step}",
                key="distillation.teachers",
                found=len(rows),
                accepted=str(coming.counts.sum()),
            )
        if not bool(torch.isfinite(rows).all()):
            raise InputError(
                f"rows of the teachers hold NaN or infinity at step {coming.step}",
                key="distillation.teachers",
                accepted="finite numbers",
            )
        parts.append(encoding.encode(rows, _chance(coming, seed)))
        counts.append(coming.counts)
        if coming.is_last:
            break
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return arrays, np.concatenate(counts)


def _chance(coming: ComingBatch, seed: int) -> torch.Tensor:
    """Returns a random number for each row: a function of (seed, step, place, row of sample)."""
    keys = [(coming.step, place) for place in coming.places]
    most = int(coming.counts.max(initial=0))
    words = random_words(seed, keys, most)[np.arange(most) < coming.counts[:, None]]
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
