"""One distilled training step: teachers, the module's own step, and the mix of the two losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from rrr_lightning.callbacks._sources import Source
from rrr_lightning.callbacks._splice import KEY, RowCapture
from rrr_lightning.distillation.rows import as_rows
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError
from rrr_lightning.models.training_loss import is_logging_step

LOGGED_KEYS = (
    "train/task_loss",
    "train/distillation_loss",
    "train/distillation_weight",
    "train/agreement",
    "train/teacher",
)


class DistilledStep:
    """Goes around a module's `training_step` and returns what it returns, with the mixed loss.

    Args:
        trainer: Tells the optimizer step, which fixes the weight and the draw of teachers.
        module: The student.
        source: Tells what the teachers say of a batch.
        schedule: From the progress to the weight.
        capture: Catches the student's rows; None where `training_step` returns them as `logits`.

    Attributes:
        total_steps: Optimizer steps of the run, to be set before the first step.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        source: Source,
        schedule: DistillationSchedule,
        capture: RowCapture | None,
    ) -> None:
        self._trainer = trainer
        self._source = source
        self._schedule = schedule
        self._capture = capture
        # Modules that count rows over a whole optimizer step weigh a mean over N rows by their own
        # factor.
        self._row_factor: Callable[[int], float] | None = getattr(module, "row_factor", None)
        self._to_log: dict[str, Tensor | float] = {}
        self._is_tried = False
        self.total_steps = 0

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step `inner`; unchanged where the weight is zero.

        The first step of a run goes through everything even where the window opens later, so that
        a student without rows stops the run at once and not at half of it.
        """
        step = self._trainer.global_step
        weight = self._schedule.at_step(step, self.total_steps)
        if weight == 0 and self._is_tried:
            return inner(*args, **kwargs)
        # The teachers go first: their activations are gone before the student's exist, and they see
        # the batch as it came, whatever the step does to it.
        batch = args[0] if args else next(iter(kwargs.values()))
        answer = self._source(step, batch)
        output, student_rows = self._run(inner, batch, args, kwargs)
        if student_rows is None:
            return output
        self._is_tried = True
        if answer is None:
            return output
        _check_alignment(student_rows, answer.shape)
        task_loss = output["loss"] if isinstance(output, Mapping) else output
        distillation_loss = mean = answer.loss(student_rows)
        factor = 1.0
        if self._row_factor is not None:
            factor = self._row_factor(len(student_rows))
            distillation_loss = mean * factor
        if weight == 0:
            return output
        loss = (1 - weight) * task_loss + weight * distillation_loss
        if is_logging_step(self._trainer):
            agreement = _agreement(student_rows, answer.top())
            # Means over rows, both of them; a step without rows has none, and its losses are zero.
            values = (task_loss.detach() / (factor or 1.0), mean.detach(), weight, agreement)
            self._to_log = dict(zip(LOGGED_KEYS, values, strict=False))
            if student_rows.shape[1] == 1:  # scores have no top class to agree on
                del self._to_log["train/agreement"]
            if answer.teacher is not None:
                self._to_log["train/teacher"] = float(answer.teacher)
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


def _check_alignment(student: Tensor, teacher: tuple[int, ...]) -> None:
    """Refuses rows that a loss might broadcast."""
    if tuple(student.shape) != teacher:
        raise InputError(
            "the rows of student and teacher do not match",
            key=KEY,
            found=tuple(student.shape),
            accepted=f"the shape of the teacher's rows, {teacher}",
        )


@torch.no_grad()
def _agreement(student: Tensor, top: Tensor) -> Tensor:
    if not len(student):
        return torch.zeros((), device=student.device)
    return (student.argmax(dim=1) == top).float().mean()
