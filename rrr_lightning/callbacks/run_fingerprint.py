"""What the targets of a run depend on, the teachers aside: its samples, and their views.

A run tells this of itself before its first step. Targets keep what the run told that they were
written for, so that no other run takes them for its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.targets import KEY, TargetStore
from rrr_lightning.errors import InputError
from rrr_lightning.models.optimization import hook_of_others
from rrr_lightning.models.student import StudentModule, describe_data

FORMAT = 2  # of what is noted of a run
LOOKED_AT = 16  # samples whose views are compared
LOOKED_AT_STEPS = 8
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
    "predict_source",
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
    """Returns the data module of a run."""
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
    """Returns what the targets of a run depend on, by configuration key, in plain types."""
    described = describe_data(data) or {"class": type(data).__name__, "arguments": {}}
    arguments = {n: v for n, v in described["arguments"].items() if n not in _NO_PART}
    values = {"format": FORMAT, "data": described["class"]}
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
        # Then a view depends on the other samples of its micro-batch.
        values["data.micro_batch_size"] = data.plan.micro_batch_size
        values["trainer.devices"] = data.plan.world_size
    values |= all_samples(data.sets[0])
    count = max(1, LOOKED_AT // len(steps))
    values |= {f"views of step {step}": views_of(data, step, count) for step in steps}
    as_stored: dict[str, Any] = json.loads(json.dumps(values))
    return as_stored


def all_samples(training_set: Any) -> dict[str, str]:
    """Returns digests of what is known of all samples without a look at each of them.

    Labels; the paths of images in folders; the lengths of texts in memory, the summary of prepared
    ones, and the names and sizes of the files of a stream.
    """
    source, chosen = (getattr(training_set, name, None) for name in ("source", "chosen"))
    held = training_set if source is None else source
    order = chosen.tolist() if isinstance(chosen, Tensor) else None
    found = {}
    for name in ("labels", "lengths"):
        values = getattr(held, name, None)
        if isinstance(values, Tensor):
            found[name] = _digest_of(values if order is None else values[chosen])
    if (paths := getattr(held, "paths", None)) is not None:
        found["paths"] = _digest(paths if order is None else (paths[index] for index in order))
    if (summary := getattr(getattr(held, "samples", None), "summary", None)) is not None:
        found["tokens"] = _digest([json.dumps(summary, sort_keys=True)])
    if (files := getattr(getattr(held, "files", None), "names", None)) is not None:
        found["files"] = _digest(map(_file, files))
    return {f"{name} of all samples": digest for name, digest in found.items()}


def looked_at(data: KeyedData, steps: range) -> list[int]:
    """Returns the steps at whose views to look, from the first to the last; of a stream the first.

    >>> from types import SimpleNamespace as Made
    >>> looked_at(Made(batches=Made(steps_per_epoch=5)), range(0, 1000, 2))
    [0, 142, 284, 426, 570, 712, 854, 998]
    """
    if data.batches.steps_per_epoch is None:
        return [steps[0]]
    count = min(len(steps), LOOKED_AT_STEPS)
    return [steps[number * (len(steps) - 1) // max(1, count - 1)] for number in range(count)]


def views_of(data: KeyedData, step: int, count: int) -> str:
    """Returns a digest of some samples of a step, far apart, as the data set makes them."""
    whole = copy.copy(data.batches)  # of all ranks and micro-batches
    size = whole.plan.global_batch_size
    whole.plan = type(whole.plan)(size)
    keys, count = whole.micro_batch(step, 0), min(count, size)
    batch = data.sets[0][[keys[number * size // count] for number in range(count)]]
    parts = sorted(batch.items()) if isinstance(batch, Mapping) else enumerate(batch)
    tensors = ((name, part) for name, part in parts if isinstance(part, Tensor))
    return _digest(f"{name} {_digest_of(part)}" for name, part in tensors)


def _digest(texts: Iterable[object]) -> str:
    return hashlib.sha256("\0".join(map(str, texts)).encode(errors="surrogateescape")).hexdigest()


def _digest_of(values: Tensor) -> str:
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _file(name: str) -> str:
    """The name and size of a file, wherever it lies; an address stands for itself."""
    return name if "://" in name else f"{Path(name).name} {Path(name).stat().st_size}"


# ---------------------------------------------------------------------------------- the checks


def distilled_steps(schedule: DistillationSchedule, total_steps: int) -> range:
    """Returns the steps whose weight is positive."""
    every = schedule.every_n_steps
    steps = range(0, total_steps, every)
    positive = [step for step in steps if schedule.at_step(step, total_steps) > 0]
    return range(positive[0], positive[-1] + 1, every) if positive else range(0)


def check_hooks(module: LightningModule, data: object) -> None:
    """Refuses code of others between the data set and the step: no digest tells what it does."""
    for key, part in (("model", module), ("data", data)):
        if (name := hook_of_others(part)) is not None:
            raise InputError(
                "stored targets cannot be held against views that a hook of others changes",
                key=key,
                found=f"{type(part).__name__}.{name}",
                accepted="augmentation in the transform of the data set, or a live teacher",
            )


def check_same_run(store: TargetStore, module: LightningModule, trainer: Trainer) -> None:
    """Refuses targets of another run."""
    data = keyed_data(trainer)
    check_hooks(module, data)
    stored = store.plan.run
    steps = [int(name.split()[-1]) for name in stored if name.startswith("views of step")]
    compare_runs(describe_run(module, data, steps), stored, store.folder)


def compare_runs(found: Mapping[str, Any], stored: Mapping[str, Any], folder: Path) -> None:
    """Refuses a run that differs from that of the targets, by the name of what differs."""
    if stored.get("format") != FORMAT:
        raise InputError(
            "the targets were written by another version, which notes other things of their data",
            key=KEY,
            found=str(folder),
            accepted="targets that this version wrote",
        )
    for name in [*stored, *(name for name in found if name not in stored)]:
        if found.get(name) == stored.get(name):
            continue
        if " " in name:  # a digest, not a configuration key
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
