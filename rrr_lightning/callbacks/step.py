"""One distilled training step: draw teachers, run the student's own step, mix the two losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from rrr_lightning.callbacks.splice import KEY, FirstCall, RowCapture
from rrr_lightning.callbacks.student_input import KEY as KEY_INPUTS
from rrr_lightning.callbacks.student_input import StudentInput, as_batch, refuse_changed
from rrr_lightning.callbacks.teacher_targets import Answer, Source
from rrr_lightning.distillation.logits import as_rows
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.targets import KEY as KEY_TARGETS
from rrr_lightning.errors import InputError
from rrr_lightning.models.student import MOST_LOSSES, is_logging_step


def forget_logged(trainer: Trainer, names: Iterable[str]) -> None:
    """Keeps Lightning from repeating the last values in every later row of an epoch."""
    if trainer._results is not None:
        for name in names:
            trainer._results.pop(f"on_train_batch_end.{name}", None)


# ----------------------------------------------------------------------
# One distilled training step: teachers, the module's own step, and the mix of the two losses.


LOGGED_KEYS = (
    "train/task_loss",
    "train/distillation_loss",
    "train/distillation_weight",
    "train/agreement",
    "train/teacher",
)
WEIGHTS = "the loss on the student's logits, so its weights or its input,"


class DistilledStep:
    """Goes around a module's `training_step` and returns what it returns, with the mixed loss.

    Args:
        trainer: Tells the optimizer step, which fixes the weight and the draw of teachers.
        module: The student.
        source: Tells what the teachers say of a batch.
        schedule: From the progress to the weight.
        capture: Catches the student's rows; None where `training_step` returns them as `logits`.
        student_input: From the call of the student's network to what the teachers get; None where
            they get the batch, by the user's own function.

    Attributes:
        total_steps: Optimizer steps of the run, to be set before the first step.
        before_first: Called with what the teachers get, before the first step asks them.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        source: Source,
        schedule: DistillationSchedule,
        capture: RowCapture | None,
        student_input: StudentInput | None = None,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._source = source
        self._schedule = schedule
        self._capture = capture
        self._input = student_input
        # Modules that count rows over a whole optimizer step weigh a mean over N rows by their own
        # factor.
        self._row_factor: Callable[[int], float] | None = getattr(module, "row_factor", None)
        self._to_log: dict[str, Tensor | float] = {}
        self._losses: deque[tuple[int, Tensor, Tensor, int | None]] = deque(maxlen=MOST_LOSSES)
        self._is_tried = False
        self.total_steps = 0
        self.before_first: Callable[[Any], None] = lambda _: None

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own step `inner`; unchanged where the weight is zero.

        The first step of a run goes through everything even where the window opens later, so that
        a student without rows stops the run at once and not at half of it.
        """
        step = self._trainer.global_step
        weight = self._schedule.at_step(step, self.total_steps)
        if weight == 0 and self._is_tried:
            return inner(*args, **kwargs)
        output, student_rows, answer = self._run(step, inner, args, kwargs)
        if student_rows is None:
            return output
        is_first, self._is_tried = not self._is_tried, True
        if answer is None:
            return output
        _check_alignment(student_rows, answer.shape)
        task_loss = output["loss"] if isinstance(output, Mapping) else output
        distillation_loss = mean = answer.loss(student_rows)
        self._losses.append((step, task_loss.detach(), mean.detach(), answer.teacher))
        if is_first:
            self.check_finite()
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

    def check_finite(self) -> None:
        """Refuses losses since the last call that are not finite; waits for the device."""
        losses, self._losses = list(self._losses), deque(maxlen=MOST_LOSSES)
        if not losses:
            return
        pairs = torch.stack(
            [torch.stack((task.float().sum(), mean.float())) for _, task, mean, _ in losses]
        )
        finite = pairs.isfinite().tolist()
        for (step, task, mean, number), (fine_task, fine_mean) in zip(losses, finite, strict=True):
            if fine_task and fine_mean:
                continue
            if fine_task:
                names = self._source.names(number)
                what = f"the logits of {names} at step {step} are not finite, or their loss is not"
                raise InputError(what, key="distillation.teachers", found=mean.item())
            whose = "the task's own loss" if fine_mean else WEIGHTS
            raise InputError(f"{whose} is not finite at step {step}", key="loss", found=task.item())

    def _run(
        self, step: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Tensor | None, Answer | None]:
        """Returns what the step returned, the student's rows (None without loss), and the answer.

        They are asked right before the student's network runs, so that their activations are gone
        before the student's exist.
        """
        batch = args[0] if args else next(iter(kwargs.values()))
        asked: list[tuple[Any, Answer | None]] = []

        def ask(seen: Any) -> None:
            if not self._is_tried:
                self.before_first(seen)
            asked.append((seen, self._source(step, seen)))

        def on_input(network: nn.Module, args: Any, kwargs: Any) -> None:
            if self._input is not None and self._capture is not None:
                ask(self._input(network, args, kwargs, batch))

        if self._input is None or self._capture is None:
            ask(batch)
        first = None if self._is_tried else FirstCall(self._module)
        try:
            if self._capture is not None:
                self._capture.open(on_input)
            output = inner(*args, **kwargs)
            if _has_no_loss(output):
                return output, None, None
            if self._capture is None:
                output, found = _split_logits(output)
                whose = "the training_step"
            else:
                if not asked and self._capture.calls:
                    on_input(*self._capture.calls[0])
                found, whose = self._capture.close(), self._capture.whose
        finally:
            if first is not None:
                first.close()
            if self._capture is not None:
                self._capture.abandon()
        if not asked:
            ask(batch)
        seen, answer = asked[0]
        rows = _student_rows(found, seen, whose)
        if first is not None and first.call is not None and seen is batch:
            self._check_unchanged(batch, *first.call)
        return output, rows, answer

    def _check_unchanged(self, batch: Any, network: nn.Module, args: Any, kwargs: Any) -> None:
        """Refuses a step that changes its batch where the teachers cannot see what it became."""
        if self._input is not None:
            key = KEY_TARGETS if self._source.is_stored else KEY_INPUTS
            refuse_changed(as_batch(network, args, kwargs, batch), batch, key)


def _has_no_loss(output: Any) -> bool:
    """Whether Lightning will skip the step (None) or refuse it in words of its own (no `loss`)."""
    return output is None or (isinstance(output, Mapping) and "loss" not in output)


def _split_logits(output: Any) -> tuple[Any, Any]:
    """Takes the rows out of what a step returned, so that Lightning does not keep their graph."""
    if not isinstance(output, Mapping) or "logits" not in output:
        raise InputError(
            "no rows of the student: no sub-module is named, and training_step returns no `logits`",
            key=KEY,
            found="none",
            accepted="the name of the sub-module that gives the logits, for example 'net.head'",
        )
    return {name: value for name, value in output.items() if name != "logits"}, output


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
