"""Batches: what is left, in processes that are worth their start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rrr_lightning.study.batches import LEAST_SECONDS, MOST_SECONDS, make_jobs, runs_to_do
from rrr_lightning.study.plan import Run, make_plan
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content

STUDY = make_study(content())


def plan(home: Path) -> tuple[Run, ...]:
    return make_plan(STUDY, home)


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def jobs(home: Path, runs: Any, seconds: float, places: int = 2) -> list[Any]:
    expected = {run.name: seconds for run in runs}
    return make_jobs(runs, expected, home, STUDY.quality, places)


def test_everything_is_left_at_first_and_nothing_in_the_end(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    assert runs_to_do(runs, ()) == (list(runs), [])
    assert runs_to_do(runs, names(list(runs))) == ([], [])


def test_a_teacher_is_trained_again_only_if_a_run_needs_it(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    recorded = [run.name for run in runs if run.name != "distilled-8-2"]
    left, again = runs_to_do(runs, recorded)
    assert (names(left), names(again)) == (["longer-901", "distilled-8-2"], ["longer-901"])
    recorded = [run.name for run in runs if run.name != "baseline-8-2"]
    left, again = runs_to_do(runs, recorded)
    assert (names(left), again) == (["baseline-8-2"], [])
    teacher = runs[0]
    teacher.checkpoint.parent.mkdir(parents=True)
    teacher.checkpoint.touch()
    left, again = runs_to_do(runs, [run.name for run in runs if run.name != "distilled-8-2"])
    assert (names(left), again) == (["distilled-8-2"], [])


def test_short_runs_share_a_process_and_long_ones_do_not(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    short = jobs(tmp_path, runs, 1.0)
    assert [job.name for job in short] == ["longer-901", "baseline-4-1+7", "distilled-4-1+7"]
    assert len(jobs(tmp_path, runs, LEAST_SECONDS, places=9)) == len(runs)
    assert len(jobs(tmp_path, runs, MOST_SECONDS, places=1)) == len(runs)


def test_students_wait_for_their_teachers_alone(tmp_path: Path) -> None:
    teacher, plain, taught = jobs(tmp_path, plan(tmp_path), 1.0)
    assert (teacher.needs, plain.needs, taught.needs) == ((), (), ("longer-901",))
    (alone,) = jobs(tmp_path, [run for run in plan(tmp_path) if run.arm == "distilled"], 1.0)
    assert alone.needs == ()


def test_a_marker_of_an_earlier_call_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "longer-901"
    folder.mkdir(parents=True)
    (folder / "done.json").write_text("{}")
    job = jobs(tmp_path, plan(tmp_path)[:1], 1.0)[0]
    assert job.folder == folder
    assert not job.finished
    (told,) = json.loads((folder / "batch.json").read_text())
    assert told["config"]["trainer"]["default_root_dir"] == str(tmp_path / "runs" / "longer-901")
    assert told["command"] is None
