"""One distilled training step: teachers, the module's own step, and the mix of the two losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from rrr_lightning.callbacks._logging import is_logging_step
from rrr_lightning.callbacks._splice import KEY, RowCapture
from rrr_lightning.distillation.losses import mean_of_logits, mean_of_probabilities
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.rows import as_rows
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.errors import InputError

LOGGED_KEYS = (
    "train/task_loss",
    "train/distillation_loss",
    "train/distillation_weight",
    "train/agreement",
    "train/teacher",
)


class TeacherMeter:
    """Runs teachers and measures nothing; a cost ledger puts one in its place that does."""

    def phase(self) -> AbstractContextManager[None]:
        """Returns what goes around all that the teachers of a step do."""
        return nullcontext()

    def rows(self, number: int, teacher: Teacher, batch: Any) -> Tensor:
        """Returns the rows of a teacher, which is number `number` of the pool."""
        return teacher.rows(batch)


class DistilledStep:
    """Goes around a module's `training_step` and returns what it returns, with the mixed loss.

    Args:
        trainer: Tells the optimizer step, which fixes the weight and the draw of teachers.
        module: The student.
        teachers: The pool's teachers, placed.
        loss: From student and teacher rows [N, C] to their mean loss.
        schedule: From the progress to the weight.
        pool: From the step to the teachers that run.
        capture: Catches the student's rows; None where `training_step` returns them as `logits`.

    Attributes:
        total_steps: Optimizer steps of the run, to be set before the first step.
        meter: Runs the teachers.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        teachers: Sequence[Teacher],
        loss: nn.Module,
        schedule: DistillationSchedule,
        pool: TeacherPool,
        capture: RowCapture | None,
    ) -> None:
        self._trainer = trainer
        self._teachers = teachers
        self._loss = loss
        self._schedule = schedule
        self._pool = pool
        self._capture = capture
        # Modules that count rows over a whole optimizer step weigh a mean over N rows by their own
        # factor.
        self._row_factor: Callable[[int], float] | None = getattr(module, "row_factor", None)
        self._to_log: dict[str, Tensor | float] = {}
        self._is_tried = False
        self.total_steps = 0
        self.meter = TeacherMeter()

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step `inner`; unchanged where the weight is zero.

        The first step of a run goes through everything even where the window opens later, so that
        a student without rows stops the run at once and not at half of it.
        """
        step = self._trainer.global_step
        weight = self._schedule.at_step(step, self.total_steps)
        if weight == 0 and self._is_tried:
            return inner(*args, **kwargs)
        drawn = self._pool.draw(step, len(self._teachers), self._trainer.global_rank)
        # The teachers go first: their activations are gone before the student's exist, and they see
        # the batch as it came, whatever the step does to it.
        batch = args[0] if args else next(iter(kwargs.values()))
        with self.meter.phase():
            each = [self.meter.rows(number, self._teachers[number], batch) for number in drawn]
            teacher_rows = self._combine(each)
        output, student_rows = self._run(inner, batch, args, kwargs)
        if student_rows is None:
            return output
        _check_alignment(student_rows, teacher_rows)
        task_loss = output["loss"] if isinstance(output, Mapping) else output
        distillation_loss = mean = self._loss(student_rows, teacher_rows)
        factor = 1.0
        if self._row_factor is not None:
            factor = self._row_factor(len(student_rows))
            distillation_loss = mean * factor
        self._is_tried = True
        if weight == 0:
            return output
        loss = (1 - weight) * task_loss + weight * distillation_loss
        if is_logging_step(self._trainer):
            agreement = _agreement(student_rows, teacher_rows)
            # Means over rows, both of them; a step without rows has none, and its losses are zero.
            values = (task_loss.detach() / (factor or 1.0), mean.detach(), weight, agreement)
            self._to_log = dict(zip(LOGGED_KEYS, values, strict=False))
            if len(drawn) == 1:
                self._to_log["train/teacher"] = float(drawn[0])
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    def take_log(self) -> dict[str, Tensor | float]:
        """Returns what the last step has to log, once."""
        to_log, self._to_log = self._to_log, {}
        return to_log

    def _run(
        self,
        inner: Callable[..., Any],
        batch: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, Tensor | None]:
        """Returns what the step returned and the student's rows, None where there is no loss."""
        if self._capture is None:
            output = inner(*args, **kwargs)
            return (output, None) if _has_no_loss(output) else _split_logits(output, batch)
        try:
            self._capture.open()
            output = inner(*args, **kwargs)
            if _has_no_loss(output):
                return output, None
            return output, _student_rows(self._capture.close(), batch, self._capture.whose)
        finally:
            self._capture.abandon()

    def _combine(self, rows: list[Tensor]) -> Tensor:
        if len(rows) == 1:
            return rows[0]
        if self._pool.combine == "probabilities":
            return mean_of_probabilities(rows, float(getattr(self._loss, "temperature", 1.0)))
        if self._pool.combine == "logits" or not hasattr(self._loss, "combine"):
            return mean_of_logits(rows)
        combine = cast(Callable[[list[Tensor]], Tensor], self._loss.combine)
        return combine(rows)


def _has_no_loss(output: Any) -> bool:
    """Whether Lightning will skip the step (None) or refuse it in words of its own (no `loss`)."""
    return output is None or (isinstance(output, Mapping) and "loss" not in output)


def _split_logits(output: Any, batch: Any) -> tuple[Any, Tensor]:
    """Takes the rows out of what a step returned, so that Lightning does not keep their graph."""
    if not isinstance(output, Mapping) or "logits" not in output:
        raise InputError(
            "no rows of the student: no sub-module is named, and training_step returns no `logits`",
            key=KEY,
            found="none",
            accepted="the name of the sub-module that gives the logits, for example 'net.head'",
        )
    rows = _student_rows(output, batch, "the training_step")
    return {name: value for name, value in output.items() if name != "logits"}, rows


def _student_rows(output: Any, batch: Any, whose: str) -> Tensor:
    rows = as_rows(output, batch, whose, KEY)
    if not rows.requires_grad:
        raise InputError(
            f"the rows of {whose} do not require grad, so nothing would be learned from a teacher",
            key=KEY,
            accepted="rows computed with grad from trainable parameters",
        )
    return rows


def _check_alignment(student: Tensor, teacher: Tensor) -> None:
    """Refuses rows that a loss might broadcast."""
    if student.shape != teacher.shape:
        raise InputError(
            "the rows of student and teacher do not match",
            key=KEY,
            found=tuple(student.shape),
            accepted=f"the shape of the teacher's rows, {tuple(teacher.shape)}",
        )


@torch.no_grad()
def _agreement(student: Tensor, teacher: Tensor) -> Tensor:
    if not len(student):
        return torch.zeros((), device=student.device)
    return (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean()
