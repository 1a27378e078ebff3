"""The picture of one or two results: a dot for every seed, a bar for the mean, readable in grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.results import Results

FILLS = ("0.8", "0.45")
HATCHES = ("", "///")


def draw(results: Sequence[Results], path: Path) -> None:
    """Draws the scores of every task, side by side where there are two results.

    Args:
        results: One result, or two of the same tasks.
        path: The file to write.
    """
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
