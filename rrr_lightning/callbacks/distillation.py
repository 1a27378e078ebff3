"""`DistillationCallback`: distillation for any LightningModule with automatic optimization.

While the weight is positive the callback runs the teachers of the step, reads the student's rows,
and mixes the two losses; once the weight is zero for good the module has its own `training_step`
back and the teachers are freed, so that a step costs what it costs without the callback.

    distillation = DistillationCallback(["teacher.ckpt"], student_logits="net")
    Trainer(max_steps=5_000, callbacks=[distillation])

Which teacher runs at a step, and with which weight, is a function of the optimizer step alone; the
callback never draws from a generator. A folder of stored targets can take the teachers' place.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from rrr_lightning.callbacks.resume_checks import (
    STATE_KEY,
    check_began_with_teachers,
    check_options,
    check_same_settings,
    check_same_teachers,
    count_steps,
    describe_settings,
    list_specs,
    require_bound,
    step_bounds,
)
from rrr_lightning.callbacks.run_fingerprint import check_same_pool, check_same_run, check_steps
from rrr_lightning.callbacks.splice import RowCapture, StepSplice
from rrr_lightning.callbacks.step import LOGGED_KEYS, DistilledStep, forget_logged
from rrr_lightning.callbacks.student_input import StudentInput
from rrr_lightning.callbacks.teacher_checks import TeacherProbe
from rrr_lightning.callbacks.teacher_loading import load_teachers, match_teachers, place_teachers
from rrr_lightning.callbacks.teacher_targets import (
    LiveTeachers,
    Source,
    StoredTargets,
    TeacherMeter,
)
from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.distillation.losses import KLDivergence, RowLoss
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.sparse_targets import loss_against
from rrr_lightning.distillation.targets import TargetStore
from rrr_lightning.distillation.teacher import Precision, Teacher
from rrr_lightning.errors import InputError, check, check_types, refuse
from rrr_lightning.models.student import StudentModule, TrainingLoss, check_weights, is_logging_step

DEFAULT_SCHEDULE = DistillationSchedule()
DEFAULT_POOL = TeacherPool()


class DistillationCallback(Callback):
    """Trains the module with frozen teachers until the distillation weight has annealed to zero.

    `loss = (1 - w) * task loss + w * distillation loss`, with `w` from `schedule` at the fraction
    of optimizer steps done. Logs `train/task_loss`, `train/distillation_loss`,
    `train/distillation_weight`, `train/agreement` (share of rows where student and teachers have
    the same top class) and, where one teacher is drawn per step, its number as `train/teacher`.

    Args:
        teachers: Teacher specs (see `docs/teachers.md`) or networks; at least one. Networks handed
            in as objects are used in place and given back as they were. None with `targets`.
        loss: A module `(student rows [N, C], teacher rows [N, C]) -> scalar mean over rows`;
            `KLDivergence(temperature=4.0)` where it is None.
        schedule: When distillation is on, and how strongly.
        pool: Which teachers run at a step, and how several are combined.
        student_logits: Name of the sub-module whose output is the student's rows, for example
            `net.head`. Not needed for this library's modules, nor where `training_step` returns
            `{"loss", "logits"}`.
        teacher_inputs: From the batch to the input of a teacher without `logits(batch)`: a tensor,
            a tuple of arguments or a dict of keyword arguments. By default the first element of a
            tuple batch, or a dict batch without its labels.
        teacher_precision: What the teachers' matrix weights are held and run in. By default
            teachers loaded from specs follow the trainer's half precision, or else run in bf16
            where the device computes in it, and networks handed in stay as they are.
        teacher_min_accuracy: Refuse, before step 1, a teacher with a lower accuracy, in [0, 1], on
            up to 512 samples drawn over the validation set; on its first batches where samples have
            no index, and on the first training batch where there is no validation set.
        teacher_compile: Compile teachers loaded from specs, on the batch on which they are tried.
        allow_teacher_change: Resume although the checkpoint was written with other teachers.
        targets: A folder that `rrr targets` wrote, in the place of `teachers`; then no teacher is
            in memory. Needs a data module of this library.
        name: Tells this callback from others in the same trainer: its state in checkpoints is
            under `DistillationCallback/NAME`, and its values are logged as `train/agreement/NAME`.

    Raises:
        InputError: For anything about the teachers, the student or the trainer that would make the
            run wrong; always before the first optimizer step.

    Source: arXiv 2211.00683 (random teacher per step, distillation in a part of training only).
    """

    def __init__(
        self,
        # Bare `dict`, and it before `Module`: the parser of configurations leaves a mapping plain.
        teachers: list[str | dict] | str | Sequence[nn.Module] | None = None,  # type: ignore[type-arg]
        loss: RowLoss | nn.Module | None = None,
        schedule: DistillationSchedule = DEFAULT_SCHEDULE,
        pool: TeacherPool = DEFAULT_POOL,
        student_logits: str | None = None,
        teacher_inputs: Callable[[Any], Any] | None = None,
        teacher_precision: Precision | None = None,
        teacher_min_accuracy: float | None = None,
        teacher_compile: bool = False,
        allow_teacher_change: bool = False,
        targets: str | None = None,
        name: str | None = None,
    ) -> None:
        check_types(type(self).__init__, {**locals(), "teachers": None}, "distillation.")
        check(student_logits != "", "distillation.student_logits", "", "a module's name, or null")
        self.specs = list_specs(teachers, targets)
        check_options(teacher_precision, teacher_min_accuracy, teacher_compile, targets)
        if targets is None:
            pool.check(len(self.specs))
        self.loss = KLDivergence(temperature=4.0) if loss is None else loss
        self.schedule = schedule
        self.pool = pool
        self.student_logits = student_logits
        self.teacher_inputs = teacher_inputs
        self.teacher_precision = teacher_precision
        self.teacher_min_accuracy = teacher_min_accuracy
        self.teacher_compile = teacher_compile
        self.allow_teacher_change = allow_teacher_change
        self.targets = targets
        self.name = name
        self.teachers: list[Teacher] = []
        self.meter = TeacherMeter()
        self._fingerprints: list[str] = []
        self._identity: str | None = None
        self._names: list[str] = []
        self._total_steps = 0
        self._bounds: dict[str, Any] = {}
        self._has_logged = False
        self._store: TargetStore | None = None
        self._probe: TeacherProbe | None = None
        self._source: Source | None = None
        self._capture: RowCapture | None = None
        self._step: DistilledStep | None = None
        self._splice: StepSplice | None = None

    # ------------------------------------------------------------------------------ before step 1

    def load(self, module: LightningModule) -> None:
        """Loads the teachers and holds them against the student; does nothing when they are loaded.

        Called by `setup`; the command line calls it earlier, before any folder is made.
        """
        if self.targets is not None:
            if self._store is None:
                self._open(self.targets)
        elif not self.teachers:
            self.teachers = load_teachers(self.specs, self.teacher_inputs, module)
            self._fingerprints = [teacher.fingerprint() for teacher in self.teachers]
            self._names = [teacher.name for teacher in self.teachers]

    def _open(self, folder: str) -> None:
        store = TargetStore(folder)
        check_same_pool(store, self.pool)
        loss_against(self.loss, store.plan.encoding)
        self._store, self.pool, self._identity = store, store.plan.pool, store.plan.identity()
        self._fingerprints = [teacher["sha256"] for teacher in store.plan.teachers]
        self._names = [teacher["name"] for teacher in store.plan.teachers]
        rank_zero_info(f"distillation.targets: {folder}, {', '.join(self._names)}")

    def taught_by(self) -> list[dict[str, Any]]:
        """Returns name, SHA-256 and cost ledger of all that teaches, once the fit has begun."""
        return [] if self._source is None else self._source.taught_by()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the module and the trainer, and loads the teachers, for `fit` alone."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise InputError(
                "the loss of a module with manual optimization is out of a callback's reach",
                key="automatic_optimization",
                found=False,
                accepted="True",
            )
        require_bound(trainer)
        self._total_steps = 0
        self.load(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Places the teachers, or opens the targets, and finds the student's rows."""
        name = self.student_logits or getattr(pl_module, "student_logits", None)
        if name is not None:
            self._capture = RowCapture(pl_module, name)
        self.loss.to(trainer.strategy.root_device)
        if self._store is not None:
            check_same_run(self._store, pl_module, trainer)
            self._source = StoredTargets(trainer, self._store, self.loss)
        else:
            self._source = self._place(trainer, pl_module)
        self._source.meter = self.meter
        self._step = DistilledStep(
            trainer, pl_module, self._source, self.schedule, self._capture, self._input(pl_module)
        )
        if self._probe is not None:
            self._step.before_first = functools.partial(self._probe.run_on_training, trainer)
        self._splice = StepSplice(pl_module, self._step)

    def _input(self, module: LightningModule) -> StudentInput | None:
        if self.teacher_inputs is not None:
            return None
        schema = module.schema() if isinstance(module, StudentModule) else RowSchema()
        return StudentInput(self.teachers, schema.normalization is not None)

    def _place(self, trainer: Trainer, pl_module: LightningModule) -> LiveTeachers:
        # Again, as the data module may have told the module its class names since.
        columns = match_teachers(self.teachers, pl_module)
        place_teachers(self.teachers, trainer, self.teacher_precision)
        run_as = self.teacher_precision, self.teacher_compile
        finite = getattr(self.loss, "needs_finite", False)
        self._probe = TeacherProbe(
            self.teachers, columns, self.teacher_min_accuracy, *run_as, finite
        )
        return LiveTeachers(trainer, self.teachers, self.loss, self.pool)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fixes the number of steps that fractions of training refer to, and tries the teachers."""
        self._total_steps = count_steps(trainer, at_least=self._total_steps)
        self._bounds = step_bounds(trainer)
        if self._store is not None:
            check_steps(self._store, self.schedule, self._total_steps)
        if self._step is not None:
            self._step.total_steps = self._total_steps
        if self._probe is not None:
            self._probe.run_on_validation(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Takes everything away once the weight is zero for good."""
        if self._splice is None or self._source is None:
            return
        self._check_length(trainer)
        self._source.micro_batch = batch_idx % trainer.accumulate_grad_batches
        if self.schedule.is_over(trainer.global_step, self._total_steps):
            self._check_finite()
            self._release(f"distillation is over at step {trainer.global_step}")
        elif self._probe is not None:
            self._probe.run_on_training(trainer, batch, is_final=False)
            if self._probe.is_done:
                self._probe = None

    # ------------------------------------------------------------------------------ every step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs here, so that the keys never collide with those that a foreign step logs itself."""
        to_log = self._step.take_log() if self._step is not None else {}
        for name, value in to_log.items():
            key = self._under_name(name)
            pl_module.log(key, value, on_step=True, on_epoch=False, batch_size=1)
        if not to_log and self._has_logged:
            forget_logged(trainer, map(self._under_name, LOGGED_KEYS))
        self._has_logged = bool(to_log)
        if is_logging_step(trainer):
            self._check_finite()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the losses of the last steps."""
        self._check_finite()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses to save a run that has diverged, so that the last good checkpoint stays."""
        self._check_finite()
        if not isinstance(pl_module, TrainingLoss):
            check_weights(trainer, pl_module)

    def _check_length(self, trainer: Trainer) -> None:
        for name, before in self._bounds.items():
            if (now := getattr(trainer, name)) != before:
                refuse(
                    f"trainer.{name}",
                    now,
                    f"{before}, as when training started",
                    "was changed during the run, which moves the end of distillation",
                )

    def _check_finite(self) -> None:
        if self._step is not None:
            self._step.check_finite()

    # ------------------------------------------------------------------------------ the end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves no trace on the module."""
        if stage == "fit":
            self._release("distillation ends with the run")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves no trace on the module either; `teardown` is not called after an exception."""
        # A refusal is one line, and the last that is printed.
        is_refusal = isinstance(exception, InputError)
        self._release(None if is_refusal else "distillation ends with an exception")

    def _release(self, why: str | None) -> None:
        if self._splice is not None:
            self._splice.remove()
        if self._capture is not None:
            self._capture.abandon()
        self._probe = self._source = self._capture = self._step = self._splice = None
        if self._store is not None:
            self._store.close()
            self._store = None
            if why is not None:
                rank_zero_info(f"{why}: the stored targets are closed")
        if not self.teachers:
            return
        held = [(teacher.release(), teacher.owned) for teacher in self.teachers]
        freed = sum(size for size, owned in held if owned)
        self.teachers = []
        gc.collect()  # a compiled network survives in reference cycles until then
        if why is not None:
            rank_zero_info(f"{why}: freed {freed / 2**20:.1f} MiB of teachers loaded from specs")

    # ------------------------------------------------------------------------------ checkpoints

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the state."""
        return self._under_name(STATE_KEY)

    def _under_name(self, key: str) -> str:
        return key if self.name is None else f"{key}/{self.name}"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run is held against; plain types, no weights."""
        return {
            "settings": self._settings(),
            "total_steps": self._total_steps,
            "teachers": list(self._fingerprints),
            "names": list(self._names),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses teachers in the middle of a run that began without them."""
        if trainer.state.fn == TrainerFn.FITTING:
            check_began_with_teachers(checkpoint, self.allow_teacher_change, self.state_key)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with other settings or other teachers than the checkpoint's."""
        self._total_steps = state_dict["total_steps"]
        check_same_settings(state_dict, self._settings(), self.allow_teacher_change)
        if not self.allow_teacher_change:
            check_same_teachers(state_dict, self._fingerprints)

    def _settings(self) -> dict[str, Any]:
        return describe_settings(self.loss, self.schedule, self.pool, self._identity)
