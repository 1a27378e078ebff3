"""The report that people read: one table of tasks, one of averages, and a picture.

Subset data are marked in every row they touch, for such numbers must not be compared with those of
papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import numpy as np

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.compare import Difference, Folders, compare
from rrr_lightning.glue.results import (
    AVERAGED,
    COUNTED,
    Average,
    Results,
    TaskResult,
    mean_and_deviation,
    write_files,
)
from rrr_lightning.jobs.process import write_json

MARKDOWN, PICTURE, COMPARISON = "glue.md", "glue.png", "comparison"
FILLS = ("0.8", "0.45")
HATCHES = ("", "///")
SUBSET = " ‡"
SUBSET_NOTE = (
    "‡ A subset of the official data was trained or judged on: not a GLUE result, and not to be "
    "compared with published numbers."
)
COLLAPSED = " †"
COLLAPSED_NOTE = (
    "† No interval: where a network has collapsed its training has failed, and the spread of so "
    "few seeds does not tell how often that happens."
)
START_NOTE = (
    "start from one run of MNLI: the chance in that run is in no spread, no error and no interval."
)
WORDS = {
    "accuracy": "accuracy",
    "accuracy_mismatched": "accuracy, mismatched",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def write_report(results: Results, folder: Path) -> str:
    """Writes `glue.json`, `glue.csv`, `glue.md` and `glue.png`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    write_files(results, folder)
    text = markdown(results)
    (folder / MARKDOWN).write_text(text)
    if results.tasks:
        draw([results], folder / PICTURE)
    return text


def markdown(results: Results) -> str:
    """Returns the report as Markdown."""
    title = f"# GLUE: {results.checkpoint}\n\nProtocol: {results.protocol}. Validation splits, "
    parts = [
        title + "end of training, times 100; mean ± standard deviation over seeds.",
        table(
            ("task", "metric", "mean ± std", "each seed", "rows trained", "rows judged"),
            [row for result in results.tasks for row in _task_rows(result)],
        ),
        table(("average", "value ± standard error", "of what"), _average_rows(results)),
    ]
    return "\n\n".join([*parts, *_notes(results), _settings_table(results)]) + "\n"


def start_notes(results: Results) -> list[str]:
    """Returns what has to be said of tasks that start from MNLI: nothing, or one sentence."""
    tasks = [each.task for each in results.tasks if each.settings["start"] == "mnli"]
    return [f"{', '.join(map(official_name, tasks))} {START_NOTE}"] if tasks else []


def official_name(task: str) -> str:
    """Returns the name that the benchmark gives a task."""
    return TASKS[task].folder


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Returns seeds as a report names them.

    >>> seeds_in_words([2]), seeds_in_words([2, 19])
    ('seed 2', 'seeds 2, 19')
    """
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def computed_in_words(result: TaskResult) -> str:
    """Returns the devices and precisions in which the runs of a task were computed."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for seed, how in result.computed.items():
        seeds.setdefault(how, []).append(seed)
    return "; ".join(
        f"on {device} in {precision}: {seeds_in_words(each)}"
        for (device, precision), each in seeds.items()
    )


def percent(value: float | None, spread: float | None = None) -> str:
    """Returns a fraction times 100.

    >>> percent(0.8315, 0.0042), percent(0.5), percent(None)
    ('83.15 ± 0.42', '50.00', '–')
    """
    if value is None:
        return "–"
    return f"{100 * value:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown, with columns as wide as their widest cell."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    head = [cell.ljust(width) for cell, width in zip(header, widths, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _notes(results: Results) -> list[str]:
    """What has to be said below the tables."""
    notes = []
    if any(result.is_subset for result in results.tasks):
        notes.append(SUBSET_NOTE)
    for result in results.tasks:
        name = official_name(result.task)
        if result.uneven:
            notes.append(f"{name}: its seeds had different numbers of rows; the last is shown.")
        if result.missing:
            notes.append(f"{name}: no result of {seeds_in_words(result.missing)}.")
        notes += _collapsed_notes(result)
        if len(set(result.computed.values())) > 1:
            notes.append(f"{name} was computed in different ways: {computed_in_words(result)}.")
    if results.without:
        names = ", ".join(official_name(task) for task in results.without)
        notes.append(f"No result of {names}.")
    if any(len(result.values) > len(COUNTED[result.task]) for result in results.tasks):
        notes.append("Metrics in brackets are shown and not counted in the score of their task.")
    return notes + start_notes(results)


def _collapsed_notes(result: TaskResult, whose: str = "") -> list[str]:
    """The sentence on the networks of a task that have collapsed, if there are any."""
    if not result.collapsed:
        return []
    one = "one class" if TASKS[result.task].labels else "one score"
    networks, predict = "the network", f"has collapsed: it predicts {one}"
    if len(result.collapsed) > 1:
        networks, predict = "the networks", f"have collapsed: each predicts {one}"
    return [
        f"† {official_name(result.task)}: {networks} of {whose}"
        f"{seeds_in_words(result.collapsed)} {predict} for every row of the validation splits."
    ]


def _task_rows(result: TaskResult) -> list[tuple[str, ...]]:
    rows = []
    for metric, by_seed in result.values.items():
        counted = metric in COUNTED[result.task]
        words = WORDS[metric] if counted else f"({WORDS[metric]})"
        seeds = ", ".join(f"{seed}: {percent(value)}" for seed, value in by_seed.items())
        value = percent(*mean_and_deviation(list(by_seed.values())))
        rows.append((words, value, seeds))
    if len(COUNTED[result.task]) > 1:
        scores = list(result.scores.values())
        seeds = ", ".join(f"{seed}: {percent(each)}" for seed, each in result.scores.items())
        rows.append(("**score**", percent(*mean_and_deviation(scores)), seeds))
    about = (f"{result.trained_rows:,}", f"{result.judged_rows:,}")
    return [(_marked(result), *row, *about) for row in rows]


def _marked(result: TaskResult) -> str:
    mark = SUBSET if result.is_subset else ""
    return official_name(result.task) + mark + (COLLAPSED if result.collapsed else "")


def _start(result: TaskResult) -> str:
    """What the task starts from, with the rows that MNLI was trained and judged on."""
    start = result.start
    if start is None:
        return str(result.settings["start"])
    return f"mnli (rows: {start.trained_rows:,}, {start.judged_rows:,})"


def _average_rows(results: Results) -> list[tuple[str, str, str]]:
    subsets = {result.task for result in results.tasks if result.is_subset}
    collapsed = {result.task for result in results.tasks if result.collapsed}
    rows = []
    for average in results.averages:
        given = average.value is not None
        mark = SUBSET if given and not subsets.isdisjoint(average.tasks) else ""
        mark += COLLAPSED if given and not collapsed.isdisjoint(average.tasks) else ""
        what = average.what
        if average.missing and not given:
            what += f"; missing: {', '.join(map(official_name, average.missing))}"
        if average.alone:
            what += f"; no error: one seed of {', '.join(map(official_name, average.alone))}"
        value = percent(average.value, average.error) + (_without(average) if given else "")
        rows.append((average.name + mark, value, what))
    return rows


def _without(average: Average) -> str:
    """What a mean was taken without, so that nobody reads it as complete."""
    absent = [
        *map(official_name, average.missing),
        *(
            f"{official_name(task)} {seeds_in_words(seeds)}"
            for task, seeds in average.missing_seeds.items()
        ),
    ]
    return f" (without {'; '.join(absent)})" if absent else ""


def _settings_table(results: Results) -> str:
    names = (
        "epochs",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "warmup_fraction",
        "max_length",
        "max_steps",
        "dropout",
    )
    rows = [
        (
            _marked(result),
            *(_plain(result.settings[name]) for name in names),
            _different(device for device, _ in result.computed.values()),
            _different(precision for _, precision in result.computed.values()),
            _start(result),
        )
        for result in results.tasks
    ]
    words = (name.replace("_", " ") for name in names)
    return table(("task", *words, "device", "precision", "start"), rows)


def _different(words: Iterable[str]) -> str:
    """The different ones among what the runs of a task have recorded."""
    return ", ".join(dict.fromkeys(words)) or "–"


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw(results: Sequence[Results], path: Path) -> None:
    """Draws the scores of every task, side by side where there are two results."""
    from matplotlib.figure import Figure

    names = [result.task for result in results[0].tasks]
    figure = Figure(figsize=(max(4.0, 1.1 * len(names) + 1.5), 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(results)
    for number, each in enumerate(results):
        scores = {result.task: list(result.scores.values()) for result in each.tasks}
        places = np.arange(len(names)) + (number - (len(results) - 1) / 2) * width
        means = [100 * float(np.mean(scores[name])) for name in names]
        axes.bar(
            places,
            means,
            0.92 * width,
            color=FILLS[number],
            edgecolor="black",
            linewidth=0.8,
            hatch=HATCHES[number],
            label=each.checkpoint,
        )
        for place, name, mean in zip(places, names, means, strict=True):
            values = [100 * score for score in scores[name]]
            axes.scatter(
                np.full(len(values), place),
                values,
                s=16,
                color="white",
                edgecolor="black",
                zorder=3,
            )
            top = max(0.0, *values)
            axes.annotate(
                f"{mean:.1f}", (place, top), (0, 4), textcoords="offset points", ha="center",
                fontsize=8,
            )  # fmt: skip
    labels = [
        TASKS[result.task].folder
        + (" ‡" if any(_is_subset(e, result.task) for e in results) else "")
        for result in results[0].tasks
    ]
    axes.set_xticks(np.arange(len(names)), labels)
    axes.set_ylabel("score × 100")
    axes.margins(y=0.12)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"GLUE validation, {results[0].protocol}"
    if any(label.endswith("‡") for label in labels):
        title += " (‡ subset of the data)"
    axes.set_title(title, fontsize=10)
    if len(results) > 1:
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, dpi=150)


def _is_subset(results: Results, task: str) -> bool:
    return any(result.is_subset for result in results.tasks if result.task == task)


def write_comparison(
    first: Results, second: Results, folders: tuple[Folders, Folders], folder: Path
) -> str:
    """Writes `comparison.json`, `.md` and `.png`; returns the Markdown."""
    first, second = _in_common(first, second)
    tasks, averages = compare(first, second, folders)
    text = comparison_markdown(first, second, tasks, averages)
    content = {
        "first": {"checkpoint": first.checkpoint},
        "second": {"checkpoint": second.checkpoint},
        "subset": bool(_subsets(first, second)),
        "tasks": {each.name: each.as_json() for each in tasks},
        "averages": {each.name: each.as_json() for each in averages},
    }
    write_json(folder / f"{COMPARISON}.json", content, indent=1)
    (folder / f"{COMPARISON}.md").write_text(text)
    draw([first, second], folder / f"{COMPARISON}.png")
    return text


def comparison_markdown(
    first: Results, second: Results, tasks: list[Difference], averages: list[Difference]
) -> str:
    """Returns the comparison as Markdown, of two results that have the same tasks and seeds."""
    subsets = _subsets(first, second)
    rows = []
    for before, after, each in zip(first.tasks, second.tasks, tasks, strict=True):
        means = [sum(scores.values()) / len(scores) for scores in (before.scores, after.scores)]
        name = official_name(each.name) + (SUBSET if each.name in subsets else "")
        name += COLLAPSED if each.collapsed else ""
        rows.append((name, *map(percent, means), *_cells(each)))
    for each in averages:
        mark = "" if subsets.isdisjoint(AVERAGED[each.name]) else SUBSET
        mark += COLLAPSED if each.collapsed else ""
        rows.append((f"**{each.name}**{mark}", "", "", *_cells(each)))
    header = ("task", "first", "second", "difference", "95 % interval", "seeds", "interval over")
    notes = [
        f"# {second.checkpoint} against {first.checkpoint}",
        "Scores and differences times 100, over the seeds that both have; second minus first.",
        table(header, rows),
        "Intervals over rows alone do not know how much another seed would change, and are too "
        "narrow.",
        *_computing_notes(first, second),
        *(
            note
            for results, whose in ((first, "first, "), (second, "second, "))
            for result in results.tasks
            for note in _collapsed_notes(result, whose)
        ),
        *start_notes(second),
    ]
    if any(each.collapsed for each in tasks):
        notes.append(COLLAPSED_NOTE)
    if subsets:
        notes.append(SUBSET_NOTE)
    return "\n\n".join(notes) + "\n"


def _cells(each: Difference) -> tuple[str, ...]:
    interval = "–"
    if each.interval is not None:
        interval = " to ".join(f"{100 * value:+.2f}" for value in each.interval)
    return f"{100 * each.value:+.2f}", interval, str(each.seeds), each.over


def _subsets(first: Results, second: Results) -> set[str]:
    """The tasks of which one of the two had a subset of the official data."""
    return {each.task for each in (*first.tasks, *second.tasks) if each.is_subset}


def _computing_notes(first: Results, second: Results) -> list[str]:
    """The tasks of which a pair of runs had different devices or precisions."""
    notes = []
    for before, after in zip(first.tasks, second.tasks, strict=True):
        known = before.computed.keys() & after.computed.keys()
        if any(before.computed[seed] != after.computed[seed] for seed in known):
            notes.append(
                f"{official_name(before.task)} was computed in different ways: "
                f"first {computed_in_words(before)}; second {computed_in_words(after)}."
            )
    return notes


def _in_common(first: Results, second: Results) -> tuple[Results, Results]:
    """Both with the tasks and seeds alone that both have."""
    runs = [
        {(result.task, seed) for result in each.tasks for seed in result.scores}
        for each in (first, second)
    ]
    return _only(first, runs[0] & runs[1]), _only(second, runs[0] & runs[1])


def _only(results: Results, runs: AbstractSet[tuple[str, int]]) -> Results:
    tasks = []
    for result in results.tasks:
        seeds = [seed for seed in result.scores if (result.task, seed) in runs]
        values = {
            name: {seed: by_seed[seed] for seed in seeds} for name, by_seed in result.values.items()
        }
        computed = {seed: how for seed, how in result.computed.items() if seed in seeds}
        if seeds:
            collapsed = [seed for seed in result.collapsed if seed in seeds]
            kept = replace(result, values=values, computed=computed, collapsed=collapsed)
            tasks.append(replace(kept, missing=[]))
    return Results(results.checkpoint, results.protocol, tuple(tasks))
