"""Where the targets of a step come from: teachers that run, or a folder of stored targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, cast

from lightning.pytorch import Trainer
from torch import Tensor, nn

from rrr_lightning.callbacks.ledger import FILE, read_ledger
from rrr_lightning.callbacks.run_fingerprint import keyed_data
from rrr_lightning.distillation.losses import mean_of_logits, mean_of_probabilities
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.sparse_targets import loss_against
from rrr_lightning.distillation.targets import TargetStore
from rrr_lightning.distillation.teacher import Teacher


class TeacherMeter:
    """Runs teachers and measures nothing; a cost ledger puts one in its place that does."""

    def phase(self) -> AbstractContextManager[None]:
        """Returns what goes around all that the teachers of a step do."""
        return nullcontext()

    def logits(self, number: int, teacher: Teacher, batch: Any) -> Tensor:
        """Returns the rows of a teacher, which is number `number` of the pool."""
        return teacher.logits(batch)


class Answer(NamedTuple):
    """What teachers say of a micro-batch.

    Args:
        shape: Of their rows, [N, C].
        loss: From the student's rows to the mean loss.
        top: Returns the teachers' most probable class of each row.
        teacher: The number of the teacher, where it is one.
    """

    shape: tuple[int, ...]
    loss: Callable[[Tensor], Tensor]
    top: Callable[[], Tensor]
    teacher: int | None


class Source(Protocol):
    """Tells what teachers say of a micro-batch.

    Attributes:
        meter: Runs the teachers.
        micro_batch: The number of the micro-batch within its step, told before each one.
        is_stored: Whether the targets were written beforehand, from the batches as they come.
    """

    meter: TeacherMeter
    micro_batch: int
    is_stored: bool

    def names(self, teacher: int | None) -> str:
        """Returns the names of those who teach, or of one of them, for a message."""

    def __call__(self, step: int, batch: Any) -> Answer | None:
        """Returns it, None where nothing is known of the step."""

    def taught_by(self) -> list[dict[str, Any]]:
        """Returns name, SHA-256 and cost ledger of all that teaches."""


class LiveTeachers:
    """Teachers that run.

    Args:
        trainer: Tells the rank.
        teachers: The pool's teachers, placed.
        loss: From student and teacher rows [N, C] to their mean loss.
        pool: From the step to the teachers that run.
    """

    is_stored = False

    def __init__(
        self, trainer: Trainer, teachers: Sequence[Teacher], loss: nn.Module, pool: TeacherPool
    ) -> None:
        self._trainer = trainer
        self._teachers = teachers
        self._loss = loss
        self._pool = pool
        self.meter = TeacherMeter()
        self.micro_batch = 0

    def __call__(self, step: int, batch: Any) -> Answer:
        """Returns what the teachers of the step say."""
        drawn, rows = self.logits(step, batch)
        return Answer(
            shape=tuple(rows.shape),
            loss=lambda student: self._loss(student, rows),
            top=lambda: rows.argmax(dim=1),
            teacher=drawn[0] if len(drawn) == 1 else None,
        )

    def names(self, teacher: int | None) -> str:
        """Returns the name of a teacher, or of all."""
        chosen = self._teachers if teacher is None else [self._teachers[teacher]]
        return ", ".join(f"the teacher {each.name!r}" for each in chosen)

    def taught_by(self) -> list[dict[str, Any]]:
        """Returns name, SHA-256 and cost ledger of the teachers."""
        return [
            {"name": each.name, "sha256": each.fingerprint(), "ledger": each.ledger}
            for each in self._teachers
        ]

    def logits(self, step: int, batch: Any) -> tuple[tuple[int, ...], Tensor]:
        """Returns which teachers run at a step, and their combined rows [N, C]."""
        drawn = self._pool.draw(step, len(self._teachers), self._trainer.global_rank)
        with self.meter.phase():
            each = [self.meter.logits(number, self._teachers[number], batch) for number in drawn]
            return drawn, self._combine(each)

    def _combine(self, rows: list[Tensor]) -> Tensor:
        if len(rows) == 1:
            return rows[0]
        if self._pool.combine == "probabilities":
            return mean_of_probabilities(rows, float(getattr(self._loss, "temperature", 1.0)))
        if self._pool.combine == "logits" or not hasattr(self._loss, "combine"):
            return mean_of_logits(rows)
        combine = cast(Callable[[list[Tensor]], Tensor], self._loss.combine)
        return combine(rows)


class StoredTargets:
    """Targets of the coming steps, read from a folder; no teacher runs.

    Args:
        trainer: Its data module tells which samples of a step a micro-batch holds.
        store: The targets, which are known to be of this run.
        loss: The loss of dense rows.

    Raises:
        InputError: The loss needs more of a row than is stored.
    """

    is_stored = True

    def __init__(self, trainer: Trainer, store: TargetStore, loss: nn.Module) -> None:
        self._store = store
        self._loss = loss_against(loss, store.plan.encoding)
        self._plan = keyed_data(trainer).plan
        self._device = trainer.strategy.root_device
        self.meter = TeacherMeter()
        self.micro_batch = 0

    def __call__(self, step: int, batch: Any) -> Answer | None:
        """Returns what the teachers of the step said."""
        plan = self._store.plan
        if step not in plan.steps:
            return None
        with self.meter.phase():
            places = self._plan.places(self.micro_batch)
            targets = self._store.read(step, places).to(self._device)
        drawn = plan.pool.draw(step, len(plan.teachers))
        return Answer(
            shape=(len(targets), plan.encoding.columns),
            loss=lambda student: self._loss(student, targets),
            top=lambda: targets.top_N,
            teacher=drawn[0] if len(drawn) == 1 else None,
        )

    def names(self, teacher: int | None) -> str:
        """Returns the folder."""
        return f"the stored targets {str(self._store.folder)!r}"

    def taught_by(self) -> list[dict[str, Any]]:
        """Returns name, SHA-256 and cost ledger of the targets, and of those who gave them."""
        plan, folder = self._store.plan, self._store.folder
        ledger = read_ledger(folder / FILE)
        own = {"name": str(folder), "sha256": plan.identity(), "ledger": ledger}
        unknown = [{**teacher, "ledger": None} for teacher in plan.teachers]
        return [own, *(unknown if ledger is None else ledger["teachers"])]
