"""From a study to its runs: teachers first, then every arm with every duration and seed.

A run is one `rrr fit` with a configuration of its own, complete but for the machine. An arm names a
teacher of the study in `distillation.teachers`: `longer` stands for one run per seed of it,
`longer/901` for one run, and `longer/each` for another one with every seed of the students.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_yaml
from rrr_lightning.study.overlays import (
    PLACES,
    Config,
    check_free,
    check_paired,
    digest,
    lay_over,
    value_at,
    without,
)
from rrr_lightning.study.settings import Study, TeacherRuns, student_run, teacher_run
from rrr_lightning.study.study_file import find_shipped

EACH = "each"
TEACHERS = "distillation.teachers"
LAST_VALIDATION = "rrr_lightning.study.last_validation.LastValidation"


@dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        name: Unique in the study, such as `distilled-780-1` or, of a teacher, `longer-901`.
        kind: The arm or the teacher it is a run of.
        role: `student` or `teacher`.
        steps: Optimizer steps.
        seed: Its seed.
        folder: Its run folder.
        config: Its configuration.
        pool: Its teachers in their order: names of runs of the study, and specs of others.
        teachers: Names of the teacher runs it needs.
        fingerprint: Digest of all that its result depends on, its teachers included.
    """

    name: str
    kind: str
    role: Literal["student", "teacher"]
    steps: int
    seed: int
    folder: Path
    config: Config
    pool: tuple[str, ...]
    teachers: tuple[str, ...]
    fingerprint: str

    @property
    def arm(self) -> str | None:
        """The arm of a student."""
        return self.kind if self.role == "student" else None

    @property
    def settings(self) -> Config:
        """The configuration without what is a matter of the machine; teachers by their names."""
        settings = without(self.config, PLACES)
        if self.teachers:
            settings["distillation"]["teachers"] = list(self.pool)
        return settings

    @property
    def checkpoint(self) -> Path:
        """Where the run leaves its network."""
        return _checkpoint(self.folder)


def make_plan(study: Study, home: Path, data: str | None = None) -> tuple[Run, ...]:
    """Plans the runs of a study, in an order in which they can run.

    Args:
        study: The study.
        home: Its output folder.
        data: Where the data are, over what the configurations say.

    Raises:
        InputError: A configuration is not there, the runs of the arms would not be paired, or a
            teacher is unknown, unused or its own teacher.
    """
    return tuple(_Planner(study, home.absolute(), data).runs())


class _Planner:
    """Makes runs; teachers are made when a run that needs them is."""

    def __init__(self, study: Study, home: Path, data: str | None) -> None:
        self.study = study
        self.home = home
        self.data = data
        self.made: dict[str, Run] = {}
        self.open: list[str] = []

    def runs(self) -> Iterator[Run]:
        study = self.study
        check_free(study.overlay, "overlay")
        base = lay_over(self._base(study.base, "base"), study.overlay)
        arms = {}
        for name, arm in study.arms.items():
            check_free(arm.overlay, f"arms.{name}.overlay")
            arms[name] = lay_over(base, arm.overlay)
        check_paired(arms)
        students = [
            self._run(name, "student", steps, study.seeds, seed, config)
            for seed in study.seeds
            for name, config in arms.items()
            for steps in sorted(study.durations_of(name))
        ]
        for name in study.teachers:
            if not any(run.kind == name for run in self.made.values()):
                raise InputError(
                    "no arm learns from this teacher",
                    key=f"teachers.{name}",
                    accepted=f"{name} in an arm's distillation.teachers, or no such teacher",
                )
        yield from self.made.values()
        yield from students

    def _base(self, names: Sequence[str], key: str) -> Config:
        config: Config = {}
        for name in names:
            content = read_yaml(find_shipped(name, key), key)
            if not isinstance(content, dict):
                raise InputError("is no configuration", key=key, found=name)
            config = lay_over(config, content)
        return config

    def _run(
        self,
        kind: str,
        role: Literal["student", "teacher"],
        steps: int,
        seeds: Sequence[int],
        seed: int,
        config: Config,
    ) -> Run:
        is_student = role == "student"
        name = student_run(kind, steps, seed) if is_student else teacher_run(kind, seed)
        key = f"{'arms' if is_student else 'teachers'}.{kind}"
        _check_warmup(config, steps, key)
        specs, runs = self._teachers(config, seeds.index(seed), key)
        if specs:
            config = lay_over(config, {"distillation": {"teachers": specs}})
        folder = self.home / "runs" / name
        config = lay_over(config, _ours(config, steps, seed, folder))
        if self.data is not None:
            config = lay_over(config, {"data": {"init_args": {"source": self.data}}})
        quality = self.study.quality
        judged = (quality.metric, quality.command, quality.key) if is_student else None
        names = {str(run.checkpoint): run.name for run in runs}
        pool = tuple(names.get(str(spec), str(spec)) for spec in specs)
        teachers = tuple(dict.fromkeys(names.values()))
        run = Run(name, kind, role, steps, seed, folder, config, pool, teachers, "")
        lessons = [each.fingerprint for each in runs]
        return replace(run, fingerprint=digest([run.settings, judged, lessons]))

    def _teachers(self, config: Config, position: int, key: str) -> tuple[list[Any], list[Run]]:
        """Returns the specs of a run's teachers, and the runs of the study among them."""
        told = value_at(config, TEACHERS) or []
        specs: list[Any] = []
        runs: list[Run] = []
        for spec in told if isinstance(told, list) else [told]:
            name, _, which = spec.partition("/") if isinstance(spec, str) else ("", "", "")
            teacher = self.study.teachers.get(name)
            if teacher is None:
                specs.append(spec)
                continue
            for teacher_seed in _chosen(teacher, which, position, f"{key}.{TEACHERS}", spec):
                runs.append(self._teacher(name, teacher, teacher_seed))
                specs.append(str(runs[-1].checkpoint))
        return specs, runs

    def _teacher(self, name: str, teacher: TeacherRuns, seed: int) -> Run:
        full = teacher_run(name, seed)
        if full in self.made:
            return self.made[full]
        if name in self.open:
            raise InputError(
                "is its own teacher", key=f"teachers.{name}", found=" <- ".join([*self.open, name])
            )
        self.open.append(name)
        key = f"teachers.{name}"
        check_free(teacher.overlay, f"{key}.overlay")
        base = self._base(teacher.base or self.study.base, f"{key}.base")
        config = lay_over(lay_over(base, self.study.overlay), teacher.overlay)
        run = self._run(name, "teacher", teacher.steps, teacher.seeds, seed, config)
        self.open.pop()
        self.made[full] = run
        return run


def _chosen(
    teacher: TeacherRuns, which: str, position: int, key: str, spec: str
) -> tuple[int, ...]:
    """Returns the seeds of the teacher runs that a spec stands for.

    Args:
        teacher: The teacher.
        which: What the spec says after the name.
        position: Of the student's seed among the seeds of its like.
        key: The config key for messages.
        spec: The whole spec.
    """
    if not which:
        return teacher.seeds
    if which == EACH:
        return (teacher.seeds[position % len(teacher.seeds)],)
    if which.isdecimal() and int(which) in teacher.seeds:
        return (int(which),)
    raise InputError(
        "no such run of the teacher",
        key=key,
        found=spec,
        accepted=f"{', '.join([EACH, *map(str, teacher.seeds)])}, or nothing after the name",
    )


def _ours(config: Config, steps: int, seed: int, folder: Path) -> Config:
    """What the study sets in a run's configuration."""
    callbacks = value_at(config, "trainer.callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return {
        "seed_everything": seed,
        "trainer": {
            "max_steps": steps,
            "default_root_dir": str(folder),
            "callbacks": [*callbacks, {"class_path": LAST_VALIDATION}],
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _check_warmup(config: Config, steps: int, key: str) -> None:
    """Refuses a run that would end while it warms up: steps of warm-up are not scaled."""
    warmup = value_at(config, "model.init_args.warmup_steps")
    if isinstance(warmup, int) and warmup >= steps:
        raise InputError(
            f"a run of {steps} steps would end in its warm-up of {warmup}, which is not scaled",
            key=f"{key}.model.init_args.warmup_steps",
            found=warmup,
            accepted="longer durations, or warmup_fraction, which follows them",
        )
