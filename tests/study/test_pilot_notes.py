"""Notes of a pilot run: the metrics that it logs, and how large a validation is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli_runs import FIT, Command


def test_notes_of_a_short_validation(rrr: Command) -> None:
    rrr(
        *FIT,
        "--trainer.callbacks+=rrr_lightning.study.pilot_notes.PilotNotes",
        "--trainer.val_check_interval=4",
        "--data.eval_batch_size=100",
        "--trainer.limit_val_batches=2",
        "--trainer.default_root_dir=out",
    )
    notes = json.loads(Path("out/notes.json").read_text())
    assert (notes["batches"], notes["used"]) == (14, 2)  # 1,397 digits
    assert {"val/loss", "val/accuracy"} <= set(notes["metrics"])


def test_teachers_are_counted_by_step_and_not_by_forward_pass(rrr: Command) -> None:
    rrr(*FIT, "--trainer.default_root_dir=teacher")
    pool = ",".join(["teacher/checkpoints/last.ckpt"] * 4)
    rrr(
        *FIT,
        "--trainer.max_steps=16",
        "--trainer.callbacks+=rrr_lightning.study.pilot_notes.PilotNotes",
        "--data.micro_batch_size=20",
        f"--distillation.teachers=[{pool}]",
        "--distillation.pool.per_step=all",
        "--distillation.schedule.until=0.5",
        "--trainer.default_root_dir=out",
    )
    notes = json.loads(Path("out/notes.json").read_text())
    phase = json.loads(Path("out/ledger.json").read_text())["phases"]["teacher_forward"]
    assert phase["count"] == 8 * 2 * 4  # steps, micro-batches, teachers
    assert (notes["share"], notes["accumulation"]) == (0.5, 2)
    assert 0.2 * phase["seconds"] / 8 < notes["teacher_seconds"] < 2 * phase["seconds"] / 8
