"""What a study will take on this machine, and what its teachers cost per step, from a few steps.

`time_runs` runs 16 steps of each kind of run, teachers first, so that the students' steps are timed
with the teachers they will have. The same steps show a key that does not exist, a teacher that does
not fit, or a metric that is never logged before hours have gone into it.

A run of which a part d of the steps is distilled costs F = 1 + d (o + k t) / (s + w) times as much
as a plain one of as many steps: s seconds of a student's step, w of waiting for data, t of one
teacher's forward pass, k teachers drawn per step, o for the rest. It breaks even where it reaches
the same quality with a part 1 - 1/F fewer steps.
"""

from __future__ import annotations

import io
import shutil
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.jobs import Job, Places, run_jobs
from rrr_lightning.jobs.process import MARKER, write_json
from rrr_lightning.jobs.runner import WRONG_INPUT, duration
from rrr_lightning.study.config import Config, Quality, Study, merge, value_at
from rrr_lightning.study.plan import TEACHERS, PlannedRun, checkpoint_in, digest
from rrr_lightning.study.results import LEDGER, VALIDATED, never_logged

STEPS = 16
VALIDATION_BATCHES = 2
VERSION = 3
FOLDER = "pilot"
LONG_RUN = 1000
UNTIL = (0.25, 0.5, 1.0)
EVERY = (1, 2, 4)
# Above this fraction of data-wait time we call the run loader-bound.
LOADER_BOUND = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds of a kind of run on this machine.

    Attributes:
        kind: The arm or the teacher.
        plain: A step without a teacher, data wait left out; None if there was none.
        distilled: A step with its teachers; None if there was none.
        share: Fraction of the steps of a long run that are distilled.
        wait: Waiting for data, per step.
        teacher: The forward passes of all teachers drawn in a distilled step.
        set_up: Before the first step.
        validation: One validation.
        devices: Devices of one run.
        device: The device as text.
        accumulation: Batches of one optimizer step.
    """

    kind: str
    plain: float | None
    distilled: float | None
    share: float
    wait: float
    teacher: float
    set_up: float
    validation: float
    devices: int
    device: str
    accumulation: int = 1

    def seconds(self, run: PlannedRun) -> float:
        """Returns the seconds that a run will take, the start of Python left out."""
        plain = self.plain if self.plain is not None else self.distilled or 0.0
        distilled = self.distilled if self.distilled is not None else plain + self.teacher
        step = (1 - self.share) * plain + self.share * distilled + self.wait
        interval = value_at(run.config, "trainer.val_check_interval")  # in batches
        counted = isinstance(interval, int) and interval > 0
        validations = 1 + (run.steps * self.accumulation - 1) // interval if counted else 1
        return self.set_up + run.steps * step + validations * self.validation


def time_runs(
    runs: Sequence[PlannedRun], home: Path, places: Places, quality: Quality
) -> dict[str, Timing]:
    """Times every kind of run on the first device, or reads the timings of this machine."""
    folder = home.absolute() / FOLDER
    kinds = {run.kind: run for run in reversed(runs)}
    order = [run for run in runs if kinds.get(run.kind) is run]
    configs = {run.kind: _short_config(run, runs, folder) for run in order}
    key = digest([VERSION, configs, socket.gethostname(), dict(places.environments[0])])
    cache = folder / "pilot.json"
    if cache.exists() and read_json(cache)["key"] == key:
        return {kind: Timing(**values) for kind, values in read_json(cache)["timings"].items()}
    _run(configs, folder, places)
    timings = {}
    for run in order:
        path = folder / run.kind / VALIDATED
        validated = read_json(path) if path.exists() else {"metrics": {}}
        logged = sorted(validated["metrics"])
        if run.role == "student" and quality.command is None and quality.metric not in logged:
            raise never_logged(quality.metric, logged)
        timings[run.kind] = _timing(run, read_json(folder / run.kind / LEDGER), validated)
    content = {kind: asdict(timing) for kind, timing in timings.items()}
    write_json(cache, {"key": key, "timings": content})
    return timings


def _short_config(run: PlannedRun, runs: Sequence[PlannedRun], folder: Path) -> Config:
    """Returns the configuration of a few steps, with teachers of a few steps."""
    ours = {str(each.checkpoint): each for each in runs if each.role == "teacher"}
    short: Config = {
        "trainer": {
            "max_steps": STEPS,
            "default_root_dir": str(folder / run.kind),
            "limit_val_batches": VALIDATION_BATCHES,
        }
    }
    specs = [
        str(checkpoint_in(folder / ours[spec].kind)) if spec in ours else spec
        for spec in _teachers_of(run)
    ]
    if specs:
        short["distillation"] = {"teachers": specs}
    if isinstance(value_at(run.config, "model.init_args.warmup_steps"), int):
        short["model"] = {"init_args": {"warmup_steps": 1}}
    return merge(run.config, short)


def _teachers_of(run: PlannedRun) -> list[Any]:
    specs = value_at(run.config, TEACHERS) or []
    return specs if isinstance(specs, list) else [specs]


def _run(configs: Mapping[str, Config], folder: Path, places: Places) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    files = []
    for kind, config in configs.items():
        (folder / kind).mkdir(parents=True)
        files.append(folder / kind / "run.yaml")
        files[-1].write_text(yaml.safe_dump(config, sort_keys=False))
    worker = (sys.executable, "-m", "rrr_lightning.study.worker", "--timing")
    (folder / MARKER).unlink(missing_ok=True)
    job = Job(FOLDER, (*worker, *map(str, files)), folder, 60.0)
    for failure in run_jobs([job], folder, places, io.StringIO()).failed.values():
        line = failure.line.removeprefix("rrr: error: ")
        if failure.code == WRONG_INPUT:
            raise InputError(line)
        raise InputError(f"a first few steps crashed: {line} (see {failure.log})", key="FILE")


def _timing(run: PlannedRun, ledger: Mapping[str, Any], validated: Mapping[str, Any]) -> Timing:
    """Reads the ledger and the last validation of a few steps."""

    def seconds(name: str) -> float:
        return float(ledger["phases"].get(name, {}).get("seconds") or 0.0)

    steps = max(1, ledger["steps"])
    batches = validated.get("batches") or VALIDATION_BATCHES
    return Timing(
        kind=run.kind,
        plain=ledger["step_seconds"]["plain"],
        distilled=ledger["step_seconds"]["distilled"],
        share=_distilled_steps(run, LONG_RUN) / LONG_RUN,
        wait=seconds("data_wait") / steps,
        teacher=seconds("teacher_forward") / max(1, _distilled_steps(run, steps)),
        set_up=seconds("set_up"),
        validation=seconds("validation") * batches / max(1, validated.get("used") or 1),
        devices=ledger["world_size"],
        device=ledger["hardware"].get("device") or "",
        accumulation=validated.get("accumulation") or 1,
    )


def _distilled_steps(run: PlannedRun, steps: int) -> int:
    """Returns how many of the steps of a run of this length are distilled."""
    from rrr_lightning.distillation.schedule import DistillationSchedule  # imports torch

    if not _teachers_of(run):
        return 0
    section = value_at(run.config, "distillation.schedule") or {}
    schedule = DistillationSchedule(**section.get("init_args", section))
    return sum(schedule.at_step(step, steps) > 0 for step in range(steps))


def list_runs(runs: Sequence[PlannedRun], finished: Collection[str]) -> str:
    """Returns one line per run, in an order in which they can run."""
    width = max(len(run.name) for run in runs)
    lines = [f"{'run':<{width}}  {'steps':>9}  {'seed':>6}  needs"]
    for run in runs:
        state = "has finished" if run.name in finished else ", ".join(run.teachers)
        lines.append(f"{run.name:<{width}}  {run.steps:>9,}  {run.seed:>6}  {state}".rstrip())
    left = sum(run.name not in finished for run in runs)
    lines.append(f"{len(runs)} runs, {left} of them left")
    return "\n".join(lines) + "\n"


def list_hours(
    runs: Sequence[PlannedRun],
    finished: Collection[str],
    timings: Mapping[str, Timing],
    evaluated: bool = False,
) -> str:
    """Returns the predicted device-hours of the runs that are left, by arm and teacher.

    `evaluated`: a command evaluates the students, which was not timed.
    """
    lines = ["", f"{'runs of':<20}  {'runs':>5}  {'ms per step':>22}  {'device-hours':>12}"]
    total = 0.0
    for kind, timing in timings.items():
        left = [run for run in runs if run.kind == kind and run.name not in finished]
        hours = sum(timing.seconds(run) * timing.devices for run in left) / 3600
        total += hours
        step = " / ".join(
            f"{1000 * seconds:.1f} {what}"
            for what, seconds in (("plain", timing.plain), ("distilled", timing.distilled))
            if seconds is not None
        )
        lines.append(f"{kind:<20}  {len(left):>5}  {step:>22}  {hours:>12.3f}")
    devices = ", ".join(sorted({timing.device for timing in timings.values()}))
    lines.append(
        f"{total:.3f} device-hours ({duration(3600 * total)}) on {devices}, by a few timed steps"
    )
    if evaluated:
        lines.append("not among these hours: the command that evaluates each student")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a plain step and its wait, of one teacher's forward, and of the rest."""

    teachers: tuple[str, ...]
    step: float
    wait: float
    forward: float
    rest: float

    @property
    def name(self) -> str:
        """The teachers of the pool."""
        return ", ".join(self.teachers)

    @property
    def draws(self) -> tuple[int, ...]:
        """How many teachers may be drawn per step: one, or all."""
        return tuple(sorted({1, len(self.teachers)}))

    def factor(self, until: float, every: int, per_step: int) -> float:
        """Returns the cost of a run over that of a plain run of as many steps."""
        extra = self.rest + per_step * self.forward
        return 1 + until / every * extra / (self.step + self.wait)


def advise(study: Study, runs: Sequence[PlannedRun], timings: Mapping[str, Timing]) -> str:
    """Returns what distillation costs on this machine, and what it has to save, as text."""
    baseline = timings[study.baseline]
    pools = list({pool.teachers: pool for pool in _pools(study, runs, timings)}.values())
    if not pools:
        raise InputError("no arm has teachers whose cost could be timed", key="arms")
    costs = pools[0]
    lines = [
        f"On {baseline.device}, {STEPS} steps each:",
        f"  student's step {1000 * costs.step:.1f} ms, "
        f"waiting for data {1000 * costs.wait:.1f} ms per step",
        *(
            f"  forward pass of one teacher of [{pool.name}] {1000 * pool.forward:.1f} ms, "
            f"{pool.forward / pool.step:.2f} of a student's step"
            for pool in pools
        ),
        "  The loader keeps up."
        if costs.wait <= LOADER_BOUND * (costs.step + costs.wait)
        else "  The loader is the bottleneck. Part of a teacher's time may be hidden by it, which "
        "is no merit of\n  distillation: a faster loader would make the baseline cheaper.",
        "",
        *_table(pools),
        "",
    ]
    factor, name, until, every, per_step = min(
        (pool.factor(until, every, per_step), pool.name, until, every, per_step)
        for pool in pools
        for until in UNTIL
        for every in EVERY
        for per_step in pool.draws
    )
    lines += [
        f"Cheapest of these: [{name}], per_step {per_step}, until {until}, every_n_steps {every}: "
        f"{factor:.3f} times the cost, which pays if it saves {1 - 1 / factor:.1%} of the steps.",
        "",
        "Assumed: the teachers' own training is free; their forward pass adds to the step; the "
        "schedule is distilled",
        "from the start to `until`; a step takes what it took here, with this batch and device. "
        "What quality a setting",
        "reaches cannot be timed: that is what `rrr study run` finds out.",
    ]
    return "\n".join(lines) + "\n"


def _pools(
    study: Study, runs: Sequence[PlannedRun], timings: Mapping[str, Timing]
) -> Iterator[StepCosts]:
    """Yields the costs of the pool of every arm that has teachers."""
    baseline = timings[study.baseline]
    if baseline.plain is None:
        return
    for arm in study.arms:
        timing = timings[arm]
        run = next(run for run in runs if run.arm == arm)
        if not run.pool or not timing.share or not timing.teacher:
            continue
        per_step = value_at(run.config, "distillation.pool.per_step") or 1
        per_step = len(run.pool) if per_step == "all" else per_step
        extra = (timing.distilled or 0.0) - (timing.plain or baseline.plain)
        # The mean has the first forward, which is slow; a step's extra is a median.
        teacher = min(timing.teacher, extra) if extra > 0 else timing.teacher
        rest = max(0.0, extra - teacher)
        yield StepCosts(run.pool, baseline.plain, baseline.wait, teacher / per_step, rest)


def _table(pools: Iterable[StepCosts]) -> Iterator[str]:
    """Yields the lines of the table: cost factor, and the part of the steps to save."""
    heads = "".join(f"{f'until {until}':>20}" for until in UNTIL)
    yield f"{'teachers':<28}{'per_step':>9}{'every_n_steps':>15}{heads}"
    for pool in pools:
        name = pool.name if len(pool.name) < 28 else pool.name[:24] + "..."
        for per_step in pool.draws:
            for every in EVERY:
                cells = ""
                for until in UNTIL:
                    factor = pool.factor(until, every, per_step)
                    cells += f"{f'{factor:.3f} (save {1 - 1 / factor:.1%})':>20}"
                yield f"{name:<28}{per_step:>9}{every:>15}{cells}"
