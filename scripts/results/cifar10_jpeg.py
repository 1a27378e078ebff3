"""A teacher, then baseline and distilled students, on the JPEG copy of CIFAR-10.

    python scripts/results/cifar10_jpeg.py --out runs/cifar10 --results docs/results/cifar10-jpeg

Every run is one `rrr fit`; finished runs are kept, so the command can be repeated. The metrics of
each run, and a table, go into the results folder. The data are found in `$RRR_DATA/cifar10`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _runs import SEEDS, data_folder, keep, run, run_arms, table


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of logs and table")
    arguments = parser.parse_args()
    data = ["--data.source", str(data_folder() / "cifar10")]
    run(arguments.out / "teacher", "cifar10/teacher.yaml", *data)
    teacher = str(arguments.out / "teacher" / "checkpoints" / "last.ckpt")
    arms = {
        "baseline": ["cifar10/baseline.yaml"],
        "distill": ["cifar10/distill.yaml", "--distillation.teachers", teacher],
        # As long as `distill` takes; known from the first two arms.
        "longer": ["cifar10/baseline.yaml", "--trainer.max_steps", "1920"],
    }
    run_arms(arguments.out, arms, SEEDS, data)
    keep(arguments.out, arguments.results, table(arguments.out, list(arms), SEEDS))


if __name__ == "__main__":
    main()
