"""`rrr study`: options reach the study, wrong ones end with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.commands import main as rrr
from rrr_lightning.jobs import Outcome
from rrr_lightning.study import run
from tests.study.studies import write
from tests.study.test_advise import timing


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["rrr", "study", *arguments])
    rrr()


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            call(monkeypatch, *arguments)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("rrr: error: ")

    return run


def test_a_plan_is_printed_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "plan", "study/quickstart.yaml", "--out", "out", "--untimed")
    printed = capsys.readouterr().out
    assert "distilled-160-3" in printed
    assert "runs, " in printed
    assert not (tmp_path / "out").exists()


def test_timed_plans_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    timings = {name: timing(name) for name in ("longer", "baseline")}
    timings["distilled"] = timing("distilled", 0.3)
    monkeypatch.setattr(run, "timed", lambda opened, places: timings)
    file = write(tmp_path / "s.yaml")
    call(monkeypatch, "plan", file, "--out", "out", "--devices", "cpu:1")
    assert "device-hours" in capsys.readouterr().out
    call(monkeypatch, "advise", file, "--out", "out", "--devices", "cpu:1")
    assert "Cheapest of these: [longer-901]" in capsys.readouterr().out


def test_options_of_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run_study(opened: Any, devices: str, slurm: Any) -> Outcome:
        seen.update(opened=opened, devices=devices, slurm=slurm)
        return Outcome(skipped={"x": "why"})

    monkeypatch.setattr(run, "run_study", run_study)
    file = write(tmp_path / "s.yaml")
    options = ("--data", "/digits", "--devices", "slurm:2", "--slurm", "timeout_min=9")
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "run", file, "--out", str(tmp_path / "out"), *options)
    assert end.value.code == 1
    assert (seen["devices"], seen["slurm"]) == ("slurm:2", {"timeout_min": 9})
    sources = {run.config["data"]["init_args"]["source"] for run in seen["opened"].runs}
    assert sources == {"/digits"}


def test_wrong_input_ends_with_one_line(refused: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "s.yaml")
    assert refused("plan", "study/quickstar.yaml", "--out", "o").startswith(
        "FILE: neither a file here nor one that is shipped; did you mean 'study/quickstart.yaml'?"
    )
    assert "no such device" in refused("run", file, "--out", "o", "--devices", "tpu")
    assert "the following arguments are required: --out" in refused("run", file)
    assert "invalid choice: 'fit'" in refused("fit", file, "--out", "o")
    assert "--seeds: no such option" in refused("run", file, "--out", "o", "--seeds=1")
    found = refused("run", file, "--out", "o", "--quality-data", "x")
    assert found == "--quality-data: no such option; did you mean '--quality_data'?"
    assert "--slurm: not name=value pairs" in refused("run", file, "--out", "o", "--slurm", "x")
    assert not (tmp_path / "o").exists()
    short = write(tmp_path / "short.yaml", durations=[8, 16])
    assert "needs 2 more durations" in refused("plan", short, "--out", "o")


@pytest.mark.parametrize("action", ["plan", "run", "report"])
def test_a_study_that_could_not_be_judged_is_refused_before_anything_is_run(
    action: str, refused: Any, tmp_path: Path
) -> None:
    told = {"metric": "val/accuracy", "direction": "max", "target": 72}
    file = write(tmp_path / "percent.yaml", quality=told)
    assert refused(action, file, "--out", "o").startswith("quality.target: cannot be reached")
    file = write(tmp_path / "pairs.yaml", contrasts=[["baseline"]])
    assert refused(action, file, "--out", "o").startswith("contrasts[0]: expected")
    file = write(tmp_path / "arms.yaml", arms={}, teachers={})
    assert refused(action, file, "--out", "o").startswith("arms: names no arm")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "arms.yaml", "pairs.yaml", "percent.yaml",
    ]  # fmt: skip


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_study", stopped)
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "run", write(tmp_path / "s.yaml"), "--out", str(tmp_path / "o"))
    assert end.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err
