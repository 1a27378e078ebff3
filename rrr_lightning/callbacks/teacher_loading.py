"""The teachers of a run: loaded from specs, held against the student, and in what precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from rrr_lightning.distillation.logits import RowSchema, compare_rows
from rrr_lightning.distillation.teacher import Precision, Teacher, called_parts, computes_in_bf16
from rrr_lightning.errors import InputError
from rrr_lightning.models.student import StudentModule
from rrr_lightning.teachers import load_teacher

# Mean KL divergence, in nats, of a teacher's rows from those of float32. The root of half of it, or
# 0.07, bounds the probability that moves in a row, on average; rows whose top class changes within
# that are near ties.
FARTHEST = 0.01

_WORDS: dict[Precision, str] = {"32": "float32", "bf16": "bf16", "16": "float16"}
_HELD_IN: dict[str, Precision] = {
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "16-mixed": "16",
    "16-true": "16",
}


def load_teachers(
    specs: Sequence[Any], inputs: Callable[[Any], Any] | None, module: LightningModule
) -> list[Teacher]:
    """Returns the teachers of specs and networks, held against the student `module`."""
    teachers = []
    for number, spec in enumerate(specs):
        key = f"distillation.teachers[{number}]"
        teachers.append(load_teacher(spec, key=key, inputs=inputs))
        rank_zero_info(f"{key}: {teachers[-1].name}, SHA-256 {teachers[-1].fingerprint()}")
    match_teachers(teachers, module)
    return teachers


def match_teachers(teachers: Sequence[Teacher], module: LightningModule) -> int | None:
    """Holds teachers against the student's columns; returns their number where it is known."""
    for key, name, network in [
        ("model", type(module).__name__, module),
        *((teacher.key, teacher.name, teacher.network) for teacher in teachers),
    ]:
        _refuse_causal(key, name, network)
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
        teacher.match(student)
        if teacher.reorder_classes:
            rank_zero_info(
                f"{teacher.key}: its columns are put in the order of the student's classes"
            )
    return student.columns


def _refuse_causal(key: str, name: str, network: nn.Module) -> None:
    """Refuses a network of transformers whose row at a token says what the next token is."""
    for part in network.modules():
        config = getattr(part, "config", None)
        kind = type(part).__name__
        if not hasattr(config, "model_type"):
            continue
        decodes = getattr(config, "is_decoder", False) and kind.endswith(("Model", "LM"))
        if decodes or kind.endswith(("ForCausalLM", "LMHeadModel")):
            raise InputError(
                f"{name!r} is a causal language model, whose rows belong to the next token: they "
                "would be distilled a token off",
                key=key,
                found=kind,
                accepted="a masked language model (…ForMaskedLM), or a classifier",
            )


def place_teachers(
    teachers: Sequence[Teacher], trainer: Trainer, precision: Precision | None
) -> None:
    """Places teachers where the student is; those loaded from specs in float32 at first."""
    for teacher in teachers:
        teacher.place(trainer.strategy.root_device, "32" if teacher.owned else precision)


def cheapen_teacher(
    teacher: Teacher,
    batch: Any,
    plain: Tensor,
    trainer: Trainer,
    precision: Precision | None,
    compiled: bool,
) -> None:
    """Makes the forward of a placed teacher of ours cheaper, and says what that does to its rows.

    Where the rows end up too far from those of float32, the teacher runs as it was loaded, in the
    precision that was asked for.
    """
    chosen = precision or default_precision(teacher, trainer)
    if not teacher.owned or chosen is None:
        return
    compiled = compiled and bool(called_parts(teacher.network))
    undo = teacher.cheapen(chosen, compiled)
    try:
        rows = teacher.logits(batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise InputError(
            f"the teacher {teacher.name!r} cannot be compiled here",
            key="distillation.teacher_compile",
            found=str(error).strip().splitlines()[0],
            accepted="false, or a machine with a compiler",
        ) from error
    sums = trainer.strategy.reduce(compare_rows(plain, rows), reduce_op="sum")
    same, divergence, count = sums.tolist()
    moved = divergence / max(1, count)
    found = f"{same:.0f} of {count:.0f} top classes are those of float32, mean KL {moved:.2g}"
    if moved <= FARTHEST:
        how = f"{_WORDS[chosen]}, compiled" if compiled else _WORDS[chosen]
        rank_zero_info(f"{teacher.key}: made cheaper, in {how}: {found}")
        return
    undo()
    teacher.place(trainer.strategy.root_device, precision or "32")
    rank_zero_info(f"{teacher.key}: left as it was loaded, as in {_WORDS[chosen]} only {found}")


def default_precision(teacher: Teacher, trainer: Trainer) -> Precision | None:
    """Returns the trainer's half precision, or else the device's; objects stay as they are."""
    if not teacher.owned:
        return None
    return _HELD_IN.get(str(trainer.precision), device_precision(trainer.strategy.root_device))


def used_precision(teacher: Teacher, trainer: Trainer, asked: Precision | None) -> str:
    """Returns what a teacher's weights are held in, once it has been made cheaper or left alone.

    A network that came as an object, and is left as it is, runs under the trainer's precision.
    """
    parameters = teacher.network.parameters()
    held = sorted({str(each.dtype).removeprefix("torch.") for each in parameters})
    under = f" under {trainer.precision}" if asked is None and not teacher.owned else ""
    return " and ".join(held) + under


def device_precision(device: torch.device) -> Precision:
    """Returns bf16 where a device computes in it, float32 elsewhere."""
    return "bf16" if computes_in_bf16(device) else "32"
