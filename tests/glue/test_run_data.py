"""Runs on other rows than those that have finished do not get into their folder."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue import run as module
from rrr_lightning.glue.run import evaluate
from tests.data.glue_files import write_parquet
from tests.glue.tiny import SETTINGS_OF_TESTS, run_here


def test_data_that_change_under_their_path_are_refused(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_jobs", run_here)

    def run(settings: dict[str, Any]) -> None:
        given: dict[str, Any] = {"tasks": "cola", "protocol": "quick", "settings": settings}
        evaluate(body, str(some), tmp_path / "out", **given, devices="cpu:1", stream=io.StringIO())

    some = tmp_path / "data"
    shutil.copytree(data, some)
    run(SETTINGS_OF_TESTS)
    table = datasets.Dataset.from_parquet(str(some / "cola" / "validation.parquet"))
    more = {"every_task": {**SETTINGS_OF_TESTS["every_task"], "seeds": [3, 4]}}
    flipped = [1 - table["label"][0], *table["label"][1:]]
    table.remove_columns("label").add_column("label", flipped).to_parquet(
        str(some / "cola" / "validation.parquet")
    )
    with pytest.raises(InputError) as refused:
        run(more)
    assert str(refused.value) == (
        "--data: has other texts or labels than when runs of cola finished in --out; found "
        "'validation'; accepted: the rows as they were, or another --out"
    )
    write_parquet(some, "cola", 40, 24)
    with pytest.raises(InputError, match=r"--data: has other texts or labels .*; found 'train'"):
        run(more)
    assert not list((tmp_path / "out").glob("jobs/cola-4-*"))
