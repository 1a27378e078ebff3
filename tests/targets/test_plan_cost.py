"""The ledger of the writing goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from tests.targets.runs import classifier, write


def test_more_steps_are_paid_on_top(tmp_path: Path) -> None:
    teachers = [classifier(7)]
    ledgers = []
    for steps in (6, 9, 9):
        write(tmp_path, teachers, steps=steps)
        ledgers.append(json.loads((tmp_path / "ledger.json").read_text()))
    first, second, third = ledgers
    assert (first["steps"], second["steps"]) == (4, 6)
    assert (first["samples"], second["samples"]) == (48, 72)
    assert second["flops"]["teacher"] == 1.5 * first["flops"]["teacher"]
    assert second["run"] == first["run"]
    assert second["redone_steps"] == 0
    assert second["phases"]["data_wait"]["count"] >= 6
    assert third == second
