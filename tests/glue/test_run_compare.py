"""What keeps two checkpoints from being set side by side is said before any job starts."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue import run as module
from rrr_lightning.glue.plan import PREDICTIONS
from rrr_lightning.glue.run import evaluate
from tests.data.glue_files import write_parquet
from tests.glue.made import run_folder
from tests.glue.tiny import SETTINGS_OF_TESTS, run_here


def run(body: str, data: Path, out: Path, **more: Any) -> str:
    stream = io.StringIO()
    given: dict[str, Any] = {"protocol": "quick", "settings": SETTINGS_OF_TESTS}
    given |= {"devices": "cpu:1", "stream": stream, "tasks": "rte"}
    evaluate(body, str(data), out, **given, **more)
    return stream.getvalue()


def no_job(*given: object) -> NoReturn:
    raise AssertionError("a job has started")


def test_before_any_job(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_jobs", run_here)
    some, first, second = tmp_path / "data", tmp_path / "first", tmp_path / "second"
    shutil.copytree(data, some)
    run(body, some, first)
    monkeypatch.setattr(module, "run_jobs", no_job)
    predictions = run_folder(first, "rte-3") / PREDICTIONS
    predictions.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--compare: the predictions of rte-3 cannot be read"):
        run(body, some, second, compare_with=first)
    (tmp_path / "elsewhere").rename(predictions)
    write_parquet(some, "rte", 40, 24)
    with pytest.raises(InputError, match=r"has other texts or labels of rte; found 'train'"):
        run(body, some, second, compare_with=first)
    assert not second.exists()
    shutil.rmtree(some)
    shutil.copytree(data, some)
    monkeypatch.setattr(module, "run_jobs", run_here)
    assert "against" in run(body, some, second, compare_with=first)
