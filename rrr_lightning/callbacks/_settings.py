"""What `DistillationCallback` was given: what it takes for granted, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

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
