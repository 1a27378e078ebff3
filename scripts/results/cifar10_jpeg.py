"""A teacher, then baseline and distilled students of one budget, on the JPEG copy of CIFAR-10.

    python scripts/results/cifar10_jpeg.py --out runs/cifar10 --results docs/results/cifar10-jpeg

Every run is one `rrr fit`; finished runs are kept, so the command can be repeated. The metrics of
each run, and a table, go into the results folder. The data are found in `$RRR_DATA/cifar10`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from rrr_lightning.metrics_file import read_rows

SEEDS = (1, 2, 3)
# 1,920 steps without a teacher take as long as 1,170 steps with it; known from the first table.
ARMS = {"baseline": [], "distill": [], "longer": ["--trainer.max_steps", "1920"]}
HERE = Path(__file__).parent


def run(name: str, out: Path, config: str, *options: str) -> None:
    """Runs one `rrr fit` unless its folder holds the end of it."""
    folder = out / name
    if (folder / "seconds.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    data = Path(os.environ.get("RRR_DATA", HERE.parents[1] / ".." / "shared" / "data"))
    command = [sys.executable, "-m", "rrr_lightning", "fit", "--config", config]
    command += ["--data.source", str(data / "cifar10"), "--trainer.default_root_dir", str(folder)]
    command += ["--trainer.callbacks", '[{"class_path": "stopwatch.Stopwatch"}]']
    command += ["--trainer.enable_progress_bar", "false", *options]
    print(" ".join(command), flush=True)
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, check=True, env=environment)


def read(folder: Path) -> tuple[float, float, float]:
    """Returns (accuracy in percent, loss, training seconds) at the end of a run."""
    rows = [row for row in read_rows(folder / "metrics.csv")[1] if row["val/accuracy"]]
    seconds = json.loads((folder / "seconds.json").read_text())["training"]
    return 100 * float(rows[-1]["val/accuracy"]), float(rows[-1]["val/loss"]), seconds


def spread(values: list[float], digits: int = 2) -> str:
    """Returns mean ± standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def report(out: Path, results: Path) -> str:
    """Copies the raw logs and returns the table."""
    names = ["teacher", *(f"{arm}-{seed}" for arm in ARMS for seed in SEEDS)]
    for name in names:
        (results / name).mkdir(parents=True, exist_ok=True)
        for file in ("metrics.csv", "seconds.json"):
            shutil.copy(out / name / file, results / name / file)
    lines = [
        "| run | n | test accuracy, % | test loss | training seconds |",
        "| --- | --- | --- | --- | --- |",
        "| teacher | 1 | {:.2f} | {:.4f} | {:.0f} |".format(*read(out / "teacher")),
    ]
    for arm in ARMS:
        ends = zip(*(read(out / f"{arm}-{seed}") for seed in SEEDS), strict=True)
        accuracy, loss, seconds = (list(column) for column in ends)
        cells = (spread(accuracy), spread(loss, 4), spread(seconds, 0))
        lines.append(f"| {arm} | {len(SEEDS)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, str | int]:
    """Returns what the seconds depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line for line in lines if "model name" in line]
    return {
        "processor": model[0].partition(": ")[2] if model else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of logs and table")
    arguments = parser.parse_args()
    run("teacher", arguments.out, "cifar10/teacher.yaml")
    teacher = str(arguments.out / "teacher" / "checkpoints" / "last.ckpt")
    for arm, more in ARMS.items():
        config = "distill" if arm == "distill" else "baseline"
        teachers = ["--distillation.teachers", teacher] if arm == "distill" else []
        for seed in SEEDS:
            options = ["--seed_everything", str(seed), *teachers, *more]
            run(f"{arm}-{seed}", arguments.out, f"cifar10/{config}.yaml", *options)
    table = report(arguments.out, arguments.results)
    (arguments.results / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
    (arguments.results / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
