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
