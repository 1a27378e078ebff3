"""A folder has one runner at a time, and a folder that cannot be one is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import hold
from rrr_lightning.jobs.locks import RUNNER_LOCK, holder
from tests.jobs.commands import job, journal, run


def test_one_runner_at_a_time(tmp_path: Path) -> None:
    home = tmp_path / "new"
    with hold(home) as held:
        assert (holder(home / RUNNER_LOCK) or {})["name"] == held.name
        with pytest.raises(InputError) as refused, hold(home):
            pass
        assert f"process {os.getpid()} on " in str(refused.value)
        with pytest.raises(InputError, match="is running the jobs of this folder already"):
            run(home, job(home, "a"))
        outcome, _ = run(home, job(home, "a"), held=held)
        assert outcome.complete
        assert holder(home / RUNNER_LOCK) is not None
    assert holder(home / RUNNER_LOCK) is None
    assert journal(home) == ["a"]


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_what_can_be_no_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = r"--out: cannot be written to \(.+\); found"
    with pytest.raises(InputError, match=line), hold(tmp_path / name):
        pass
