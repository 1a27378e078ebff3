"""What the scripts of this folder share: run what is missing, keep the logs, write tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from rrr_lightning.metrics_file import read_rows

HERE = Path(__file__).parent
SEEDS = (1, 2, 3)
LOGS = ("metrics.csv", "seconds.json")


def data_folder() -> Path:
    """Returns the folder of real data: `RRR_DATA`, or `../shared/data` beside the checkout."""
    return Path(os.environ.get("RRR_DATA", HERE.parents[1] / ".." / "shared" / "data"))


def folders(about: str) -> tuple[Path, Path]:
    """Returns the folder of runs and that of results, from the command line."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of logs and tables")
    arguments = parser.parse_args()
    return arguments.out, arguments.results


def run(folder: Path, config: str, *options: str) -> None:
    """Runs one `rrr fit` unless its folder holds the end of it."""
    if (folder / "seconds.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "rrr_lightning", "fit", "--config", config]
    command += ["--trainer.default_root_dir", str(folder)]
    command += ["--trainer.callbacks", '[{"class_path": "_runs.Stopwatch"}]']
    command += ["--trainer.enable_progress_bar", "false", *options]
    print(" ".join(command), flush=True)
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, check=True, env=environment)


def run_arms(out: Path, arms: dict[str, list[str]], seeds: Sequence[int], data: list[str]) -> None:
    """Runs every arm, a configuration and its options, with every seed."""
    for arm, (config, *options) in arms.items():
        for seed in seeds:
            folder = out / f"{arm}-{seed}"
            run(folder, config, "--seed_everything", str(seed), *data, *options)


def table(out: Path, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """Returns accuracy in percent, loss and seconds at the end: mean ± standard deviation."""
    lines = [
        "| run | n | accuracy, % | loss | training seconds |",
        "| --- | --- | --- | --- | --- |",
        "| teacher | 1 | {:.2f} | {:.4f} | {:.0f} |".format(*_read(out / "teacher")),
    ]
    for arm in arms:
        ends = zip(*(_read(out / f"{arm}-{seed}") for seed in seeds), strict=True)
        accuracy, loss, seconds = (list(column) for column in ends)
        cells = (_spread(accuracy, 2), _spread(loss, 4), _spread(seconds, 0))
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def keep(out: Path, results: Path, text: str) -> None:
    """Copies the raw logs of all runs, and writes the table and the machine beside them."""
    for folder in sorted(path.parent for path in out.glob("*/seconds.json")):
        (results / folder.name).mkdir(parents=True, exist_ok=True)
        for name in LOGS:
            shutil.copy(folder / name, results / folder.name / name)
    (results / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
    (results / "table.md").write_text(text)
    print(text)


def _read(folder: Path) -> tuple[float, float, float]:
    rows = [row for row in read_rows(folder / "metrics.csv")[1] if row["val/accuracy"]]
    seconds = json.loads((folder / "seconds.json").read_text())["training"]
    return 100 * float(rows[-1]["val/accuracy"]), float(rows[-1]["val/loss"]), seconds


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


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


class Stopwatch(Callback):
    """Counts from the first to the last step, on the main process.

    The file holds the seconds of `training` and of `validation`, and in `at` for every validation
    the optimizer steps done and the seconds of training that they took.
    """

    def __init__(self) -> None:
        self._started = self._paused = 0.0
        self._validation = 0.0
        self._at: list[tuple[int, float]] = []

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts to count validation."""
        self._paused = time.perf_counter()
        if not trainer.sanity_checking:
            trained = self._paused - self._started - self._validation
            self._at.append((trainer.global_step, trained))

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends to count validation, the sanity check before training aside."""
        if not trainer.sanity_checking:
            self._validation += time.perf_counter() - self._paused

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Writes the file."""
        total = time.perf_counter() - self._started
        seconds = {
            "training": total - self._validation,
            "validation": self._validation,
            "at": self._at,
        }
        Path(trainer.default_root_dir, "seconds.json").write_text(json.dumps(seconds))
