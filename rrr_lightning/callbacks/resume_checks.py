"""What a run must share with the checkpoint it resumes from: settings, steps, teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from torch import nn

from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.targets import KEY
from rrr_lightning.distillation.teacher import Precision, Teacher
from rrr_lightning.errors import InputError, check


def list_specs(teachers: Any, targets: str | None) -> list[Any]:
    """Returns the teachers as a list, empty where stored targets take their place."""
    is_list = isinstance(teachers, Sequence) and not isinstance(teachers, str)
    specs = [] if teachers is None else list(teachers) if is_list else [teachers]
    for each in specs:
        is_spec = isinstance(each, str | Mapping) and len(each) > 0
        is_spec = is_spec or isinstance(each, nn.Module | Teacher)
        accepted = "a checkpoint, spec or network, or a list of them"
        check(is_spec, "distillation.teachers", each, accepted, "is no teacher")
    if targets is not None and specs:
        raise InputError(
            "stored targets take the place of teachers, and both are given",
            key=KEY,
            found=targets,
            accepted="distillation.teachers=null with targets, or no targets",
        )
    if targets is None and not specs:
        raise InputError(
            "there is no teacher",
            key="distillation.teachers",
            found=teachers if teachers is not None else "none",
            accepted="at least one checkpoint, spec or network",
        )
    return specs


def check_options(
    precision: str | None, min_accuracy: float | None, compiled: bool, targets: str | None
) -> None:
    """Refuses options of teachers that are out of range, or that no teacher is there for."""
    if precision not in (None, *get_args(Precision)):
        raise InputError(
            "unknown precision",
            key="distillation.teacher_precision",
            found=precision,
            accepted=f"null or one of {', '.join(get_args(Precision))}",
        )
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise InputError(
            "out of range",
            key="distillation.teacher_min_accuracy",
            found=min_accuracy,
            accepted="a fraction in [0, 1]",
        )
    asked = {"precision": precision, "min_accuracy": min_accuracy, "compile": compiled or None}
    for name, value in asked.items():
        if targets is not None and value is not None:
            without = "false" if value is True else "null"
            raise InputError(
                "there is no teacher to use it with, only stored targets",
                key=f"distillation.teacher_{name}",
                found=value,
                accepted=f"{without}; it is an option of the command that writes the targets",
            )


def describe_settings(
    loss: nn.Module, schedule: DistillationSchedule, pool: TeacherPool, targets: str | None
) -> dict[str, Any]:
    """Returns what decides weight, draw and loss of a step, by configuration key."""
    settings: dict[str, Any] = {"loss": repr(loss)}
    for section, values in (("schedule", schedule), ("pool", pool)):
        settings |= {f"{section}.{name}": value for name, value in asdict(values).items()}
    return settings | {"targets": targets}


def check_same_settings(
    state: Mapping[str, Any], settings: Mapping[str, Any], other_teachers: bool
) -> None:
    """Refuses to go on with other settings than those of a checkpoint's state."""
    for name, stored in {"targets": None, **state["settings"]}.items():
        if settings[name] != stored and not (other_teachers and name == "targets"):
            raise InputError(
                "differs from the checkpoint's",
                key=f"distillation.{name}",
                found=str(settings[name]),
                accepted=f"{stored} as in the checkpoint, or a new run",
            )


def check_same_teachers(state: Mapping[str, Any], fingerprints: Sequence[str]) -> None:
    """Refuses to go on with other teachers than those of a checkpoint's state."""
    if state["teachers"] != list(fingerprints):
        raise InputError(
            "the teachers are not those of the checkpoint",
            key="distillation.teachers",
            found=[sha256[:12] for sha256 in fingerprints],
            accepted=f"SHA-256 {[sha256[:12] for sha256 in state['teachers']]},"
            " or distillation.allow_teacher_change=true",
        )


# ----------------------------------------------------------------------
# How many optimizer steps a run has: what `until`, a fraction of training, refers to.


def require_bound(trainer: Trainer) -> None:
    """Refuses a run that nothing bounds, as early as the trainer's arguments can tell."""
    if trainer.max_steps < 0 and trainer.max_epochs in (None, -1):
        raise _unbounded()


def count_steps(trainer: Trainer, at_least: int = 0) -> int:
    """Returns the number of optimizer steps of the whole run: `max_steps`, or epochs x batches.

    Reads the number of batches, so it can be called from `on_train_start` on.
    """
    bounds: list[int] = []
    if trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    epochs, batches = _epochs(trainer), trainer.num_training_batches
    if epochs is not None and epochs >= 0 and math.isfinite(batches):
        factors = _accumulation(trainer, epochs)
        bounds.append(sum(math.ceil(batches / factor) for factor in factors))
    if not bounds:
        raise _unbounded()
    if min(bounds) < at_least:
        raise InputError(
            "is less than the checkpoint's, which would move the end of distillation",
            key="trainer.max_steps",
            found=min(bounds),
            accepted=f"{at_least} as in the checkpoint, or more",
        )
    return min(bounds)


def step_bounds(trainer: Trainer) -> dict[str, Any]:
    """Returns those arguments that decide the number of steps and must not change in a run."""
    names = ["max_steps", "max_epochs"]
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(each, GradientAccumulationScheduler) for each in callbacks):
        names.append("accumulate_grad_batches")
    return {name: getattr(trainer, name) for name in names}


def _epochs(trainer: Trainer) -> int | None:
    """The epochs that train; weight averaging adds one that only updates batch norms."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging) and callback._max_epochs >= 0:
            return callback._max_epochs
    return trainer.max_epochs


def _accumulation(trainer: Trainer, epochs: int) -> list[int]:
    """The micro-batches of a step, by epoch."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return [callback.get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
    return [trainer.accumulate_grad_batches] * epochs


def _unbounded() -> InputError:
    return InputError(
        "the run has no bound in steps, so `until` would be a fraction of nothing",
        key="trainer.max_steps",
        found=-1,
        accepted="a number of optimizer steps, or max_epochs over data of known length",
    )


# ----------------------------------------------------------------------
# Whether a checkpoint and the run that goes on from it agree that there are teachers.


STATE_KEY = "DistillationCallback"
PREFIX = "schedule."


def is_state_key(key: str) -> bool:
    """Whether a key of a checkpoint's `callbacks` is that of a distillation callback."""
    return key.partition("/")[0] == STATE_KEY


def check_teachers_are_over(checkpoint: Mapping[str, Any], max_steps: int) -> None:
    """Refuses to go on without teachers while the checkpoint's window is still open."""
    for key, state in (checkpoint.get("callbacks") or {}).items():
        if is_state_key(key):
            _check_is_over(state, int(checkpoint["global_step"]), max_steps)


def _check_is_over(state: Mapping[str, Any], step: int, max_steps: int) -> None:
    settings = state["settings"]
    values = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    total = max(state["total_steps"], max_steps)
    if not DistillationSchedule(**values).is_over(step, total):
        raise InputError(
            f"the checkpoint's distillation lasts until {values['until']} of training",
            key="distillation.teachers",
            found=f"none at step {step} of {total}",
            accepted=f"{', '.join(state['names'])} as in the checkpoint, or a new run",
        )


def check_began_with_teachers(
    checkpoint: Mapping[str, Any], allowed: bool, state_key: str = STATE_KEY
) -> None:
    """Refuses teachers in a run whose checkpoint was written without any."""
    if not allowed and checkpoint["global_step"] and state_key not in checkpoint["callbacks"]:
        raise InputError(
            f"the checkpoint's {checkpoint['global_step']} steps were made without teachers",
            key="distillation.teachers",
            accepted="no teachers, a new run, or distillation.allow_teacher_change=true",
        )
