"""What a process of a run costs: hardware, the clock of its phases, and the counts of its steps."""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from rrr_lightning.callbacks.flop_counter import FlopMeter, shapes_of
from rrr_lightning.callbacks.ledger import (
    CHECKPOINT,
    OTHER,
    PHASES,
    SET_UP,
    STUDENT,
    TEACHER,
    WAIT,
    Part,
)
from rrr_lightning.callbacks.splice import Shadow
from rrr_lightning.callbacks.teacher_targets import TeacherMeter
from rrr_lightning.distillation.teacher import Teacher

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_PACKAGES = ("torch", "lightning", "torchvision", "transformers", "numpy")
_GIT_SECONDS = 5.0


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Returns the names of device and processor, cores, threads, and the device's memory."""
    cuda = device.type == "cuda"
    processor = _processor()
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor,
        "cpu": processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory
        if cuda
        else _memory(),
    }


def _memory() -> int | None:
    """The bytes of the machine's memory; None where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_versions() -> dict[str, str | None]:
    """Returns the versions of what the numbers and the speed of a run depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("rrr-lightning", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "cuda": torch.version.cuda}


def describe_git() -> dict[str, Any] | None:
    """Returns the commit of the working folder and whether tracked files differ from it."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return None if not commit or changes is None else {"commit": commit, "dirty": bool(changes)}


def peak_memory(device: torch.device) -> int:
    """Returns the most bytes that tensors on a CUDA device, or else this process, ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


class EnergyMeter:
    """Reads the energy that a CUDA device has used, in joules, through `nvidia-ml-py` if installed.

    Args:
        device: The device; others than CUDA devices report nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        if device.type != "cuda":
            return
        with suppress(ImportError):  # the extra `energy`
            self._nvml = importlib.import_module("pynvml")
            self._uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._first = self._read()

    def joules(self) -> float | None:
        """Returns the energy since the meter was made, None where the device does not report it."""
        now = self._read()
        return None if now is None or self._first is None else now - self._first

    def _read(self) -> float | None:
        if self._nvml is None:
            return None
        try:
            self._nvml.nvmlInit()
            handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except self._nvml.NVMLError:
            return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


# ----------------------------------------------------------------------
# Where the time of a run goes: every moment belongs to exactly one phase.


KEPT_STEPS = 1024  # of which medians are taken; older ones are forgotten
_MANY_EVENTS = 256  # pending ones after which the clock looks which of them the device has passed


class PhaseClock:
    """Books the host's time to phases, and the time of steps to kinds of step.

    Attributes:
        counts: How often each phase was entered.
        phase: The phase that is open.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(PHASES, 0)
        self.counts[SET_UP] = 1
        self.phase = SET_UP
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps: dict[str, deque[float]] = {}
        self._step = 0.0
        self._started = self._since = time.perf_counter()

    def enter(self, phase: str, step: str | None = None) -> None:
        """Ends the open phase and begins another one."""
        self.counts[phase] += 1
        self._mark(step)
        self.phase = phase

    @contextmanager
    def within(self, phase: str, count: int = 1) -> Iterator[None]:
        """Interrupts the open phase by another one."""
        self._mark(None)
        interrupted, self.phase = self.phase, phase
        self.counts[phase] += count
        try:
            yield
        finally:
            self._mark(None)
            self.phase = interrupted

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every phase up to now; they add up to `elapsed`."""
        self._mark(None)
        return dict(self._seconds)

    def elapsed(self) -> float:
        """Returns the seconds since the clock started."""
        return time.perf_counter() - self._started

    def step_seconds(self, kind: str) -> float | None:
        """Returns the median seconds of the latest steps of a kind, None where there was none."""
        steps = self._steps.get(kind)
        return statistics.median(steps) if steps else None

    def finish(self) -> None:
        """Waits for what the clock has not read yet."""

    def _mark(self, step: str | None) -> None:
        """Ends a stretch of time, and an optimizer step where its kind is given."""
        now = time.perf_counter()
        self._settle(now - self._since, self.phase, step)
        self._since = now

    def _settle(self, seconds: float, phase: str, step: str | None) -> None:
        self._seconds[phase] += seconds
        if phase in (STUDENT, TEACHER):
            self._step += seconds
        if step is not None:
            self._steps.setdefault(step, deque(maxlen=KEPT_STEPS)).append(self._step)
            self._step = 0.0


class DeviceClock(PhaseClock):
    """Books the time of a CUDA device, whose work the host has only queued when a phase ends.

    Args:
        host: The clock of the run up to now; the device takes over with the phase that is open.
    """

    def __init__(self, host: PhaseClock) -> None:
        super().__init__()
        self._seconds, self.counts, self.phase = host.seconds(), host.counts, host.phase
        self._started = host._started
        self._free: list[Any] = []
        self._marks: deque[tuple[Any, str, str | None]] = deque()
        self._last = self._record()

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every phase; what the device has not passed yet counts as open."""
        self._collect()
        passed = dict(self._seconds)
        passed[self.phase] += max(0.0, self.elapsed() - sum(passed.values()))
        return passed

    def finish(self) -> None:
        """Waits until the device has passed all that was recorded."""
        self._mark(None)
        self._marks[-1][0].synchronize()
        self._collect()

    def _mark(self, step: str | None) -> None:
        self._marks.append((self._record(), self.phase, step))
        if len(self._marks) >= _MANY_EVENTS:
            self._collect()

    def _record(self) -> Any:
        new: Any = torch.cuda.Event
        event = self._free.pop() if self._free else new(enable_timing=True)
        event.record()
        return event

    def _collect(self) -> None:
        """Settles the marks that the device has passed; asks, and never waits."""
        while self._marks and self._marks[0][0].query():
            event, phase, step = self._marks.popleft()
            self._settle(self._last.elapsed_time(event) / 1000, phase, step)
            self._free.append(self._last)
            self._last = event


# ----------------------------------------------------------------------
# What one process of a run pays: the clock, the counts, and where in the loop they are taken.


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

    def logits(self, number: int, teacher: Teacher, batch: Any) -> Tensor:
        """Runs a teacher, and counts its operations apart from the student's."""
        self.clock.counts[TEACHER] += 1
        run = self._flops.teacher
        rows: Tensor = run(number, lambda: teacher.logits(batch), batch, teacher.network)
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
