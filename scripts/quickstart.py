"""Trains a teacher, a student without it and one with it, on digits that need no download.

    python scripts/quickstart.py --out runs/quickstart

Runs three `rrr fit` commands, prints what each reached and in how many seconds, and draws the
students' curves to `OUT/quickstart.png`. About a minute on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rrr_lightning.metrics_file import read_rows

RUNS = {
    "teacher": "ResNet-14, 1000 steps",
    "baseline": "ResNet-8, 50 steps",
    "distill": "ResNet-8, 50 steps, with the teacher",
}


def run(name: str, out: Path) -> float:
    """Runs one shipped configuration anew; returns the seconds of the whole command."""
    folder = out / name
    if (folder / "config.yaml").exists():
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "rrr_lightning", "fit", "--config", f"quickstart/{name}.yaml"]
    command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    command += ["--trainer.enable_model_summary=false"]
    if name == "distill":
        command.append(f"--distillation.teachers={out}/teacher/checkpoints/last.ckpt")
    start = time.perf_counter()
    # Images of 8 x 8 pixels are too small to share among threads, which would wait for each other.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def curve(folder: Path, metric: str) -> tuple[list[int], list[float]]:
    """Returns steps done and values of a metric."""
    _, rows = read_rows(folder / "metrics.csv")
    points = [(int(row["step"]) + 1, float(row[metric])) for row in rows if row[metric]]
    return [step for step, _ in points], [value for _, value in points]


def draw(out: Path) -> Path:
    """Draws validation loss and distillation weight, in styles that grey print tells apart."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(
        2, sharex=True, figsize=(6.4, 4.8), height_ratios=(3, 1), layout="constrained"
    )
    top.plot(*curve(out / "baseline", "val/loss"), "s--", color="0.45", label="without a teacher")
    top.plot(*curve(out / "distill", "val/loss"), "o-", color="tab:blue", label="distilled")
    teacher = curve(out / "teacher", "val/loss")[1][-1]
    top.axhline(teacher, color="black", linestyle=":", label="the teacher, after 1000 steps")
    top.set(ylabel="validation loss", yscale="log")
    top.set_yticks([0.1, 0.2, 0.5, 1, 2], labels=["0.1", "0.2", "0.5", "1", "2"])
    top.minorticks_off()
    top.legend(frameon=False)
    steps, weights = curve(out / "distill", "train/distillation_weight")
    starts = [step - 1 for step in steps]
    bottom.fill_between([*starts, steps[-1]], [*weights, 0], step="post", color="0.8")
    bottom.set(xlabel="optimizer steps", ylabel="weight of\ndistillation", ylim=(0, 1))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    path = out / "quickstart.png"
    figure.savefig(path, dpi=150)
    return path


def main() -> None:
    """Runs, prints and draws."""
    parser = argparse.ArgumentParser(description="Runs the quickstart.")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    out: Path = parser.parse_args().out
    print(f"{'run':<10}{'what':<40}{'loss':>8}{'accuracy':>10}{'seconds':>9}")
    for name, what in RUNS.items():
        seconds = run(name, out)
        loss, accuracy = (curve(out / name, f"val/{key}")[1][-1] for key in ("loss", "accuracy"))
        print(f"{name:<10}{what:<40}{loss:>8.3f}{accuracy:>10.1%}{seconds:>9.1f}", flush=True)
    print(f"Loss and accuracy are those of 1,397 validation digits. Curves: {draw(out)}")


if __name__ == "__main__":
    main()
