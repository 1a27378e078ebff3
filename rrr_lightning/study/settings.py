"""What a study compares, over which durations and seeds, and what it calls better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rrr_lightning.study.overlays import Config


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
    durations: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TeacherRuns:
    """A kind of teacher that the study trains, once for each seed.

    Attributes:
        steps: Optimizer steps.
        seeds: One run each.
        base: Configurations it starts from; by default those of the study.
        overlay: What it changes in the configuration.
    """

    steps: int
    seeds: tuple[int, ...]
    base: tuple[str, ...] | None = None
    overlay: Config = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """What makes a finished run better than another.

    Attributes:
        metric: A metric that the run logs, or, with a command, a name for its value.
        direction: `min` or `max`: which values are better.
        target: The quality at which speed-ups are quoted; set before the runs.
        command: Judges a finished run, where its log does not: program and arguments, in which
            `{checkpoint}` and `{folder}` stand for the run's own, `{data}` for `data`.
        file: What the command leaves: a JSON file in the run folder.
        key: Where in that file the value is, with dots.
        data: What it judges on.
        ceiling: The best value of a metric to maximise, from which its error is counted.
    """

    metric: str
    direction: str
    target: float | None = None
    command: tuple[str, ...] | None = None
    file: str | None = None
    key: str | None = None
    data: str | None = None
    ceiling: float = 1.0


@dataclass(frozen=True)
class Headline:
    """The cell of the table that answers the study's question; set before the runs.

    Attributes:
        clock: `wall`, `wall_without_data` or `flops`.
        charge: What of the teachers' own training counts: `free`, `amortized` or `full`.
        arm: The arm that it is about; by default the first one after the baseline.
    """

    clock: str
    charge: str
    arm: str | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        base: Configurations of `rrr fit`, laid over each other.
        arms: By name; the first one is the baseline.
        durations: Optimizer steps, each a whole training run with its own schedule.
        seeds: Seeds of every arm and duration.
        quality: What is compared.
        headline: The cell that answers the question.
        overlay: What all runs change in the configuration.
        teachers: Teachers that are trained for the study, by name.
        amortize_over: Students that share the teachers' training under the charge `amortized`.
        settings_tried: Settings that were tried before these were chosen, by arm.
        tuning: What these were tried on, in words.
        purpose: `result`; `demonstration`, which the report then says; or `tuning`, for which one
            duration is enough and the report ranks the arms.
        contrasts: Pairs of arms to hold against each other at equal steps.
    """

    base: tuple[str, ...]
    arms: dict[str, Arm]
    durations: tuple[int, ...]
    seeds: tuple[int, ...]
    quality: Quality
    headline: Headline
    overlay: Config = field(default_factory=dict)
    teachers: dict[str, TeacherRuns] = field(default_factory=dict)
    amortize_over: int = 1
    settings_tried: dict[str, int] = field(default_factory=dict)
    tuning: str | None = None
    purpose: str = "result"
    contrasts: tuple[tuple[str, str], ...] = ()

    @property
    def baseline(self) -> str:
        """The name of the baseline."""
        return next(iter(self.arms))

    @property
    def headline_arm(self) -> str:
        """The name of the arm that the headline is about."""
        return self.headline.arm or [*self.arms, self.baseline][1]

    @property
    def demonstration(self) -> bool:
        """Whether the study shows the tool and not a claim."""
        return self.purpose == "demonstration"

    def run_names(self) -> Iterator[str]:
        """Yields the names of all runs that the study can have, teachers first."""
        for name, teacher in self.teachers.items():
            for seed in teacher.seeds:
                yield teacher_run(name, seed)
        for arm in self.arms:
            for steps in self.durations_of(arm):
                for seed in self.seeds:
                    yield student_run(arm, steps, seed)

    def durations_of(self, arm: str) -> tuple[int, ...]:
        """Returns the durations of an arm."""
        own = self.arms[arm].durations
        return self.durations if own is None else own
