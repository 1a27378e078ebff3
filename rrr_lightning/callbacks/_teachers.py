"""The teachers of a run: loaded from specs, held against the student, and in what precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from rrr_lightning.distillation.schema import RowSchema, check_schema
from rrr_lightning.distillation.teacher import Precision, Teacher
from rrr_lightning.errors import InputError
from rrr_lightning.models.base import StudentModule
from rrr_lightning.teachers import load_teacher

_HELD_IN: dict[str, Precision] = {
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "16-mixed": "16",
    "16-true": "16",
}


def load_teachers(
    specs: Sequence[Any], inputs: Callable[[Any], Any] | None, module: LightningModule
) -> list[Teacher]:
    """Returns the teachers of specs and networks, held against the student `module`.

    Raises:
        InputError: If one cannot be loaded, or does not fit the student.
    """
    teachers = []
    for number, spec in enumerate(specs):
        key = f"distillation.teachers[{number}]"
        teachers.append(load_teacher(spec, key=key, inputs=inputs))
        rank_zero_info(f"{key}: {teachers[-1].name}, SHA-256 {teachers[-1].fingerprint()}")
    match_teachers(teachers, module)
    return teachers


def match_teachers(teachers: Sequence[Teacher], module: LightningModule) -> int | None:
    """Holds teachers against the student's columns; returns their number where it is known.

    Raises:
        InputError: If the columns of a teacher mean something else, or it is the student itself.
    """
    student = module.schema() if isinstance(module, StudentModule) else RowSchema()
    own = {id(parameter) for parameter in module.parameters()}
    for teacher in teachers:
        if any(id(parameter) in own for parameter in teacher.network.parameters()):
            raise InputError(
                "the teacher is, or shares parameters with, the student, which would be frozen",
                key=teacher.key,
                found=teacher.name,
                accepted="a copy of the network",
            )
        check_schema(student, teacher.schema, teacher.key)
        teacher.match(student)
    return student.columns


def default_precision(teacher: Teacher, trainer: Trainer) -> Precision | None:
    """Returns the trainer's half precision for teachers loaded from specs; objects stay as is."""
    return _HELD_IN.get(str(trainer.precision)) if teacher.owned else None
