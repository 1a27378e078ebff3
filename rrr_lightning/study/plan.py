"""From a study to its runs: teachers first, then every arm with every duration and seed.

A run is one `rrr fit` with a configuration of its own, complete but for the machine. An arm names a
teacher of the study in `distillation.teachers`: `longer` stands for one run per seed of it,
`longer/901` for one run, and `longer/each` for another one with every seed of the students.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.files import read_yaml
from rrr_lightning.study.config import (
    Config,
    Study,
    TeacherRuns,
    find_shipped,
    merge,
    student_run,
    teacher_run,
    value_at,
)

EACH = "each"
MISSING = object()
TEACHERS = "distillation.teachers"
LAST_VALIDATION = "rrr_lightning.study.worker.LastValidation"
# Its name in records: fingerprints must stay the same wherever the class is.
_IN_FINGERPRINTS = "rrr_lightning.study.last_validation.LastValidation"

# What arms may differ in: how a network learns from its batches. All else is the same in all arms,
# so that runs of one seed share initial weights, data, order, masks and augmentation, and are
# evaluated alike. An entry also covers everything under it.
_MODEL_KEYS = (
    "learning_rate", "lr", "momentum", "betas", "epsilon", "weight_decay", "decay_vectors",
    "warmup_steps", "warmup_fraction", "label_smoothing", "optimizer", "lr_scheduler",
    "compile_network", "channels_last",
)  # fmt: skip
MAY_DIFFER = (
    *("distillation", "optimizer", "lr_scheduler"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
    *(f"model.init_args.{name}" for name in _MODEL_KEYS),
)
# What the study sets itself, from the key on the right.
SET_BY_STUDY = {
    "trainer.max_steps": "durations",
    "trainer.default_root_dir": "--out",
    "seed_everything": "seeds",
}
# Where a run takes place, not what it computes.
MACHINE_KEYS = (
    "data.init_args.source", "data.init_args.cache_dir", "data.init_args.num_workers",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.enable_model_summary",
)  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a study.

    Attributes:
        name: Unique in the study, such as `distilled-780-1` or, of a teacher, `longer-901`.
        kind: The arm or the teacher it is a run of.
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
        """The configuration without what depends on the machine; teachers by their names."""
        settings = without(self.config, MACHINE_KEYS)
        settings["trainer"]["callbacks"][-1] = {"class_path": _IN_FINGERPRINTS}
        if self.teachers:
            settings["distillation"]["teachers"] = list(self.pool)
        return settings

    @property
    def checkpoint(self) -> Path:
        """The run's last checkpoint."""
        return checkpoint_in(self.folder)


def checkpoint_in(folder: Path) -> Path:
    """Returns the path of the last checkpoint of a run folder."""
    return folder / "checkpoints" / "last.ckpt"


def make_plan(study: Study, home: Path, data: str | None = None) -> tuple[PlannedRun, ...]:
    """Plans the runs of a study in its folder, in an order in which they can run.

    `data` is where the data are, over what the configurations say.
    """
    return tuple(_Planner(study, home.absolute(), data).runs())


class _Planner:
    """Makes runs; teachers are made when a run that needs them is."""

    def __init__(self, study: Study, home: Path, data: str | None) -> None:
        self.study = study
        self.home = home
        self.data = data
        self.made: dict[str, PlannedRun] = {}
        self.ancestors: list[str] = []

    def runs(self) -> Iterator[PlannedRun]:
        study = self.study
        check_free(study.overlay, "overlay")
        base = merge(self._base(study.base, "base"), study.overlay)
        arms = {}
        for name, arm in study.arms.items():
            check_free(arm.overlay, f"arms.{name}.overlay")
            arms[name] = merge(base, arm.overlay)
        check_paired(arms)
        students = [
            self._run(name, "student", steps, study.seeds, seed, config)
            for seed in study.seeds
            for name, config in arms.items()
            for steps in study.durations_of(name)
        ]
        for name in study.teachers:
            used = any(run.kind == name for run in self.made.values())
            accepted = f"{name} in an arm's distillation.teachers, or no such teacher"
            check(used, f"teachers.{name}", None, accepted, "no arm learns from this teacher")
        yield from self.made.values()
        yield from students

    def _base(self, names: Sequence[str], key: str) -> Config:
        config: Config = {}
        for name in names:
            content = read_yaml(find_shipped(name, key), key)
            check(isinstance(content, dict), key, name, "key: value", "is no configuration")
            config = merge(config, content)
        return config

    def _run(
        self,
        kind: str,
        role: Literal["student", "teacher"],
        steps: int,
        seeds: Sequence[int],
        seed: int,
        config: Config,
    ) -> PlannedRun:
        is_student = role == "student"
        name = student_run(kind, steps, seed) if is_student else teacher_run(kind, seed)
        key = f"{'arms' if is_student else 'teachers'}.{kind}"
        _check_warmup(config, steps, key)
        specs, runs = self._teachers(config, seeds.index(seed), key)
        if specs:
            config = merge(config, {"distillation": {"teachers": specs}})
        folder = self.home / "runs" / name
        config = merge(config, _ours(config, steps, seed, folder))
        if self.data is not None:
            config = merge(config, {"data": {"init_args": {"source": self.data}}})
        quality = self.study.quality
        evaluated = (quality.metric, quality.command, quality.key) if is_student else None
        names = {str(run.checkpoint): run.name for run in runs}
        pool = tuple(names.get(str(spec), str(spec)) for spec in specs)
        teachers = tuple(dict.fromkeys(names.values()))
        run = PlannedRun(name, kind, role, steps, seed, folder, config, pool, teachers, "")
        fingerprint = digest([run.settings, evaluated, [each.fingerprint for each in runs]])
        return replace(run, fingerprint=fingerprint)

    def _teachers(
        self, config: Config, position: int, key: str
    ) -> tuple[list[Any], list[PlannedRun]]:
        """Returns the specs of a run's teachers, and the runs of the study among them."""
        listed = value_at(config, TEACHERS) or []
        specs: list[Any] = []
        runs: list[PlannedRun] = []
        for spec in listed if isinstance(listed, list) else [listed]:
            name, _, which = spec.partition("/") if isinstance(spec, str) else ("", "", "")
            teacher = self.study.teachers.get(name)
            if teacher is None:
                specs.append(spec)
                continue
            for teacher_seed in _chosen(teacher, which, position, f"{key}.{TEACHERS}", spec):
                runs.append(self._teacher(name, teacher, teacher_seed))
                specs.append(str(runs[-1].checkpoint))
        return specs, runs

    def _teacher(self, name: str, teacher: TeacherRuns, seed: int) -> PlannedRun:
        full = teacher_run(name, seed)
        if full in self.made:
            return self.made[full]
        if name in self.ancestors:
            refuse(
                f"teachers.{name}", " <- ".join([*self.ancestors, name]), None, "is its own teacher"
            )
        self.ancestors.append(name)
        key = f"teachers.{name}"
        check_free(teacher.overlay, f"{key}.overlay")
        base = self._base(teacher.base or self.study.base, f"{key}.base")
        config = merge(merge(base, self.study.overlay), teacher.overlay)
        run = self._run(name, "teacher", teacher.steps, teacher.seeds, seed, config)
        self.ancestors.pop()
        self.made[full] = run
        return run


def _chosen(
    teacher: TeacherRuns, which: str, position: int, key: str, spec: str
) -> tuple[int, ...]:
    """Returns the seeds of the teacher runs that a spec stands for.

    `which` is what the spec says after the name, `position` that of the student's seed among the
    seeds of its arm.
    """
    if not which:
        return teacher.seeds
    if which == EACH:
        return (teacher.seeds[position % len(teacher.seeds)],)
    accepted = f"{', '.join([EACH, *map(str, teacher.seeds)])}, or nothing after the name"
    known = which.isdecimal() and int(which) in teacher.seeds
    check(known, key, spec, accepted, "no such run of the teacher")
    return (int(which),)


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


def _check_warmup(config: Config, steps: int, key: str) -> None:
    """Refuses a run that would end while it warms up: steps of warm-up are not scaled."""
    warmup = value_at(config, "model.init_args.warmup_steps")
    what = f"a run of {steps} steps would end in its warm-up of {warmup}, which is not scaled"
    accepted = "longer durations, or warmup_fraction, which follows them"
    ends_after = not isinstance(warmup, int) or warmup < steps
    check(ends_after, f"{key}.model.init_args.warmup_steps", warmup, accepted, what)


def check_free(overlay: Mapping[str, Any], key: str) -> None:
    """Refuses an overlay that sets what the study sets."""
    for path, setter in SET_BY_STUDY.items():
        found = value_at(overlay, path, MISSING)
        if found is not MISSING:
            what = f"{path} is set by {setter} of the study"
            refuse(f"{key}.{path}", found, "nothing here", what)


def check_paired(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses arms whose runs would not be paired: the first configuration is the baseline's."""
    (first, baseline), *others = configs.items()
    ours = _shared(baseline)
    for name, config in others:
        theirs = _shared(config)
        for where in sorted({**ours, **theirs}):
            if ours.get(where) == theirs.get(where):
                continue
            raise InputError(
                f"breaks the paired comparison: {first} has {ours.get(where)!r}, and arms share "
                "weights, data, order and augmentation, and are evaluated alike",
                key=f"arms.{name}.overlay.{where}",
                found=theirs.get(where),
                accepted="the same in all arms, best in the study's own overlay; arms may differ "
                "in distillation, optimizer and compilation",
            )


def _shared(config: Mapping[str, Any]) -> Config:
    """Returns by path what all arms share; a section that is empty is as good as none."""
    return {path: value for path, value in leaves(without(config, MAY_DIFFER)) if value != {}}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the paths of a configuration and what is there."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def without(config: Mapping[str, Any], paths: Sequence[str]) -> Config:
    """Returns a configuration without some paths."""
    result: Config = copy.deepcopy(dict(config))
    for path in paths:
        *outer, last = path.split(".")
        inner = value_at(result, ".".join(outer)) if outer else result
        if isinstance(inner, dict):
            inner.pop(last, None)
    return result


def digest(content: Any) -> str:
    """Returns the SHA-256 of plain types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
