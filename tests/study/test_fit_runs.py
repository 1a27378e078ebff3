"""A job of a study: records of what has finished, exit codes of what has not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.study import fit_runs
from rrr_lightning.study.fit_runs import describe, forked, main
from rrr_lightning.study.plan import Run, make_plan
from rrr_lightning.study.records import read_record
from rrr_lightning.study.settings import Quality
from rrr_lightning.study.study_file import make_study
from tests.study.pretend import Pretend
from tests.study.studies import content

STUDY = make_study(content())


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend()
    monkeypatch.setattr(fit_runs, "forked", pretend)
    return pretend


def batch(home: Path, *names: str, quality: Quality = STUDY.quality) -> list[str]:
    runs = {run.name: run for run in make_plan(STUDY, home)}
    told = [describe(runs[name], home, quality) for name in names]
    (home / "batch.json").write_text(json.dumps(told))
    return [str(home / "batch.json")]


def plan(home: Path) -> dict[str, Run]:
    return {run.name: run for run in make_plan(STUDY, home)}


def test_runs_leave_records_one_by_one(tmp_path: Path, pretend: Pretend) -> None:
    assert main(batch(tmp_path, "longer-901", "distilled-8-1")) == 0
    record = read_record(tmp_path, "distilled-8-1")
    assert record is not None
    assert record.quality == {
        "metric": "val/loss",
        "value": pytest.approx(12**-0.5 * 0.99),
        "step": 8,
    }
    assert record.curve[-1]["step"] == 8
    assert record.fingerprint == plan(tmp_path)["distilled-8-1"].fingerprint
    assert record.ledger["teachers"][0]["name"] == "longer-901"
    text = (tmp_path / "records" / "distilled-8-1.json").read_text()
    assert str(tmp_path) not in text
    teacher = read_record(tmp_path, "longer-901")
    assert teacher is not None
    assert (teacher.role, teacher.arm) == ("teacher", None)


def test_what_has_a_record_is_not_run_again(tmp_path: Path, pretend: Pretend) -> None:
    names = ("longer-901", "baseline-4-1", "baseline-8-1")
    pretend.codes["baseline-4-1"] = 7  # takes along no other run
    assert main(batch(tmp_path, *names)) == 7
    assert main(batch(tmp_path, *names)) == 0
    assert pretend.calls == [("fit", name) for name in (*names, "baseline-4-1")]


def test_a_teacher_whose_checkpoint_is_gone_is_trained_again(
    tmp_path: Path, pretend: Pretend
) -> None:
    main(batch(tmp_path, "longer-901"))
    plan(tmp_path)["longer-901"].checkpoint.unlink()
    main(batch(tmp_path, "longer-901"))
    record = read_record(tmp_path, "longer-901")
    assert record is not None
    assert record.trained_again == 1


def test_a_missing_last_validation_is_made_up_for(tmp_path: Path, pretend: Pretend) -> None:
    main(batch(tmp_path, "baseline-8-1"))
    whole = read_record(tmp_path, "baseline-8-1")
    (tmp_path / "records" / "baseline-8-1.json").unlink()
    pretend.unvalidated.add("baseline-8-1")
    main(batch(tmp_path, "baseline-8-1"))
    assert pretend.calls[-1] == ("validate", "baseline-8-1")
    again = read_record(tmp_path, "baseline-8-1")
    assert whole is not None
    assert again is not None
    assert again.quality == whole.quality


def test_a_ledger_that_does_not_tell_of_the_whole_run_is_refused(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.told_steps["baseline-8-1"] = 3
    assert main(batch(tmp_path, "baseline-8-1")) == 2
    assert "does not tell of every step of baseline-8-1; found '3 steps'; accepted: 8; to " in (
        capsys.readouterr().err
    )
    assert read_record(tmp_path, "baseline-8-1") is None
    assert main(batch(tmp_path, "baseline-8-1")) == 0


def test_a_metric_that_is_never_logged_ends_as_wrong_input(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = Quality("val/accuracy", "max")
    assert main(batch(tmp_path, "baseline-8-1", quality=quality)) == 2
    assert "rrr: error: quality.metric: no run logs it; found 'val/accuracy'" in (
        capsys.readouterr().err
    )
    assert read_record(tmp_path, "baseline-8-1") is None
    # A teacher may log something else: only students are compared.
    assert main(batch(tmp_path, "longer-901", quality=quality)) == 0


def test_a_command_judges_students(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import json,sys; json.dump({'mean': {'all': 0.75}}, open(sys.argv[1] + '/g.json', 'w'))"
    command = (sys.executable, "-c", code, "{folder}", "{checkpoint}", "{data}")
    quality = Quality("glue", "max", None, command, "g.json", "mean.all", "/glue")
    names = ("longer-901", "baseline-8-1")
    assert main(batch(tmp_path, *names, quality=quality)) == 0
    record = read_record(tmp_path, "baseline-8-1")
    assert record is not None
    assert record.quality == {"metric": "glue", "value": 0.75, "step": 8}
    assert not (tmp_path / "runs" / "longer-901" / "g.json").exists()
    wrong = Quality("glue", "max", None, command, "g.json", "mean.none")
    assert main(batch(tmp_path, "baseline-4-1", quality=wrong)) == 2
    assert "quality.key mean.none: is no number in g.json" in capsys.readouterr().err
    fails = Quality("glue", "max", None, (sys.executable, "-c", "1/0"), "g.json", "mean")
    assert main(batch(tmp_path, "baseline-4-1", quality=fails)) == 1
    assert "could not be judged" in capsys.readouterr().err


def test_rrr_in_a_command_is_this_rrr(tmp_path: Path) -> None:
    quality = Quality("glue", "max", None, ("rrr", "glue", "--data", "{data}"), "g", "k", "/g")
    told: dict[str, Any] = describe(plan(tmp_path)["baseline-4-1"], tmp_path, quality)
    assert told["command"] == [sys.executable, "-m", "rrr_lightning", "glue", "--data", "/g"]


def test_a_fork_ends_with_the_exit_code_of_rrr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "rrr_lightning.__main__", raising=False)  # of other tests
    before = os.getpid()
    assert forked("study", "plan", "no/such.yaml", "--out", "x") == 2
    assert os.getpid() == before
    assert "rrr: error: FILE: neither a file here" in capfd.readouterr().err
    assert forked("study", "--help") == 0
