"""A small BERT teacher, then students without it, with it early, and with it to the end, on text.

    python scripts/results/bert_text.py --out runs/bert-text --results docs/results/bert-text

Every run is one `rrr fit`; finished runs are kept, so the command can be repeated. The metrics of
each run, and a table, go into the results folder. The text is found in `$RRR_DATA/text`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _runs import data_folder, keep, run, run_arms, table

SEEDS = (1, 2)
STEPS = ["--trainer.max_steps", "2000"]


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of logs and table")
    arguments = parser.parse_args()
    # The networks of the quickstart on real documents: small enough for a processor.
    data = ["--data.source", str(data_folder() / "text"), "--data.max_documents", "40000"]
    data += ["--data.max_val_documents", "2000", "--data.eval_batch_size", "256"]
    data += ["--trainer.val_check_interval", "200"]
    longer = ["--trainer.max_steps", "4000"]
    run(arguments.out / "teacher", "quickstart/bert_teacher.yaml", *data, *longer)
    teacher = str(arguments.out / "teacher" / "checkpoints" / "last.ckpt")
    distill = ["quickstart/bert_distill.yaml", *STEPS, "--distillation.teachers", teacher]
    arms = {
        "baseline": ["quickstart/bert_baseline.yaml", *STEPS],
        "until-0.3": [*distill, "--distillation.schedule.until", "0.3"],
        "until-1.0": [*distill, "--distillation.schedule.until", "1.0"],
    }
    run_arms(arguments.out, arms, SEEDS, data)
    keep(arguments.out, arguments.results, table(arguments.out, list(arms), SEEDS))


if __name__ == "__main__":
    main()
