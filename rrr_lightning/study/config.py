"""A study file: which arms are compared, over which durations and seeds, and by what quality.

base: cifar10/baseline.yaml           # a configuration of `rrr fit`, or several
arms:                                 # ways to train (ablations); the first one is the baseline
  baseline: {}
  distilled:
    overlay: {distillation: {teachers: longer}}
teachers:
  longer: {steps: 4680, seeds: [901]}
durations: [390, 780, 1560, 3120]     # optimizer steps
seeds: [1, 2, 3]
quality: {metric: val/accuracy, direction: max, target: 0.7}
headline: {clock: flops, charge: free}
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatch
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from rrr_lightning.errors import InputError, check, did_you_mean, refuse
from rrr_lightning.files import read_yaml
from rrr_lightning.study.quality_cost_curve import LEAST_DURATIONS, Direction

SHIPPED = Path(__file__).parents[1] / "configs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")

Config = dict[str, Any]
CostMetric = Literal["wall", "wall_without_data", "flops"]
Charge = Literal["free", "amortized", "full"]
Purpose = Literal["result", "demonstration", "tuning"]
COST_METRICS: tuple[CostMetric, ...] = get_args(CostMetric)
CHARGES: tuple[Charge, ...] = get_args(Charge)

Count = Annotated[int, msgspec.Meta(ge=1)]
Seed = Annotated[int, msgspec.Meta(ge=0)]
Texts = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
Steps = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1)]
Section = TypeVar("Section")


def student_run(arm: str, steps: int, seed: int) -> str:
    """Returns the name of a run of an arm."""
    return f"{arm}-{steps}-{seed}"


def teacher_run(teacher: str, seed: int) -> str:
    """Returns the name of a run of a teacher."""
    return f"{teacher}-{seed}"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        overlay: What it changes in the configuration.
        durations: Its own durations; by default those of the study.
    """

    overlay: Config = field(default_factory=dict)
    durations: Steps | None = None


@dataclass(frozen=True)
class TeacherRuns:
    """A kind of teacher that the study trains, once for each seed.

    Attributes:
        steps: Optimizer steps.
        seeds: One run each.
        base: Configurations it starts from; by default those of the study.
        overlay: What it changes in the configuration.
    """

    steps: Count
    seeds: Seeds
    base: Texts | None = None
    overlay: Config = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """What makes a finished run better than another.

    Attributes:
        metric: A metric that the run logs, or, with a command, a name for its value.
        direction: `min` or `max`: which values are better.
        target: The quality at which speed-ups are quoted; set before the runs.
        command: Evaluates a finished run, where its log does not: program and arguments, in which
            `{checkpoint}` and `{folder}` stand for the run's own, `{data}` for `data`.
        file: The JSON file that the command writes into the run folder.
        key: Where in that file the value is, with dots.
        data: What the command evaluates on.
        ceiling: The best value of a metric to maximise, from which its error is counted.
    """

    metric: str
    direction: Direction
    target: float | None = None
    command: Texts | None = None
    file: str | None = None
    key: str | None = None
    data: str | None = None
    ceiling: float = 1.0

    @property
    def scale(self) -> tuple[Direction, float]:
        """Direction and ceiling, from which errors and their logarithms follow."""
        return self.direction, self.ceiling


@dataclass(frozen=True)
class Headline:
    """The cell of the table that answers the study's question; set before the runs.

    Attributes:
        clock: The cost metric: `wall`, `wall_without_data` or `flops`.
        charge: What of the teachers' own training counts: `free`, `amortized` or `full`.
        arm: The arm that it is about; by default the first one after the baseline.
    """

    clock: CostMetric
    charge: Charge
    arm: str | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        base: Configurations of `rrr fit`, each merged over the former.
        arms: By name; the first one is the baseline.
        durations: Optimizer steps, each a whole training run with its own schedule.
        seeds: Seeds of every arm and duration; runs of one seed share initial weights and data.
        quality: What is compared.
        headline: The cell that answers the question.
        overlay: What all runs change in the configuration.
        teachers: Teachers that are trained for the study, by name.
        amortize_over: Students that share the teachers' training under the charge `amortized`.
        settings_tried: Settings that were tried before these were chosen, by arm.
        tuning: What these were tried on, as text.
        purpose: `result`; `demonstration`, which the report then says; or `tuning`, for which one
            duration is enough and the report ranks the arms.
        contrasts: Pairs of arms to compare at equal steps.
    """

    base: Texts
    arms: dict[str, Arm]
    durations: Steps
    seeds: Seeds
    quality: Quality
    headline: Headline
    overlay: Config = field(default_factory=dict)
    teachers: dict[str, TeacherRuns] = field(default_factory=dict)
    amortize_over: Count = 1
    settings_tried: dict[str, Seed] = field(default_factory=dict)
    tuning: str | None = None
    purpose: Purpose = "result"
    contrasts: tuple[tuple[str, str], ...] = ()

    @property
    def baseline(self) -> str:
        """The name of the baseline."""
        return next(iter(self.arms))

    @property
    def compared_arms(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline."""
        return tuple(self.arms)[1:]

    @property
    def headline_arm(self) -> str:
        """The name of the arm that the headline is about."""
        return self.headline.arm or [*self.arms, self.baseline][1]

    @property
    def cost_metric(self) -> CostMetric:
        """The cost metric of the headline."""
        return self.headline.clock

    @property
    def charge(self) -> Charge:
        """How the headline charges the training of teachers."""
        return self.headline.charge

    def by(self, cost_metric: CostMetric) -> Study:
        """Returns the study with another cost metric of its headline."""
        return replace(self, headline=replace(self.headline, clock=cost_metric))

    def durations_of(self, arm: str) -> tuple[int, ...]:
        """Returns the durations of an arm, rising."""
        own = self.arms[arm].durations
        return tuple(sorted(self.durations if own is None else own))

    def run_names(self) -> Iterator[str]:
        """Yields the names of all runs that the study can have, teachers first."""
        for name, teacher in self.teachers.items():
            for seed in teacher.seeds:
                yield teacher_run(name, seed)
        for arm in self.arms:
            for steps in self.durations_of(arm):
                for seed in self.seeds:
                    yield student_run(arm, steps, seed)


def find_shipped(name: str, key: str, kind: str = "*") -> Path:
    """Returns the path of a local file, or else of one that the package ships."""
    for path in (Path(name), SHIPPED / name):
        if path.is_file():
            return path
    shipped = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))
    shipped = [each for each in shipped if fnmatch(each, kind)]
    accepted = f"a file, or one of the {len(shipped)} shipped ones"
    hint = did_you_mean(name, shipped)
    raise InputError(
        f"neither a file here nor one that is shipped{hint}",
        key=key,
        found=name,
        accepted=accepted,
    )


def read_study(name: str, quality_data: str | None = None) -> Study:
    """Reads a study file, local or shipped."""
    study = make_study(read_yaml(find_shipped(name, "FILE", "study/*"), "FILE"))
    if quality_data is None:
        return study
    if study.quality.command is None:
        raise InputError("the quality of this study comes from its logs", key="--quality_data")
    return replace(study, quality=replace(study.quality, data=quality_data))


def make_study(content: Any) -> Study:
    """Makes a study of the content of a file."""
    sections = _expanded(content, "", ("base",))
    kind: type
    for section, kind in (("quality", Quality), ("headline", Headline)):
        if section in sections:
            sections[section] = _expanded(sections[section], section, ("command",))
            _typed(sections[section], kind, section)
    for section, kind in (("arms", Arm), ("teachers", TeacherRuns)):
        parts = _mapping(sections.get(section) or {}, section)
        for name, part in parts.items():
            accepted = "letters, digits, _ and ."
            check(bool(_NAME.fullmatch(str(name))), section, name, accepted, "is no name")
            parts[name] = _expanded(part or {}, f"{section}.{name}", ("base",))
            _typed(parts[name], kind, f"{section}.{name}")
        sections[section] = parts
    study = _typed({key: value for key, value in sections.items() if value is not None}, Study, "")
    check_values(study)
    return study


def _mapping(value: Any, key: str) -> Config:
    # The content of a file that is no study is not repeated: it may be any file.
    found = value if key else type(value).__name__
    check(isinstance(value, Mapping), key or "FILE", found, "key: value", "is no mapping")
    return dict(value)


def _expanded(content: Any, key: str, texts: Sequence[str]) -> Config:
    """Returns a section with nested overlays, and lists where one text may stand for a list."""
    section = _mapping(content, key)
    for name in texts:
        if isinstance(section.get(name), str):
            section[name] = [section[name]]
    if section.get("overlay") is not None:
        where = f"{key}.overlay" if key else "overlay"
        section["overlay"] = expand(_mapping(section["overlay"], where))
    return {name: value for name, value in section.items() if value is not None}


def _typed(section: Config, kind: type[Section], key: str) -> Section:
    """Converts a section to a dataclass; refuses unknown, missing and mistyped keys by name."""
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    prefix = f"{key}." if key else ""
    for name, value in section.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            refuse(f"{prefix}{name}", value, ", ".join(known), f"no such key{hint}")
    try:
        return msgspec.convert(section, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
            raise InputError("is missing", key=f"{prefix}{missing[1]}") from error
        path = path.strip(".`").replace("[...]", "")  # of a mapping
        found: Any = section
        for part in re.findall(r"\w+", path):
            inner = int(part) if isinstance(found, Sequence) else part
            found = found[inner] if isinstance(found, Sequence | Mapping) else found
        key, accepted = f"{prefix}{path}", get_args(get_type_hints(kind).get(path))
        if what.startswith("Invalid enum value"):
            hint = did_you_mean(str(found), accepted)
            refuse(key, found, ", ".join(accepted), f"unknown{hint}")
        raise InputError(what[0].lower() + what[1:], key=key, found=found) from error


def expand(overlay: Mapping[str, Any]) -> Config:
    """Returns an overlay without dots in its keys.

    >>> expand({"trainer.max_steps": 3, "trainer": {"devices": 1}})
    {'trainer': {'max_steps': 3, 'devices': 1}}
    """
    result: Config = {}
    for key, value in overlay.items():
        inner = expand(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        result = merge(result, inner)
    return result


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Config:
    """Returns two configurations, the second over the first.

    Mappings are merged, anything else replaces what was there. A new `class_path` leaves the
    `init_args` of the former class behind.
    """
    result: Config = dict(copy.deepcopy(dict(below)))
    if "class_path" in above and result.get("class_path") != above["class_path"]:
        result.pop("init_args", None)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = merge(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def value_at(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Returns what a configuration has at a path with dots."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def check_values(study: Study) -> None:
    """Refuses values that do not go together, or by which runs could not be compared."""
    quality, arms = study.quality, tuple(study.arms)
    check(bool(arms), "arms", None, "two arms or more", "names no arm")
    for key in study.teachers:
        check(key not in arms, "teachers", key, "other names", "is the name of an arm as well")
    named = [("headline.arm", study.headline_arm)]
    named += [("settings_tried", arm) for arm in study.settings_tried]
    named += [("contrasts", arm) for pair in study.contrasts for arm in pair]
    for key, arm in named:
        check(arm in arms, key, arm, ", ".join(arms), f"unknown{did_you_mean(arm, arms)}")
    for index, pair in enumerate(study.contrasts):
        key, differ = f"contrasts[{index}]", len(set(pair)) == 2
        check(differ, key, list(pair), "two different arms", "is no pair")
    numbers = [("durations", study.durations), ("seeds", study.seeds)]
    numbers += [(f"arms.{name}.durations", arm.durations or ()) for name, arm in study.arms.items()]
    numbers += [(f"teachers.{name}.seeds", each.seeds) for name, each in study.teachers.items()]
    for key, values in numbers:
        distinct = len(set(values)) == len(values)
        check(distinct, key, list(values), "each number once", "names a number twice")
    parts = [key for key in ("command", "file", "key") if getattr(quality, key) is not None]
    what = "a command that evaluates needs a file and a key as well"
    accepted = "all of command, file and key, or none"
    check(len(parts) in (0, 3), "quality", ", ".join(parts), accepted, what)
    _check_target(quality, needed=study.purpose == "result")
    if study.purpose != "tuning":
        _check_comparison(study)


def _check_target(quality: Quality, needed: bool) -> None:
    """Refuses a target that no run can reach, or that leaves nothing to take a logarithm of."""
    target = quality.target
    if target is None:
        if needed:
            what = "is missing: the quality at which costs are compared is fixed before the runs"
            refuse("quality.target", None, "a value that baseline and arms will reach", what)
        return
    for key, value in (("target", target), ("ceiling", quality.ceiling)):
        check(isfinite(value), f"quality.{key}", value, "a number", "is no number")
    reachable = target > 0 if quality.direction == "min" else target < quality.ceiling
    below = f"values below the ceiling {quality.ceiling:g}"
    accepted = "losses above 0" if quality.direction == "min" else below
    check(reachable, "quality.target", target, accepted, "cannot be reached")


def _check_comparison(study: Study) -> None:
    """Refuses a study that could only choose settings."""
    names = ", ".join(study.arms)
    what = "nothing to compare the baseline with"
    check(len(study.arms) > 1, "arms", names, "two arms or more", what)
    durations = study.durations_of(study.baseline)
    missing = LEAST_DURATIONS - len(durations)
    check(
        missing <= 0, "durations", list(durations), f"{LEAST_DURATIONS} or more numbers of steps",
        f"the baseline's quality-cost curve needs {missing} more "
        f"{'duration' if missing == 1 else 'durations'}: quality between runs is interpolated",
    )  # fmt: skip
