"""What one process of a run pays: the clock, the counts, and where in the loop they are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rrr_lightning.callbacks._clock import DeviceClock, PhaseClock
from rrr_lightning.callbacks._flops import FlopMeter, shapes_of
from rrr_lightning.callbacks._hardware import EnergyMeter, peak_memory
from rrr_lightning.callbacks._ledger import CHECKPOINT, OTHER, STUDENT, TEACHER, WAIT, Part
from rrr_lightning.callbacks._sources import TeacherMeter
from rrr_lightning.callbacks._splice import Shadow
from rrr_lightning.distillation.teacher import Teacher

_WARM_UP_STEPS = 3  # of each kind of step; medians leave them out
_LEFT_OUT = ""


class Session(TeacherMeter):
    """Measures the running process, from its making on.

    Callbacks see when a batch arrives and when it is done. How long the loop waited for it, the
    step itself, and a save, are seen from within the loop: there `install` lays itself over the
    trainer's own functions until `uninstall`.
    """

    def __init__(self) -> None:
        self.clock = PhaseClock()
        self.steps = 0
        self._device = torch.device("cpu")
        self._energy = EnergyMeter(self._device)
        self._flops = FlopMeter()
        self._samples = 0
        self._tokens: int | None = None
        self._global_step = 0
        self._kinds: Counter[str] = Counter()
        self._is_distilled = self._is_counted = False
        self._shadows: list[Shadow] = []

    def place(self, device: torch.device) -> None:
        """Begins to read the energy of a device."""
        self._device = device
        self._energy = EnergyMeter(device)

    def install(self, trainer: Trainer) -> None:
        """Begins to measure the training loop."""
        if self._device.type == "cuda":
            self.clock = DeviceClock(self.clock)
        self._global_step = trainer.global_step
        loop: Any = trainer.fit_loop.epoch_loop
        fetch, fetched, save = loop._on_before_fetch, loop._on_after_fetch, trainer.save_checkpoint

        def before_fetch() -> None:
            self.clock.enter(WAIT)
            fetch()

        def after_fetch() -> None:
            fetched()
            self.clock.enter(STUDENT)

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:
            with self.clock.within(CHECKPOINT):
                save(*args, **kwargs)

        def step_of(optimization: Any) -> Callable[..., Any]:
            run = optimization.run

            def measured(*args: Any) -> Any:
                batch = next(iter(args[-1].values()), None)  # of the arguments of `training_step`
                self.see(batch)
                result = self._flops.step(lambda: run(*args), batch, trainer.lightning_module)
                self._is_counted |= self._flops.counting
                return result

            return measured

        self._shadows = [
            Shadow(loop, "_on_before_fetch", before_fetch),
            Shadow(loop, "_on_after_fetch", after_fetch),
            Shadow(trainer, "save_checkpoint", save_checkpoint),
        ]
        for optimization in (loop.automatic_optimization, loop.manual_optimization):
            self._shadows.append(Shadow(optimization, "run", step_of(optimization)))

    def uninstall(self) -> None:
        """Leaves the trainer as it was; safe to call twice."""
        while self._shadows:
            self._shadows.pop().undo()

    def end_batch(self, global_step: int) -> None:
        """Ends the step of a batch, and the optimizer step where one was made."""
        done, self._global_step = global_step - self._global_step, global_step
        if not done:
            self.clock.enter(OTHER)
            return
        kind = "distilled" if self._is_distilled else "plain"
        self._kinds[kind] += 1
        left_out = self._is_counted or self._kinds[kind] <= _WARM_UP_STEPS
        self.clock.enter(OTHER, step=_LEFT_OUT if left_out else kind)
        self._is_distilled = self._is_counted = False
        self.steps += done

    # ------------------------------------------------------------------------------ teachers

    def phase(self) -> AbstractContextManager[None]:
        """Books the time within to the teachers."""
        self._is_distilled = True
        return self.clock.within(TEACHER, count=0)

    def rows(self, number: int, teacher: Teacher, batch: Any) -> Tensor:
        """Runs a teacher, and counts its operations apart from the student's."""
        self.clock.counts[TEACHER] += 1
        run = self._flops.teacher
        rows: Tensor = run(number, lambda: teacher.rows(batch), batch, teacher.network)
        return rows

    # ------------------------------------------------------------------------------ the sums

    def part(self) -> Part:
        """Returns what this process has paid so far, on this rank."""
        return Part(
            steps=self.steps,
            samples=self._samples,
            tokens=self._tokens,
            seconds=self.clock.seconds(),
            counts=dict(self.clock.counts),
            student_flops=self._flops.student_flops(),
            teacher_flops=self._flops.teacher_flops(),
            energy_joules=self._energy.joules(),
            peak_memory_bytes=peak_memory(self._device),
        )

    def step_seconds(self) -> dict[str, float | None]:
        """Returns the median seconds of a step without teachers, and of one with them."""
        return {kind: self.clock.step_seconds(kind) for kind in ("plain", "distilled")}

    def see(self, batch: Any) -> None:
        """Counts the samples and tokens of a batch."""
        shapes = shapes_of(batch)
        self._samples += shapes[0][0] if shapes and shapes[0] else 0
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if isinstance(ids, Tensor):
            self._tokens = (self._tokens or 0) + ids.numel()
