"""What a folder of targets will hold: which steps, in which shards, how large; and whether it fits.

Nothing is written here. A folder that holds targets already must hold them of the same run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.callbacks.ledger import (
    FILE,
    OTHER,
    WAIT,
    add_part,
    new_ledger,
    read_ledger,
    write_ledger,
)
from rrr_lightning.callbacks.profiler import (
    DeviceClock,
    Session,
    describe_git,
    describe_hardware,
    describe_versions,
)
from rrr_lightning.callbacks.run_fingerprint import compare_runs, describe_run, looked_at
from rrr_lightning.callbacks.teacher_loading import used_precision
from rrr_lightning.callbacks.teacher_targets import LiveTeachers
from rrr_lightning.distillation.sparse_targets import Encoding, Kind, loss_against
from rrr_lightning.distillation.targets import (
    MANIFEST,
    SHARDS,
    TargetPlan,
    missing_shards,
    read_plan,
)
from rrr_lightning.errors import InputError, check
from rrr_lightning.targets.batches import ComingBatch, ComingBatches, has_masked_tokens

# ----------------------------------------------------------------------
# What the writing of targets costs: a ledger like that of a training run, without a student.


class WritingLedger:
    """Measures the writing of targets; the clock starts when it is made.

    Args:
        folder: That of the targets, in which `ledger.json` is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._session = Session()
        self._paid = new_ledger()
        self._about: dict[str, Any] = {}

    def begin(self, trainer: Trainer, source: LiveTeachers) -> None:
        """Begins to measure the teachers; goes on from the ledger of a run that was stopped."""
        device = trainer.strategy.root_device
        hardware = describe_hardware(device)
        self._about = {
            "hardware": hardware,
            "versions": describe_versions(),
            "git": describe_git(),
            "teachers": source.taught_by(),
        }
        there = read_ledger(self._file)
        if there is not None:
            mixed = there["mixed_hardware"] or there["hardware"] != hardware
            self._paid = {**there, "mixed_hardware": mixed}
        self._session.place(device)
        if device.type == "cuda":
            self._session.clock = DeviceClock(self._session.clock)
        source.meter = self._session

    def fetched(self, batches: Iterator[ComingBatch]) -> Iterator[ComingBatch]:
        """Yields batches, and books the time until each one is there to waiting."""
        self._session.clock.enter(WAIT)
        for coming in batches:
            self._session.clock.enter(OTHER)
            self._session.see(coming.batch)
            yield coming
            self._session.clock.enter(WAIT)
        self._session.clock.enter(OTHER)

    def end_step(self) -> None:
        """Counts a step."""
        self._session.steps += 1

    def write(self) -> None:
        """Writes the ledger up to now, where anything has been done."""
        part = self._session.part()
        if part.steps:
            ledger = add_part(self._paid, part, None)
            ledger["step"] = self._paid["step"] + part.steps
            write_ledger(self._file, ledger | self._about)

    def end(self) -> None:
        """Waits for what the clock has not read, and writes for the last time."""
        self._session.clock.finish()
        self.write()


CLASSES_OF_IMAGES = 10
CLASSES_OF_TOKENS = 12
STEPS_PER_SHARD = 100
SHARD_BYTES = 2**26
HEADER_BYTES = 264  # of a shard, about
SPARE = 1.05  # of the predicted size must be free, for masks are a matter of chance


@dataclass(frozen=True)
class Choice:
    """What the user chose.

    Args:
        folder: Where to.
        kind: What is kept of a row; None for `top_k`, `sampled` for masked tokens, and `dense`
            where there are no more classes than would be kept.
        classes: How many classes are kept of a row; None for 10, and 12 for masked tokens.
    """

    folder: Path
    kind: Kind | None = None
    classes: int | None = None

    def encoding(self, columns: int, temperature: float | None, is_text: bool) -> Encoding:
        """Returns what is kept of rows."""
        kept = self.classes
        if kept is None:
            kept = CLASSES_OF_TOKENS if is_text else CLASSES_OF_IMAGES
        kind: Kind = "sampled" if is_text else "top_k"
        if self.classes is None and kept >= columns:
            kind = "dense"
        if self.kind is not None:
            kind = self.kind
        return Encoding(kind, columns, 0 if kind == "dense" else kept, temperature)


def make_plan(
    coming: ComingBatches,
    distillation: DistillationCallback,
    choice: Choice,
    steps: range,
    columns: int,
) -> TargetPlan:
    """Returns the plan of the coming run, without steps yet; the teachers have been tried."""
    data, trainer = coming.data, coming.trainer
    is_text = has_masked_tokens(data.sets[0][data.batches.micro_batch(steps[0], 0)[:1]])
    temperature = getattr(distillation.loss, "temperature", None)
    encoding = choice.encoding(columns, temperature, is_text)
    loss_against(distillation.loss, encoding)
    teachers = tuple(
        {
            "name": teacher.name,
            "sha256": teacher.fingerprint(),
            "precision": used_precision(teacher, trainer, distillation.teacher_precision),
        }
        for teacher in distillation.teachers
    )
    size = data.global_batch_size
    run = describe_run(coming.module, data, looked_at(data, steps))
    return TargetPlan(encoding, range(0), (), size, is_text, distillation.pool, teachers, run)


def agree(plan: TargetPlan, coming: ComingBatches, folder: Path) -> TargetPlan:
    """Returns the plan that the folder holds, if it is of this run; else the new one."""
    there = read_plan(folder)
    if there is None:
        return plan
    looked = [int(name.split()[-1]) for name in there.run if name.startswith("views")]
    compare_runs(describe_run(coming.module, coming.data, looked), there.run, folder)
    for name in ("encoding", "pool", "teachers", "global_batch_size", "has_counts"):
        found, stored = getattr(plan, name), getattr(there, name)
        if found != stored:
            raise InputError(
                f"the folder holds targets with other {name.replace('_', ' ')}",
                key="--out",
                found=str(found),
                accepted=f"{stored} as there, or another folder",
            )
    return there


def check_folder(folder: Path) -> None:
    """Refuses a folder that holds something else than targets."""
    check(folder.is_dir() or not folder.exists(), "--out", str(folder), "a folder", "is a file")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    check(
        MANIFEST in names or all(name == SHARDS or name.startswith(".") for name in names),
        "--out",
        str(folder),
        "a new folder, or one that `rrr targets` wrote",
        "holds other files",
    )


def extend(plan: TargetPlan, steps: range, rows: float) -> TargetPlan:
    """Returns a plan that has the steps of the coming run, `rows` rows each."""
    shorter, longer = sorted((plan.steps, steps), key=len)
    if longer[: len(shorter)] != shorter:
        raise InputError(
            "the folder holds targets of other steps",
            key="--out",
            found=f"steps {steps[0]} to {steps[-1]}, every {steps.step}",
            accepted=f"steps from {plan.steps[0]}, every {plan.steps.step}, or another folder",
        )
    if len(steps) <= len(plan.steps):
        return plan
    per_shard = min(STEPS_PER_SHARD, max(1, SHARD_BYTES // max(1, _step_bytes(plan, rows))))
    return plan.extended(steps, int(per_shard))


def _step_bytes(plan: TargetPlan, rows: float) -> float:
    return rows * plan.encoding.bytes_per_row + (2 * plan.global_batch_size * plan.has_counts)


def check_space(
    plan: TargetPlan,
    rows: float,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Tells the size, and refuses a disk that has less free."""
    missing = missing_shards(folder, plan)
    steps = sum(stop - first for first, stop in missing)
    size, left = (
        count * _step_bytes(plan, rows) + shards * HEADER_BYTES
        for count, shards in ((len(plan.steps), len(plan.shards)), (steps, len(missing)))
    )
    parent = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(parent).free
    about = "about " if plan.has_counts else ""
    say(
        f"{len(plan.steps)} distilled steps with {about}{rows:,.0f} rows of "
        f"{plan.encoding.bytes_per_row} bytes ({plan.encoding.kind}): {about}{size_text(size)} in "
        f"{len(plan.shards)} shards, {len(missing)} of them to be written; "
        f"{size_text(free)} are free"
    )
    if left * SPARE > free:
        raise InputError(
            f"the disk has {size_text(free)} free, and the targets take {size_text(left)} more",
            key="--out",
            found=str(folder),
            accepted="another disk, fewer --classes, or a smaller distillation.schedule.until",
        )


def size_text(count: float) -> str:
    """Returns a number of bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 1000 else f"{count / 1024:,.3g} TiB"
