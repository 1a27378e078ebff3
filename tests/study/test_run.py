"""The whole way with runs that do not train: what is run, resumed, refused and reported."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study import advise, run, worker
from rrr_lightning.study.config import make_study
from rrr_lightning.study.plan import PlannedRun, make_plan
from rrr_lightning.study.run import (
    LEAST_SECONDS,
    MOST_SECONDS,
    check_folder,
    claim_folder,
    make_jobs,
    open_study,
    report,
    run_study,
    runs_to_do,
)
from tests.study.pretend import Pretend, in_this_process
from tests.study.studies import content, write


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, few_replicates: None) -> Pretend:
    pretend = Pretend()
    monkeypatch.setattr(worker, "forked", pretend)
    for module in (run, advise):
        monkeypatch.setattr(module, "run_jobs", in_this_process)
    monkeypatch.setattr(run, "draw", lambda analysis, folder: [])
    return pretend


def go(folder: Path, name: str = "out", **changes: Any) -> str:
    stream = io.StringIO()
    file = write(folder / "made.yaml", **changes)
    run_study(open_study(file, folder / name), "cpu:1", stream=stream)
    return stream.getvalue()


def reported(home: Path) -> Any:
    return json.loads((home / "report.json").read_text())


def test_a_study_is_run_and_reported(tmp_path: Path, pretend: Pretend) -> None:
    printed = go(tmp_path)
    assert "17 of 17 runs are left" in printed
    assert "5 jobs run" in printed
    assert str(tmp_path / "out" / "report.md") in printed
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 17
    arm = reported(tmp_path / "out")["arms"][0]
    assert arm["name"] == "distilled"
    # 1.5 times fewer steps to the same loss, each 1.25 times as expensive
    assert arm["speed_up"] == pytest.approx(1.5 / 1.25, rel=0.02)


def test_a_rerun_runs_nothing(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    before, calls = reported(tmp_path / "out"), len(pretend.calls)
    printed = go(tmp_path)
    assert "0 jobs run" in printed
    assert len(pretend.calls) == calls
    assert reported(tmp_path / "out") == before


def test_records_are_enough_on_another_machine(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    records = tmp_path / "out" / "records"
    (records / "distilled-8-2.json").unlink()
    (records / "baseline-8-2.json").unlink()
    shutil.copytree(records, tmp_path / "there" / "records")
    shutil.copy(tmp_path / "out" / "study.json", tmp_path / "there")
    pretend.calls.clear()
    printed = go(tmp_path, "there")
    ran = [name for _, name in pretend.calls if "-" in name]
    assert sorted(ran) == ["baseline-8-2", "distilled-8-2", "longer-901"]
    assert "longer-901 is trained again: its checkpoint is gone" in printed
    again, before = reported(tmp_path / "there"), reported(tmp_path / "out")
    assert again["arms"] == before["arms"]
    text = (tmp_path / "there" / "report.md").read_text()
    assert "longer-901 was trained again" in text


def test_a_study_may_grow(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    printed = go(tmp_path, seeds=[1, 2, 3])
    assert "8 of 25 runs are left" in printed


def test_another_study_is_refused(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    with pytest.raises(InputError, match="belongs to another study, whose quality differs"):
        go(tmp_path, quality={"metric": "val/loss", "direction": "min", "target": 0.1})


def test_a_refused_study_leaves_no_folder(tmp_path: Path, pretend: Pretend) -> None:
    with pytest.raises(InputError, match="no run logs it"):
        go(tmp_path, quality={"metric": "val/x", "direction": "min", "target": 0.3})
    assert not (tmp_path / "out").exists()


WALL = {"clock": "wall", "charge": "free"}


def move(home: Path, pattern: str) -> None:
    """Says of records that their runs were made on another machine."""
    for path in (home / "records").glob(pattern):
        record = json.loads(path.read_text())
        record["hardware"]["cpu"] = record["ledger"]["hardware"]["cpu"] = "Another processor"
        path.write_text(json.dumps(record))


def test_a_wall_clock_is_refused_on_another_machine_before_any_run(
    tmp_path: Path, pretend: Pretend
) -> None:
    go(tmp_path, headline=WALL)
    move(tmp_path / "out", "*.json")
    (tmp_path / "out" / "records" / "baseline-8-1.json").unlink()
    before = len(pretend.calls)
    with pytest.raises(InputError) as caught:
        go(tmp_path, headline=WALL)
    assert str(caught.value) == (
        "headline.clock: cannot compare runs of different machines: the records are of "
        "Another processor, 1 threads, and this is A processor, 1 threads; found 'wall'; "
        "accepted: flops; or one machine for all runs"
    )
    assert not [name for _, name in pretend.calls[before:] if "-" in name]  # pilots alone
    stream = io.StringIO()  # what there is can be reported all the same
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "out"), stream)
    assert reported(tmp_path / "out")["clock"] == "wall"


def test_students_may_have_teachers_from_another_machine(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, headline=WALL)
    move(tmp_path / "out", "longer-*.json")
    (tmp_path / "out" / "records" / "baseline-8-1.json").unlink()
    go(tmp_path, headline=WALL)
    found = reported(tmp_path / "out")
    assert found["clock"] == "wall"
    assert found["arms"][0]["speed_up"] is not None
    assert "A processor, 1 threads" in found["machines"]
    assert "took place on Another processor" in found["arms"][0]["full_charge"]["why"]


def test_where_machines_differ_the_report_is_by_flops(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, headline=WALL)
    by_time = reported(tmp_path / "out")["arms"][0]
    move(tmp_path / "out", "baseline-*-1.json")
    (tmp_path / "out" / "records" / "distilled-8-2.json").unlink()
    printed = go(tmp_path, headline=WALL)  # there is nothing left to spoil
    line = "The headline is by FLOPs and not by device time, as the runs were made on different"
    assert line in printed
    assert line in (tmp_path / "out" / "report.md").read_text()
    found = reported(tmp_path / "out")["arms"][0]
    assert (by_time["clock"], found["clock"]) == ("wall", "flops")
    assert {cell["clock"] for cell in found["cells"]} == {"flops"}
    assert found["speed_up"] is not None


def test_half_a_study_is_reported(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    for path in (tmp_path / "out" / "records").glob("distilled-*-2.json"):
        path.unlink()
    stream = io.StringIO()
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "out"), stream)
    assert "report.md" in stream.getvalue()
    empty = io.StringIO()
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "new"), empty)
    assert "no run has finished yet" in empty.getvalue()


def test_a_tuning_study_is_ranked(tmp_path: Path, pretend: Pretend) -> None:
    printed = go(tmp_path, purpose="tuning", durations=[8])
    assert "no result, but a choice of settings" in printed
    assert [arm["name"] for arm in reported(tmp_path / "out")["arms"]] == ["distilled", "baseline"]


def test_how_settings_were_chosen_is_said(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, tuning="5 trials each, on a tenth of the training images")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "5 trials each, on a tenth of the training images" in text


def test_a_demonstration_says_so(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, purpose="demonstration")
    assert "demonstrat" in (tmp_path / "out" / "report.md").read_text()


STUDY = make_study(content())


def plan(home: Path) -> tuple[PlannedRun, ...]:
    return make_plan(STUDY, home)


def names(runs: list[PlannedRun]) -> list[str]:
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
    finished = [run.name for run in runs if run.name != "distilled-8-2"]
    left, again = runs_to_do(runs, finished)
    assert (names(left), names(again)) == (["longer-901", "distilled-8-2"], ["longer-901"])
    finished = [run.name for run in runs if run.name != "baseline-8-2"]
    left, again = runs_to_do(runs, finished)
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
    (described,) = json.loads((folder / "batch.json").read_text())
    assert described["config"]["trainer"]["default_root_dir"] == str(
        tmp_path / "runs" / "longer-901"
    )
    assert described["command"] is None


def refused(home: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as error:
        check_folder(make_study(content(**changes)), home)
    return str(error.value)


def test_the_same_study_and_one_that_grows_are_let_in(tmp_path: Path) -> None:
    claim_folder(make_study(content()), tmp_path / "out")
    grown = content(seeds=[1, 2, 3], durations=[4, 8, 16, 32, 64])
    grown["arms"]["third"] = {"overlay": {"distillation": {"teachers": "longer"}}}
    grown["teachers"]["longer"]["seeds"] = [901, 902, 903]
    for each in (content(), grown):
        claim_folder(make_study(each), tmp_path / "out")
    assert "belongs to another study, whose arms.third differs" in refused(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"base": "quickstart/distill.yaml"}, "base"),
        ({"seeds": [2, 3]}, "seeds"),
        ({"durations": [4, 8, 16, 64]}, "durations"),
        ({"headline": {"clock": "wall", "charge": "free"}}, "headline"),
        ({"quality": {**content()["quality"], "target": 0.4}}, "quality"),
        ({"overlay": {"trainer.log_every_n_steps": 3}}, "overlay"),
        ({"settings_tried": {"distilled": 1}}, "settings_tried"),
        (
            {"arms": {**content()["arms"], "baseline": {"overlay": {"model.a": 3}}}},
            "arms.baseline.overlay",
        ),
        (
            {"teachers": {"longer": {"steps": 61, "seeds": [901, 902]}}},
            "teachers.longer.steps",
        ),
    ],
)
def test_a_folder_of_another_study_is_refused(
    tmp_path: Path, changes: dict[str, Any], where: str
) -> None:
    claim_folder(make_study(content()), tmp_path)
    line = refused(tmp_path, **changes)
    assert line.startswith(f"--out: belongs to another study, whose {where} differs")
    assert str(tmp_path) in line


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    check_folder(make_study(content()), tmp_path)
    (tmp_path / "thesis.tex").touch()
    assert refused(tmp_path).startswith("--out: has other files")


def test_records_alone_do_not_say_what_was_fixed_before_them(tmp_path: Path) -> None:
    claim_folder(make_study(content()), tmp_path / "here")
    (tmp_path / "there" / "records").mkdir(parents=True)
    (tmp_path / "there" / "records" / "baseline-4-1.json").touch()
    line = refused(tmp_path / "there")
    assert line.startswith("--out: has records without the study.json that says what was fixed")
    shutil.copy(tmp_path / "here" / "study.json", tmp_path / "there")
    check_folder(make_study(content()), tmp_path / "there")
    assert "whose headline differs" in refused(
        tmp_path / "there", headline={"clock": "wall", "charge": "free"}
    )


@pytest.mark.parametrize("name", ["baseline-5-1", "distill-4-1", "longer-903", "baseline-4-9"])
def test_records_of_another_study_are_refused(tmp_path: Path, name: str) -> None:
    claim_folder(make_study(content()), tmp_path)
    (tmp_path / "records").mkdir()
    for own in ("baseline-4-1", "longer-902"):
        (tmp_path / "records" / f"{own}.json").touch()
    check_folder(make_study(content()), tmp_path)
    (tmp_path / "records" / f"{name}.json").touch()
    line = refused(tmp_path)
    assert line.startswith("--out: is the record of no run of this study")
    assert f"{name}.json" in line


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    assert "study.json is damaged" in refused(tmp_path)
