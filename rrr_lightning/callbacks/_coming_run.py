"""What the targets of a run depend on, the teachers aside: its samples, and their views.

A run tells this of itself before its first step. Targets keep what the run told that they were
written for, so that no other run takes them for its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.targets import KEY, TargetStore
from rrr_lightning.errors import InputError
from rrr_lightning.models.base import StudentModule, describe_data

LOOKED_AT = 4  # samples of a step whose views are compared
# Arguments of data modules that change no view of a sample, or whose effect the views themselves
# tell better: a path may be spelt in many ways.
_NO_PART = {
    "source",
    "tokenizer",
    "cache_dir",
    "micro_batch_size",
    "eval_batch_size",
    "num_workers",
    "val_split",
    "max_val_documents",
}


class KeyedData(Protocol):
    """What targets need of a data module: samples that are a function of (seed, step)."""

    @property
    def plan(self) -> Any:
        """The shares of ranks and micro-batches."""

    @property
    def batches(self) -> Any:
        """The sampler, whose `micro_batch` tells the keys of any step."""

    @property
    def sets(self) -> Any:
        """The training set, which makes a batch of keys, and the validation set."""

    def state_dict(self) -> dict[str, Any]:
        """What decides which samples a step gets."""


def keyed_data(trainer: Trainer) -> KeyedData:
    """Returns the data module of a run.

    Raises:
        InputError: It has none whose samples are a function of (seed, step).
    """
    data: Any = getattr(trainer, "datamodule", None)
    if all(hasattr(type(data), name) for name in ("plan", "batches", "sets")):
        keyed: KeyedData = data
        return keyed
    raise InputError(
        "targets can be stored only of data whose samples are a function of the step",
        key="data",
        found=type(data).__name__,
        accepted="a data module of this library",
    )


def describe_run(module: LightningModule, data: KeyedData, steps: Sequence[int]) -> dict[str, Any]:
    """Returns what the targets of a run depend on, by configuration key, in plain types.

    Args:
        module: The student, set up.
        data: Its data module, set up.
        steps: The first of the steps with targets, and others at whose views to look.
    """
    described = describe_data(data) or {"class": type(data).__name__, "arguments": {}}
    arguments = {n: v for n, v in described["arguments"].items() if n not in _NO_PART}
    values = {"data": described["class"]}
    values |= {f"data.{name}": v for name, v in (arguments | data.state_dict()).items()}
    if isinstance(module, StudentModule):
        schema = module.schema()
        values["model.columns"] = schema.columns
        values["model.classes"] = None if schema.labels is None else _digest(schema.labels)
        values["model.normalization"] = schema.normalization and {
            name: list(value) for name, value in asdict(schema.normalization).items()
        }
    mixes = getattr(module, "mixup_alpha", 0)
    if mixes:
        values |= {"model.mixup_alpha": mixes, "model.seed": getattr(module, "seed", None)}
    if mixes or arguments.get("exact_masking"):
        # Then a view depends on the other samples of its micro-batch.
        values["data.micro_batch_size"] = data.plan.micro_batch_size
        values["trainer.devices"] = data.plan.world_size
    values |= {f"views of step {step}": views_of(data, step) for step in steps}
    as_stored: dict[str, Any] = json.loads(json.dumps(values))
    return as_stored


def looked_at(data: KeyedData, steps: range) -> list[int]:
    """Returns the steps at whose views to look: the first and the last, of a stream the first."""
    is_stream = data.batches.steps_per_epoch is None
    return [steps[0]] if is_stream else sorted({steps[0], steps[-1]})


def views_of(data: KeyedData, step: int) -> str:
    """Returns a digest of the first samples of a step, as the data set makes them."""
    whole = copy.copy(data.batches)  # of all ranks and micro-batches
    whole.plan = type(whole.plan)(whole.plan.global_batch_size)
    batch = data.sets[0][whole.micro_batch(step, 0)[:LOOKED_AT]]
    parts = sorted(batch.items()) if isinstance(batch, Mapping) else enumerate(batch)
    digest = hashlib.sha256()
    for name, part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(labels: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(labels).encode()).hexdigest()


# ---------------------------------------------------------------------------------- the checks


def distilled_steps(schedule: DistillationSchedule, total_steps: int) -> range:
    """Returns the steps whose weight is positive."""
    every = schedule.every_n_steps
    steps = range(0, total_steps, every)
    positive = [step for step in steps if schedule.at_step(step, total_steps) > 0]
    return range(positive[0], positive[-1] + 1, every) if positive else range(0)


def check_same_run(store: TargetStore, module: LightningModule, trainer: Trainer) -> None:
    """Refuses targets of another run.

    Raises:
        InputError: Something that the targets depend on differs.
    """
    stored = store.plan.run
    steps = [int(name.split()[-1]) for name in stored if name.startswith("views of step")]
    compare_runs(describe_run(module, keyed_data(trainer), steps), stored, store.folder)


def compare_runs(found: Mapping[str, Any], stored: Mapping[str, Any], folder: Path) -> None:
    """Refuses a run that differs from that of the targets, by the name of what differs."""
    for name in [*stored, *(name for name in found if name not in stored)]:
        if found.get(name) == stored.get(name):
            continue
        if name.startswith("views"):
            raise InputError(
                f"the {name} are not those that the targets were written for, so the data, what "
                "reads them, or its version differs",
                key=KEY,
                found=str(folder),
                accepted="the same data, or targets written from them",
            )
        raise InputError(
            f"differs from the run that the targets in {folder} were written for",
            key=name,
            found=str(found.get(name)),
            accepted=f"{stored.get(name)}, or other targets",
        )


def check_steps(store: TargetStore, schedule: DistillationSchedule, total_steps: int) -> None:
    """Refuses targets that lack a step whose weight is positive."""
    steps = store.plan.steps
    lacking = [step for step in distilled_steps(schedule, total_steps) if step not in steps]
    if lacking:
        raise InputError(
            f"there are no targets of {len(lacking)} distilled steps of {total_steps}, the first "
            f"of them step {lacking[0]}",
            key=KEY,
            found=f"steps {steps[0]} to {steps[-1]}, every {steps.step}",
            accepted="targets of a run as long, or a smaller distillation.schedule.until",
        )


def check_same_pool(store: TargetStore, pool: TeacherPool) -> None:
    """Refuses a pool that is neither that of the targets nor the default."""
    for name, stored in asdict(store.plan.pool).items():
        value = getattr(pool, name)
        if pool != TeacherPool() and value != stored:
            raise InputError(
                "differs from the pool that the targets were written with",
                key=f"distillation.pool.{name}",
                found=str(value),
                accepted=f"{stored}, or no pool",
            )
