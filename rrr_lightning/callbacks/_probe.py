"""Tries every teacher on one real batch before the first step.

Shapes and class names can agree while a teacher is useless: half-loaded, fed with other statistics,
or with its labels in another order. One batch tells.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rrr_lightning.callbacks._teachers import cheapen_teacher
from rrr_lightning.distillation.schema import RowSchema
from rrr_lightning.distillation.teacher import Precision, Teacher, check_rows
from rrr_lightning.errors import InputError

logger = logging.getLogger(__name__)


class TeacherProbe:
    """Refuses, on the first batch it sees, teachers with bad rows or too low an accuracy.

    On the same batch, teachers loaded from specs are made cheaper.

    Args:
        teachers: Teachers placed by `place_teachers`.
        columns: Number of columns of the student's rows where it is known.
        min_accuracy: Fraction in [0, 1]; None refuses no accuracy, but a teacher that is no better
            than chance is named in a warning.
        precision: What teachers are held in; None for the default.
        compiled: Whether those that are made cheaper are compiled too.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        columns: int | None,
        min_accuracy: float | None,
        precision: Precision | None,
        compiled: bool,
    ) -> None:
        self._waiting = list(teachers)
        self._schema = RowSchema(columns=columns)
        self._min_accuracy = min_accuracy
        self._precision = precision
        self._compiled = compiled

    @property
    def is_waiting(self) -> bool:
        """Whether no batch has come yet."""
        return bool(self._waiting)

    def run_on_validation(self, trainer: Trainer) -> None:
        """Runs on a validation batch of its own, for runs without a sanity check, if there is one.

        A resumed run has none. A training batch would be augmented, and judge a teacher too low.
        """
        if not trainer.enable_validation:
            return
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loaders = trainer.val_dataloaders
        while isinstance(loaders, Sequence | Mapping):
            loaders = next(iter(loaders.values() if isinstance(loaders, Mapping) else loaders), ())
            if loaders == ():
                return
        with torch.random.fork_rng(devices=[]):
            batch = None if loaders is None else next(iter(loaders), None)
        if batch is None:
            return
        stage = trainer.state.stage
        trainer.sanity_checking = True  # so that the module prepares it as in validation
        try:
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        finally:
            trainer.state.stage = stage
        self.run(trainer, batch, is_final=False)

    def run(self, trainer: Trainer, batch: Any, is_final: bool = True) -> None:
        """Runs every teacher once; does nothing from the second batch on.

        Args:
            trainer: The student's trainer.
            batch: A batch.
            is_final: False where the student's step may still turn the batch into what a teacher
                takes: one that fails on it then waits for the next.

        Raises:
            InputError: Rows that are not [N, C] of the student's C, NaN or infinity, or an accuracy
                below the minimum.
        """
        teachers, self._waiting = self._waiting, []
        for teacher in teachers:
            try:
                rows = _try(teacher, batch)
            except InputError:
                if is_final:
                    raise
                self._waiting.append(teacher)
                continue
            check_rows(rows, self._schema, teacher.key)
            self._schema = RowSchema(columns=rows.shape[1])  # of a foreign student as of the rest
            self._judge(trainer, teacher, rows, _targets(batch, rows))
            cheapen_teacher(teacher, batch, rows, trainer, self._precision, self._compiled)

    def _judge(
        self, trainer: Trainer, teacher: Teacher, rows: Tensor, targets: Tensor | None
    ) -> None:
        minimum = self._min_accuracy
        if targets is None or not len(targets):
            if minimum is not None:
                raise InputError(
                    "no accuracy of a teacher: the batch has no targets of its rows",
                    key="distillation.teacher_min_accuracy",
                    found=minimum,
                    accepted="null, or batches (inputs, labels) or with `labels`",
                )
            return
        right = (rows.argmax(dim=1) == targets).float().mean()
        accuracy = float(trainer.strategy.reduce(right, reduce_op="mean"))
        if minimum is not None and accuracy < minimum:
            raise InputError(
                f"the teacher {teacher.name!r} is right on {accuracy:.1%} of {len(rows)} rows",
                key=teacher.key,
                accepted=f"at least {minimum:.1%} (distillation.teacher_min_accuracy)",
            )
        chance = 1 / rows.shape[1]
        if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / len(rows)):
            logger.warning(
                "%s: the teacher %r is right on %.1f%% of %d rows, which is no better than chance",
                teacher.key,
                teacher.name,
                100 * accuracy,
                len(rows),
            )


def _try(teacher: Teacher, batch: Any) -> Tensor:
    """Returns a teacher's rows; whatever the network raises on its first batch is named."""
    with named_failures(teacher, batch):
        return teacher.rows(batch)


@contextmanager
def named_failures(teacher: Teacher, batch: Any) -> Iterator[None]:
    """Turns whatever a network raises on a batch into a line with what it was called with."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"the teacher {teacher.name!r} fails on a batch of the student ({reason})",
            key=teacher.key,
            found=_shapes(batch),
            accepted="a network for such batches, or distillation.teacher_inputs, a function from "
            "the batch to the teacher's input that resizes images (torch.nn.functional.interpolate)"
            ", cuts sequences or casts; image statistics (mean, std) of a teacher for images of "
            "8-bit integers",
        ) from error


def _shapes(batch: Any) -> str:
    """The shapes and dtypes of what a teacher is called with by default."""
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in batch.items())
    if isinstance(batch, tuple | list) and batch:
        return _shapes(batch[0])
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    return type(batch).__name__


def _targets(batch: Any, rows: Tensor) -> Tensor | None:
    """Returns the class of each row, shape [N], where the batch says so in a usual way."""
    if rows.shape[1] == 1:  # scores: there are no classes
        return None
    if isinstance(batch, Mapping):
        labels = batch.get("labels", batch.get("label"))
    else:
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if not isinstance(labels, Tensor):
        return None
    if labels.is_floating_point():  # soft targets, such as those of mix-up
        labels = labels.argmax(dim=1) if labels.shape == rows.shape else torch.full((0,), -100)
    labels = labels[labels != -100]
    return labels if labels.shape == rows.shape[:1] else None
