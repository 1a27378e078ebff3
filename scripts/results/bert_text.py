"""A small BERT teacher, then students without it, with it early, and with it to the end, on text.

    python scripts/results/bert_text.py --out runs/bert-text --results docs/results/bert-text

Every run is one `rrr fit`; finished runs are kept, so the command can be repeated. The metrics of
each run, a table and a picture of validation losses go into the results folder. The text is found
in `$RRR_DATA/text`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _runs import data_folder, folders, keep, run, run_arms, table

from rrr_lightning.metrics_file import read_rows

SEEDS = (1, 2)
STEPS = ["--trainer.max_steps", "2000"]
# A line is one run; arms differ in style as well as in colour, for grey print.
STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("without a teacher", {"color": "0.45", "linestyle": "--", "marker": "s"}),
    "until-0.3": ("until 0.3", {"color": "tab:orange", "linestyle": "-", "marker": "^"}),
    "until-1.0": ("until 1.0", {"color": "#00306b", "linestyle": "-", "marker": "o"}),
}


def curve(folder: Path) -> tuple[list[int], list[float], list[float]]:
    """Returns steps done, seconds of training so far, and losses, at every validation of a run."""
    rows = [row for row in read_rows(folder / "metrics.csv")[1] if row["val/loss"]]
    losses = {int(row["step"]) + 1: float(row["val/loss"]) for row in rows}
    at = dict(json.loads((folder / "seconds.json").read_text())["at"])
    return list(losses), [at[step] for step in losses], list(losses.values())


def draw(results: Path) -> Path:
    """Draws every run of every arm, and returns the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for arm, (label, style) in STYLES.items():
        for number, folder in enumerate(sorted(results.glob(f"{arm}-*"))):
            steps, seconds, losses = curve(folder)
            given = {**style, "markersize": 4, "linewidth": 1.2, "markeredgewidth": 1.0}
            given["markerfacecolor"] = "white" if number else style["color"]
            left.plot(steps, losses, **given, label="_" if number else label)
            right.plot(seconds, losses, **given)
    teacher = curve(results / "teacher")
    for axes in (left, right):
        axes.axhline(teacher[2][-1], color="black", linestyle=":", linewidth=1.0)
        axes.spines[["top", "right"]].set_visible(False)
    named = f"the teacher, after {teacher[0][-1]:,} steps"
    left.annotate(named, (0, teacher[2][-1]), (2, 4), textcoords="offset points", fontsize=8)
    left.set(xlabel="optimizer steps", ylabel="validation masked-LM loss", xlim=(0, None))
    right.set(xlabel="seconds of training", xlim=(0, None))
    left.legend(frameon=False, title="teacher used (seeds: filled, open)", fontsize=8)
    path = results / "curves.png"
    figure.savefig(path, dpi=150)
    return path


def main() -> None:
    """Runs what is missing, then writes the table and the picture."""
    out, results = folders(__doc__)
    # The networks of the quickstart on real documents: small enough for a processor.
    data = ["--data.source", str(data_folder() / "text"), "--data.max_documents", "40000"]
    data += ["--data.max_val_documents", "2000", "--data.eval_batch_size", "256"]
    data += ["--trainer.val_check_interval", "200"]
    longer = ["--trainer.max_steps", "4000"]
    run(out / "teacher", "quickstart/bert_teacher.yaml", *data, *longer)
    teacher = str(out / "teacher" / "checkpoints" / "last.ckpt")
    distill = ["quickstart/bert_distill.yaml", *STEPS, "--distillation.teachers", teacher]
    arms = {
        "baseline": ["quickstart/bert_baseline.yaml", *STEPS],
        "until-0.3": [*distill, "--distillation.schedule.until", "0.3"],
        "until-1.0": [*distill, "--distillation.schedule.until", "1.0"],
    }
    run_arms(out, arms, SEEDS, data)
    keep(out, results, table(out, list(arms), SEEDS))
    print(draw(results))


if __name__ == "__main__":
    main()
