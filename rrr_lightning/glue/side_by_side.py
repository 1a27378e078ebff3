"""The report on two checkpoints: differences with intervals, as a table, JSON and a picture."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from rrr_lightning.glue.compare import Difference, compare
from rrr_lightning.glue.picture import draw
from rrr_lightning.glue.report import (
    SUBSET,
    SUBSET_NOTE,
    computed_in_words,
    official_name,
    percent,
    start_notes,
    table,
)
from rrr_lightning.glue.results import Results
from rrr_lightning.glue.scores import AVERAGED
from rrr_lightning.jobs.process import write_json

NAME = "comparison"


def write_comparison(
    first: Results, second: Results, folders: tuple[Path, Path], folder: Path
) -> str:
    """Writes `comparison.json`, `.md` and `.png`; returns the Markdown.

    Args:
        first: Results of the checkpoint that is compared with.
        second: Results of the checkpoint that is judged.
        folders: The output folders of both evaluations.
        folder: Where to write.

    Raises:
        InputError: The two cannot be compared.
    """
    first, second = _in_common(first, second)
    tasks, averages = compare(first, second, folders)
    text = markdown(first, second, tasks, averages)
    content = {
        "first": {"checkpoint": first.checkpoint, "folder": str(folders[0])},
        "second": {"checkpoint": second.checkpoint, "folder": str(folders[1])},
        "subset": bool(_subsets(first, second)),
        "tasks": {each.name: each.as_json() for each in tasks},
        "averages": {each.name: each.as_json() for each in averages},
    }
    write_json(folder / f"{NAME}.json", content, indent=1)
    (folder / f"{NAME}.md").write_text(text)
    draw([first, second], folder / f"{NAME}.png")
    return text


def markdown(
    first: Results, second: Results, tasks: list[Difference], averages: list[Difference]
) -> str:
    """Returns the comparison as Markdown, of two results that have the same tasks and seeds."""
    subsets = _subsets(first, second)
    rows = []
    for before, after, each in zip(first.tasks, second.tasks, tasks, strict=True):
        means = [sum(scores.values()) / len(scores) for scores in (before.scores, after.scores)]
        name = official_name(each.name) + (SUBSET if each.name in subsets else "")
        rows.append((name, *map(percent, means), *_cells(each)))
    for each in averages:
        mark = "" if subsets.isdisjoint(AVERAGED[each.name]) else SUBSET
        rows.append((f"**{each.name}**{mark}", "", "", *_cells(each)))
    header = ("task", "first", "second", "difference", "95 % interval", "seeds", "chance of")
    notes = [
        f"# {second.checkpoint} against {first.checkpoint}",
        "Scores and differences times 100, over the seeds that both have; second minus first.",
        table(header, rows),
        "Intervals over rows alone do not know how much another seed would change, and are too "
        "narrow.",
        *_computing_notes(first, second),
        *start_notes(second),
    ]
    if subsets:
        notes.append(SUBSET_NOTE)
    return "\n\n".join(notes) + "\n"


def _cells(each: Difference) -> tuple[str, ...]:
    low, high = (f"{100 * value:+.2f}" for value in each.interval)
    return f"{100 * each.value:+.2f}", f"{low} to {high}", str(each.seeds), each.over


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
            tasks.append(replace(result, values=values, computed=computed, missing=[]))
    return Results(results.checkpoint, results.protocol, tuple(tasks))
