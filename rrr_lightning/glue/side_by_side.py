"""The report on two checkpoints: differences with intervals, as a table, JSON and a picture."""

from __future__ import annotations

from pathlib import Path

from rrr_lightning.glue.compare import Difference, compare
from rrr_lightning.glue.picture import draw
from rrr_lightning.glue.report import (
    SUBSET,
    SUBSET_NOTE,
    official_name,
    percent,
    start_notes,
    table,
)
from rrr_lightning.glue.results import Results, TaskResult
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
    tasks, averages = compare(first, second, folders)
    text = markdown(first, second, tasks, averages)
    content = {
        "first": {"checkpoint": first.checkpoint, "folder": str(folders[0])},
        "second": {"checkpoint": second.checkpoint, "folder": str(folders[1])},
        "subset": bool(_subsets(first, second) & {each.name for each in tasks}),
        "tasks": {each.name: each.as_json() for each in tasks},
        "averages": {each.name: each.as_json() for each in averages},
    }
    write_json(folder / f"{NAME}.json", content)
    (folder / f"{NAME}.md").write_text(text)
    names = [each.name for each in tasks]
    draw([_only(first, names), _only(second, names)], folder / f"{NAME}.png")
    return text


def markdown(
    first: Results, second: Results, tasks: list[Difference], averages: list[Difference]
) -> str:
    """Returns the comparison as Markdown."""
    found = {result.task: (result, _of(second, result.task)) for result in first.tasks}
    subsets = _subsets(first, second)
    rows = []
    for each in tasks:
        before, after = (result.scores for result in found[each.name] if result is not None)
        both = [seed for seed in before if seed in after]
        means = [sum(scores[seed] for seed in both) / len(both) for scores in (before, after)]
        name = official_name(each.name) + (SUBSET if each.name in subsets else "")
        rows.append((name, *map(percent, means), *_cells(each)))
    for each in averages:
        mark = SUBSET if subsets & {task.name for task in tasks} else ""
        rows.append((f"**{each.name}**{mark}", "", "", *_cells(each)))
    header = ("task", "first", "second", "difference", "95 % interval", "seeds", "chance of")
    notes = [
        f"# {second.checkpoint} against {first.checkpoint}",
        "Scores and differences times 100, over the seeds that both have; second minus first.",
        table(header, rows),
        "Intervals over rows alone do not know how much another seed would change, and are too "
        "narrow.",
        *start_notes(_only(second, [each.name for each in tasks])),
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


def _of(results: Results, task: str) -> TaskResult | None:
    return next((result for result in results.tasks if result.task == task), None)


def _only(results: Results, tasks: list[str]) -> Results:
    kept = tuple(result for result in results.tasks if result.task in tasks)
    return Results(results.checkpoint, results.protocol, kept)
