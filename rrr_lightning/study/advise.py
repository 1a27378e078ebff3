"""What distillation costs per step on this machine, and so what it has to save to pay.

A run of which a part d of the steps is distilled costs F = 1 + d (o + k t) / (s + w) times as much
as a plain one of as many steps: s seconds of a student's step, w of waiting for data, t of one
teacher's forward pass, k teachers asked per step, o for the rest. It breaks even where it reaches
the same quality with a part 1 - 1/F fewer steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rrr_lightning.errors import InputError
from rrr_lightning.study.overlays import value_at
from rrr_lightning.study.pilot import STEPS, Timing
from rrr_lightning.study.plan import TEACHERS, Run
from rrr_lightning.study.settings import Study

UNTIL = (0.25, 0.5, 1.0)
EVERY = (1, 2, 4)
# More waiting than this part of a step means that the loader sets the pace.
LOADER_BOUND = 0.1


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a step.

    Attributes:
        teachers: The pool's names.
        step: A student's step without a teacher.
        wait: Waiting for data.
        forward: One teacher's forward pass.
        rest: What a distilled step takes besides.
    """

    teachers: tuple[str, ...]
    step: float
    wait: float
    forward: float
    rest: float

    def factor(self, until: float, every: int, asked: int) -> float:
        """Returns the cost of a run in plain runs of as many steps."""
        extra = self.rest + asked * self.forward
        return 1 + until / every * extra / (self.step + self.wait)


def advise(study: Study, runs: Sequence[Run], timings: Mapping[str, Timing]) -> str:
    """Returns the advice as text.

    Args:
        study: The study, whose arms name the teachers.
        runs: Its runs.
        timings: What each kind of run takes.

    Raises:
        InputError: No arm has teachers, or the pilot saw no distilled step.
    """
    baseline = timings[study.baseline]
    pools = {costs.teachers: costs for costs in _pools(study, runs, timings)}
    if not pools:
        raise InputError("no arm has teachers whose cost could be timed", key="arms")
    costs = next(iter(pools.values()))
    lines = [
        f"On {baseline.device}, {STEPS} steps each:",
        f"  student's step {1000 * costs.step:.1f} ms, "
        f"waiting for data {1000 * costs.wait:.1f} ms per step",
    ]
    for pool in pools.values():
        name = ", ".join(pool.teachers)
        lines.append(
            f"  forward pass of one teacher of [{name}] {1000 * pool.forward:.1f} ms, "
            f"{pool.forward / pool.step:.2f} of a student's step"
        )
    bound = costs.wait > LOADER_BOUND * (costs.step + costs.wait)
    lines += [_about_the_loader(bound), "", *_table(pools.values()), ""]
    factor, name, until, every, asked = min(
        (pool.factor(until, every, asked), ", ".join(pool.teachers), until, every, asked)
        for pool in pools.values()
        for until in UNTIL
        for every in EVERY
        for asked in _asked(pool)
    )
    lines += [
        f"Cheapest of these: [{name}], per_step {asked}, until {until}, every_n_steps {every}: "
        f"{factor:.3f} times the cost, which pays if it saves {1 - 1 / factor:.1%} of the steps.",
        "",
        "Assumed: the teachers' own training is free; their forward pass adds to the step; the "
        "schedule is distilled",
        "from the start to `until`; a step takes what it took here, with this batch and device. "
        "What quality a setting",
        "reaches is not known from a pilot: that is what `rrr study run` finds out.",
    ]
    return "\n".join(lines) + "\n"


def _pools(study: Study, runs: Sequence[Run], timings: Mapping[str, Timing]) -> Iterator[Costs]:
    """Yields the costs of every pool of the arms, by its teachers."""
    baseline = timings[study.baseline]
    if baseline.plain is None:
        return
    for arm in study.arms:
        timing = timings[arm]
        run = next(run for run in runs if run.arm == arm)
        names = _names(study, run)
        if not names or not timing.share or not timing.teacher:
            continue
        asked = value_at(run.config, "distillation.pool.per_step") or 1
        asked = len(names) if asked == "all" else asked
        extra = (timing.distilled or 0.0) - (timing.plain or baseline.plain)
        rest = max(0.0, extra - timing.teacher)
        yield Costs(names, baseline.plain, baseline.wait, timing.teacher / asked, rest)


def _names(study: Study, run: Run) -> tuple[str, ...]:
    told = value_at(run.config, TEACHERS) or []
    kinds = {str(run.folder.parent / name): name for name in run.teachers}
    names = []
    for spec in [told] if isinstance(told, str) else told:
        path = str(spec).removesuffix("/checkpoints/last.ckpt")
        names.append(kinds.get(path, str(spec)))
    return tuple(names)


def _asked(pool: Costs) -> tuple[int, ...]:
    count = len(pool.teachers)
    return (1,) if count == 1 else (1, count)


def _about_the_loader(bound: bool) -> str:
    if bound:
        return (
            "  The loader sets the pace. Part of a teacher's time may hide behind it, which says "
            "nothing for distillation:\n  a faster loader would make the baseline cheaper."
        )
    return "  The loader keeps up."


def _table(pools: Iterable[Costs]) -> Iterator[str]:
    """Yields the lines of the table: cost factor, and the part of the steps to save."""
    heads = "".join(f"{f'until {until}':>20}" for until in UNTIL)
    yield f"{'teachers':<28}{'per_step':>9}{'every_n_steps':>15}{heads}"
    for pool in pools:
        for asked in _asked(pool):
            for every in EVERY:
                cells = ""
                for until in UNTIL:
                    factor = pool.factor(until, every, asked)
                    cells += f"{f'{factor:.3f} (save {1 - 1 / factor:.1%})':>20}"
                name = ", ".join(pool.teachers)
                name = name if len(name) < 28 else name[:24] + "..."
                yield f"{name:<28}{asked:>9}{every:>15}{cells}"
