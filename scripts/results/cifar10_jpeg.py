"""A teacher, then baseline and distilled students, on the JPEG copy of CIFAR-10.

    python scripts/results/cifar10_jpeg.py --out runs/cifar10 --results docs/results/cifar10-jpeg

Every run is one `rrr fit`; finished runs are kept, so the command can be repeated. The metrics of
each run, and a table, go into the results folder. The data are found in `$RRR_DATA/cifar10`.
"""

from __future__ import annotations

from _runs import SEEDS, data_folder, folders, keep, run, run_arms, table


def main() -> None:
    """Runs what is missing, then writes the table."""
    out, results = folders(__doc__)
    data = ["--data.source", str(data_folder() / "cifar10")]
    run(out / "teacher", "cifar10/teacher.yaml", *data)
    teacher = str(out / "teacher" / "checkpoints" / "last.ckpt")
    arms = {
        "baseline": ["cifar10/baseline.yaml"],
        "distill": ["cifar10/distill.yaml", "--distillation.teachers", teacher],
        # As long as `distill` takes; known from the first two arms.
        "longer": ["cifar10/baseline.yaml", "--trainer.max_steps", "1920"],
    }
    run_arms(out, arms, SEEDS, data)
    keep(out, results, table(out, list(arms), SEEDS))


if __name__ == "__main__":
    main()
