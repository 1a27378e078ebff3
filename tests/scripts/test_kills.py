"""A slice of the kills that `docs/results/kills.json` records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.scripts.loading import load_script

RECORD = Path(__file__).parents[2] / "docs" / "results" / "kills.json"


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["images", "two ranks"])
def test_runs_that_are_killed_resume_exactly(
    kind: str, tmp_path: Path, rrr_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RRR_DATA", str(rrr_data))
    script = load_script("results/kills.py", monkeypatch)
    records = script.campaign(tmp_path, 1, [kind])
    assert len(records) == 3
    for name, record in records.items():
        assert all(record[check] for check in script.CHECKS), (name, record)
    assert torch.get_num_threads() == 1


def test_the_record_counts_what_it_holds() -> None:
    content = json.loads(RECORD.read_text())
    assert content["kills"] == len(content["records"]) == 120
    for check in ("right_code", "within_interval", "resumed", "same_weights", "same_metrics"):
        assert content[check] == sum(record[check] for record in content["records"].values())
