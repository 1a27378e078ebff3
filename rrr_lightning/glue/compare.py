"""Two checkpoints side by side: the difference per task, with an interval.

Runs of the same task and seed have seen the same data, in the same order where the tokenizers are
the same, and were evaluated on the same rows, so differences are taken within pairs. Two sources of
variance are added: which rows the validation split happens to have (a bootstrap over rows, the same
rows for both checkpoints), and which seeds were drawn (the variance of the differences over seeds).
The part by which single seeds vary over rows is in both, and counts once. With one seed the second
source is unknown; the interval is then marked as one over rows alone, and is too narrow. Where all
seeds start from one run of MNLI, the variance of that run is unknown too, and the interval says so.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.glue.plan import PREDICTIONS, Plan, other_cell
from rrr_lightning.glue.protocol import TaskSettings
from rrr_lightning.glue.results import COUNTED, GLUE, GLUE_LARGE, REPORTED, Array, Results

Indices = NDArray[np.int64]
Folders = Mapping[tuple[str, int], Path]
"""The folder of every run, by task and seed."""
RESAMPLES = 400
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Second checkpoint minus first.

    Attributes:
        name: A task, or the name of an average.
        value: The difference of the scores.
        rows_variance: Variance of the value over draws of the validation rows; with several seeds
            without what is in the variance over seeds as well.
        seeds_variance: The same over draws of the seeds, as far as it is known.
        freedom: Degrees of freedom of the variance over seeds.
        seeds: Number of pairs of runs; of an average, the least of its tasks.
        one_start: Whether all seeds of a task started from one run of MNLI.
        collapsed: Whether a network predicts one class for every row; then there is no interval.
    """

    name: str
    value: float
    rows_variance: float
    seeds_variance: float
    freedom: float
    seeds: int
    one_start: bool = False
    collapsed: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that holds the true difference in 95 of 100 cases.

        None where a network has collapsed: its predictions do not vary with rows, and its training
        has failed, which happens to a fraction of the seeds that few seeds do not tell.
        """
        if self.collapsed:
            return None
        variance = self.rows_variance + self.seeds_variance
        # Satterthwaite: the bootstrap counts as exact, the few seeds do not.
        known = self.seeds_variance > 0
        freedom = self.freedom * (variance / self.seeds_variance) ** 2 if known else math.inf
        half = float(student.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
        return self.value - half, self.value + half

    @property
    def over(self) -> str:
        """What chance the interval is over."""
        if self.collapsed:
            return "none: collapsed"
        over = "rows and seeds" if self.seeds > 1 else "rows alone"
        return f"{over}, after one run of MNLI" if self.one_start else over

    def as_json(self) -> dict[str, Any]:
        """Returns the difference as plain types."""
        low, high = self.interval or (None, None)
        return {
            "difference": self.value,
            "low": low,
            "high": high,
            "seeds": self.seeds,
            "over": self.over,
        }


def folders_of(plan: Plan, home: Path) -> Folders:
    """Returns the folder of every run of an evaluation, by task and seed."""
    return {(run.task, run.seed): run.folder for run in plan.runs(home)}


def compare(
    first: Results, second: Results, folders: tuple[Folders, Folders]
) -> tuple[list[Difference], list[Difference]]:
    """Returns the differences of tasks, and of averages, of two results with the same runs."""
    what = "has no task and seed in common with --out"
    check(bool(first.tasks), "--compare", first.checkpoint, "results of the same runs", what)
    tasks = []
    for result, other in zip(first.tasks, second.tasks, strict=True):
        seeds = list(result.scores)
        pairs = [_read_pair(result.task, seed, folders) for seed in seeds]
        _check_labels(result.task, seeds, [labels for *_, labels in pairs])
        one_start = result.settings["start"] == "mnli"
        difference = _difference(result.task, pairs)
        collapsed = bool(result.collapsed or other.collapsed)
        tasks.append(replace(difference, one_start=one_start, collapsed=collapsed))
    return tasks, _averages(tasks)


def _difference(task: str, pairs: Sequence[tuple[Mapping[str, Array], ...]]) -> Difference:
    """The difference of the scores of one task."""
    metrics = [metric for metric in REPORTED[task] if metric.name in COUNTED[task]]

    def differences(rows: Mapping[str, Indices]) -> list[float]:
        found = []
        for first, second, labels in pairs:
            each = []
            for metric in metrics:
                some = rows[metric.split]
                truth = labels[metric.split][some]
                before = metric(first[metric.split][some], truth)
                each.append(metric(second[metric.split][some], truth) - before)
            found.append(float(np.mean(each)))
        return found

    sizes = {metric.split: len(pairs[0][2][metric.split]) for metric in metrics}
    all_rows = {split: np.arange(size) for split, size in sizes.items()}
    by_seed = differences(all_rows)
    random = np.random.default_rng(0)
    drawn = [
        differences({split: random.integers(0, size, size) for split, size in sizes.items()})
        for _ in range(RESAMPLES)
    ]
    count = len(by_seed)
    spread = float(np.var(by_seed, ddof=1)) / count if count > 1 else 0.0
    rows = _rows_variance(np.array(drawn), spread)
    return Difference(task, float(np.mean(by_seed)), rows, spread, count - 1, count)


def _rows_variance(drawn: Array, spread: float) -> float:
    """The variance, over draws of rows, of what the variance over seeds does not hold.

    A seed varies over draws of rows by a part that all have in common and by one of its own; the
    mean of n seeds by the common part and an n-th of the other. The other is in the variance over
    seeds already, unless the seeds are more alike by chance than that.
    """
    count = drawn.shape[1]
    of_mean = float(np.var(np.mean(drawn, axis=1), ddof=1))
    if count == 1:
        return of_mean
    of_seed = float(np.mean(np.var(drawn, axis=0, ddof=1)))
    own = max(0.0, of_seed - of_mean) / (count - 1)
    rest: float = max(0.0, of_mean - own) + max(0.0, own - spread)
    return rest


def _averages(tasks: Sequence[Difference]) -> list[Difference]:
    """Differences of the averages for which every task is there, and of those that are there."""
    found = {each.name: each for each in tasks}
    here = tuple(task for task in GLUE if task in found)
    wanted = {"GLUE": GLUE, "GLUE-Large": GLUE_LARGE, "tasks here": here}
    return [
        _average(name, [found[task] for task in names])
        for name, names in wanted.items()
        if names and all(task in found for task in names)
    ]


def _average(name: str, parts: Sequence[Difference]) -> Difference:
    """The mean of differences that are taken as independent."""
    square = len(parts) ** 2
    spread = sum(part.seeds_variance for part in parts)
    known = [part for part in parts if part.seeds_variance]
    weight = sum(part.seeds_variance**2 / part.freedom for part in known)
    return Difference(
        name,
        float(np.mean([part.value for part in parts])),
        sum(part.rows_variance for part in parts) / square,
        spread / square,
        spread**2 / weight if known else 0.0,
        min(part.seeds for part in parts),
        any(part.one_start for part in parts),
        any(part.collapsed for part in parts),
    )


def _check_labels(task: str, seeds: Sequence[int], labels: Sequence[Mapping[str, Array]]) -> None:
    """Refuses seeds that were evaluated on different rows, which cannot be resampled together."""
    for seed, other in zip(seeds, labels, strict=True):
        check(
            all(np.array_equal(labels[0][split], other[split]) for split in other),
            "--compare",
            None,
            "runs on the same data",
            f"{task} was evaluated on other rows with seed {seed} than with seed {seeds[0]}",
        )


def _read_pair(
    task: str, seed: int, folders: tuple[Folders, Folders]
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Predictions of both runs and the labels, by split."""
    both = [read_predictions(each[task, seed], task, seed) for each in folders]
    splits = [metric.split for metric in REPORTED[task]]
    labels = [{split: each[f"{split}.labels"] for split in splits} for each in both]
    check(
        all(np.array_equal(labels[0][split], labels[1][split]) for split in splits),
        "--compare",
        str(folders[0][task, seed]),
        "runs on the same data",
        f"{task} was evaluated on other rows there",
    )
    first, second = ({split: each[f"{split}.predictions"] for split in splits} for each in both)
    return first, second, labels[0]


def read_predictions(folder: Path, task: str, seed: int) -> dict[str, Array]:
    """Returns what a run has predicted on its validation splits, and their labels."""
    path = folder / PREDICTIONS
    kinds = ("predictions", "labels")
    names = [f"{metric.split}.{kind}" for metric in REPORTED[task] for kind in kinds]
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: np.asarray(file[name], np.float64) for name in names}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"the predictions of {task}-{seed} cannot be read",
            key="--compare",
            found=str(path),
            accepted="two whole folders that `rrr glue --out` wrote",
        ) from error


def check_comparable(first: Plan, second: Plan, folder: Path) -> None:
    """Refuses two evaluations that have no comparable run."""
    common = [task for task in second.tasks if task in first.tasks]
    if not common:
        refuse(
            "--compare",
            ", ".join(first.tasks),
            ", ".join(second.tasks),
            "has no task in common with this call",
        )
    if first.data != second.data:
        _differs(folder, "results of other data", first.data, second.data)
    for task in common:
        _check_cells(task, first.tasks[task], second.tasks[task], folder, "other settings of")
    if any(second.tasks[task].start == "mnli" for task in common):
        if first.mnli_seed != second.mnli_seed:
            what = "another run of MNLI to start from: its seed"
            _differs(folder, what, first.mnli_seed, second.mnli_seed)
        before, now = first.cells.get("mnli"), second.cells.get("mnli")
        if before is not None and now is not None:
            _check_cells("mnli", before, now, folder, "a start from other settings of")
    seeds = {(task, seed) for task in common for seed in second.tasks[task].seeds}
    runs = [run for run in first.runs(folder) if run.reported and (run.task, run.seed) in seeds]
    if not runs:
        accepted = ", ".join(map(str, sorted({seed for _, seed in seeds})))
        what = "has no seed in common with this call"
        refuse("--compare", str(folder), f"runs with the seeds {accepted}", what)
    check(
        any(run.finished for run in runs),
        "--compare",
        str(folder),
        ", ".join(run.name for run in runs),
        "has no finished run of this call's tasks and seeds",
    )


def check_results(first: Plan, second: Plan, folders: tuple[Path, Path]) -> None:
    """Refuses results that cannot be compared, as far as is known before any job."""
    reported = [
        {(run.task, run.seed): run for run in plan.runs(home) if run.reported}
        for plan, home in zip((first, second), folders, strict=True)
    ]
    for key, run in reported[0].items():
        if key not in reported[1] or not run.finished:
            continue
        for task in (run.task, *([run.start.task] if run.start else [])):
            before, now = (plan.data_sha256.get(task, {}) for plan in (first, second))
            for split in before.keys() & now.keys():
                if before[split] != now[split]:
                    _differs(folders[0], f"other texts or labels of {task}", split, "the same")
        for each in (run, reported[1][key]):
            if each.finished:
                read_predictions(each.folder, each.task, each.seed)


def _check_cells(
    task: str, before: TaskSettings, now: TaskSettings, folder: Path, what: str
) -> None:
    """Refuses settings that differ, and names the first one."""
    other = other_cell(task, before, now)
    if other is not None:
        name, found, accepted = other
        _differs(folder, f"{what} {task}, such as {name}", found, accepted)


def _differs(folder: Path, what: str, found: object, accepted: object) -> None:
    refuse("--compare", found, str(accepted), f"{folder} has {what}")
