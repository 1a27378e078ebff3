"""The benchmark of jobs at once; that jobs do run at once is tested with the runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rrr_lightning.glue.plan import SETTINGS
from rrr_lightning.jobs import Failure, Job, Outcome, Places, find_places
from rrr_lightning.jobs.process import read_json
from tests.scripts.loading import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("benchmarks/parallel_jobs.py", monkeypatch)


def test_the_two_ways_alternate_with_new_jobs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ways, folders = [0.0], [], set()

    def run_jobs(jobs: Sequence[Job], home: Any, places: Places, stream: Any) -> Outcome:
        for job in jobs:
            told = read_json(job.folder / SETTINGS)
            assert (told["task"], told["max_steps"], told["max_length"]) == ("mrpc", 7, 16)
            assert str(job.folder / SETTINGS) == job.command[-1]
            assert not job.finished
            folders.add(job.folder)
        ways.append(len(places.environments))
        now[0] += 10.0 if ways[-1] == 1 else 5.0 + len(ways) / 10
        return Outcome(ran=len(jobs))

    monkeypatch.setattr(script, "run_jobs", run_jobs)
    monkeypatch.setattr(script.time, "perf_counter", lambda: now[0])
    file = tmp_path / "row.json"
    given = ("--checkpoint", "a.ckpt", "--repeats", "2", "--steps", "7", "--length", "16")
    monkeypatch.setattr("sys.argv", ["parallel_jobs", *given, "--json", str(file)])
    assert script.main() == 0
    assert ways == [1, 2, 2, 1]
    assert len(folders) == 8
    (row,) = json.loads(file.read_text())
    assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
    assert row["ratios"] == pytest.approx([0.52, 0.53])
    assert (row["n"], row["goal"]) == (2, pytest.approx(1 / 1.3))


def test_a_failed_job_ends_it(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome(failed={"mrpc-1": Failure(1, Path("log.txt"), "no")})
    monkeypatch.setattr(script, "run_jobs", lambda *_: failed)
    with pytest.raises(RuntimeError, match="a job has failed"):
        script.seconds(Path("a.ckpt"), Path("data"), Places(({},)), {})


def test_jobs_in_turn_may_have_one_thread(script: ModuleType) -> None:
    (environment,) = script.in_turn(1).environments
    assert environment["OMP_NUM_THREADS"] == "1"
    assert script.in_turn(None) == find_places("cpu:1")
