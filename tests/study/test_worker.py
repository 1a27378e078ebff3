"""A job of a study: records of what has finished, exit codes of what has not."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.metrics_file import read_rows
from rrr_lightning.study import worker
from rrr_lightning.study.config import Quality, make_study
from rrr_lightning.study.plan import PlannedRun, make_plan
from rrr_lightning.study.results import read_record, record_path, write_record
from rrr_lightning.study.run import description
from rrr_lightning.study.worker import CURVE_ROWS, final_value, forked, main, read_curve, thin
from tests.cli_runs import FIT, Command
from tests.study.pretend import Pretend
from tests.study.studies import content, record

STUDY = make_study(content())


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend()
    monkeypatch.setattr(worker, "forked", pretend)
    return pretend


def batch(home: Path, *names: str, quality: Quality = STUDY.quality) -> list[str]:
    runs = {run.name: run for run in make_plan(STUDY, home)}
    told = [description(runs[name], home, quality) for name in names]
    (home / "batch.json").write_text(json.dumps(told))
    return [str(home / "batch.json")]


def plan(home: Path) -> dict[str, PlannedRun]:
    return {run.name: run for run in make_plan(STUDY, home)}


def test_runs_leave_records_one_by_one(tmp_path: Path, pretend: Pretend) -> None:
    assert main(batch(tmp_path, "longer-901", "distilled-8-1")) == 0
    record = read_record(tmp_path, "distilled-8-1")
    assert record is not None
    assert record["quality"] == {
        "metric": "val/loss",
        "value": pytest.approx(12**-0.5 * 0.99),
        "step": 8,
    }
    assert record["curve"][-1]["step"] == 8
    assert record["fingerprint"] == plan(tmp_path)["distilled-8-1"].fingerprint
    assert record["ledger"]["teachers"][0]["name"] == "longer-901"
    text = (tmp_path / "records" / "distilled-8-1.json").read_text()
    assert str(tmp_path) not in text
    teacher = read_record(tmp_path, "longer-901")
    assert teacher is not None
    assert (teacher["role"], teacher["arm"]) == ("teacher", None)


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
    assert record["trained_again"] == 1


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
    assert again["quality"] == whole["quality"]


def test_a_ledger_that_lacks_steps_is_refused(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.told_steps["baseline-8-1"] = 3
    assert main(batch(tmp_path, "baseline-8-1")) == 2
    assert "does not have every step of baseline-8-1; found '3 steps'; accepted: 8; to " in (
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


def test_a_command_evaluates_students(
    tmp_path: Path, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import json,sys; json.dump({'mean': {'all': 0.75}}, open(sys.argv[1] + '/g.json', 'w'))"
    command = (sys.executable, "-c", code, "{folder}", "{checkpoint}", "{data}")
    quality = Quality("glue", "max", None, command, "g.json", "mean.all", "/glue")
    names = ("longer-901", "baseline-8-1")
    assert main(batch(tmp_path, *names, quality=quality)) == 0
    record = read_record(tmp_path, "baseline-8-1")
    assert record is not None
    assert record["quality"] == {"metric": "glue", "value": 0.75, "step": 8}
    assert not (tmp_path / "runs" / "longer-901" / "g.json").exists()
    wrong = Quality("glue", "max", None, command, "g.json", "mean.none")
    assert main(batch(tmp_path, "baseline-4-1", quality=wrong)) == 2
    assert "quality.key mean.none: is no number in g.json" in capsys.readouterr().err
    fails = Quality("glue", "max", None, (sys.executable, "-c", "1/0"), "g.json", "mean")
    assert main(batch(tmp_path, "baseline-4-1", quality=fails)) == 1
    assert "could not be evaluated" in capsys.readouterr().err


def test_rrr_in_a_command_is_this_rrr(tmp_path: Path) -> None:
    quality = Quality("glue", "max", None, ("rrr", "glue", "--data", "{data}"), "g", "k", "/g")
    told: dict[str, Any] = description(plan(tmp_path)["baseline-4-1"], tmp_path, quality)
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


LAST = "--trainer.callbacks+=rrr_lightning.study.worker.LastValidation"


def validated(folder: Path) -> list[int]:
    _, rows = read_rows(folder / "metrics.csv")
    return [int(row["step"]) for row in rows if row.get("val/loss")]


@pytest.mark.parametrize(
    ("interval", "steps"), [("100", [3]), ("3", [2, 3]), ("2", [1, 3]), ("4", [3])]
)
def test_the_last_step_is_validated_once(rrr: Command, interval: str, steps: list[int]) -> None:
    rrr(*FIT, LAST, f"--trainer.val_check_interval={interval}", "--trainer.default_root_dir=out")
    assert validated(Path("out")) == steps


def test_it_changes_no_weight_and_a_longer_run_goes_on(rrr: Command) -> None:
    import torch

    rest = ("--trainer.val_check_interval=100", "--model.warmup_steps=1")
    rrr(*FIT, *rest, "--trainer.default_root_dir=plain")
    rrr(*FIT, *rest, LAST, "--trainer.default_root_dir=out")
    plain, out = (
        torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in ("plain", "out")
    )
    assert all(torch.equal(plain[name], out[name]) for name in plain)
    longer = ("--trainer.max_steps=6", "--ckpt_path=last", "--trainer.default_root_dir=out")
    rrr(*FIT, *rest, LAST, *longer)
    assert validated(Path("out")) == [3, 5]


def test_a_validation_alone_leaves_its_metrics(rrr: Command) -> None:
    rrr(*FIT, LAST, "--trainer.default_root_dir=out", "--trainer.val_check_interval=4")
    _, rows = read_rows("out/metrics.csv")
    Path("out/validated.json").unlink()
    rrr("validate", "--config=out/config.yaml", "--ckpt_path=last")
    metrics = json.loads(Path("out/validated.json").read_text())["metrics"]
    assert metrics["val/loss"] == pytest.approx(float(rows[-1]["val/loss"]), rel=1e-6)


def test_a_curve_counts_steps_done(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n0,2.5,\n9,1.5,1.25\n")
    curve = read_curve(tmp_path)
    assert curve == [
        {"step": 1, "train/loss": 2.5},
        {"step": 10, "train/loss": 1.5, "val/loss": 1.25},
    ]
    assert final_value(curve, "val/loss", 10) == 1.25


def test_a_metric_that_is_never_logged_is_refused() -> None:
    curve = [{"step": 1, "train/loss": 2.5, "val/loss": 1.0}]
    with pytest.raises(InputError) as error:
        final_value(curve, "val/los", 1)
    assert str(error.value) == (
        "quality.metric: no run logs it; did you mean 'val/loss'?; found 'val/los'; "
        "accepted: train/loss, val/loss"
    )
    with pytest.raises(InputError, match="is not logged at the last step"):
        final_value(curve, "val/loss", 2)


def test_a_thin_curve_keeps_validations_and_leaves_costs_to_the_ledger() -> None:
    curve = [
        {"step": step, "train/loss": 1 / 3, "cost/seconds": 1.0}
        | ({"val/loss": 0.5} if step % 777 == 0 else {})
        for step in range(1, 2001)
    ]
    short = thin(curve)
    assert len(short) <= CURVE_ROWS + 2
    assert [row["step"] for row in short if "val/loss" in row] == [777, 1554]
    assert short[0] == {"step": 1, "train/loss": 0.333333}


def test_records_are_small(tmp_path: Path) -> None:
    run = plan(tmp_path)["distilled-8-1"]
    row = {"train/loss": 0.123456, "train/distillation_loss": 0.123456, "lr": 0.123456}
    curve = [{"step": step, **row} for step in range(1, CURVE_ROWS + 1)]
    written = record(run, 0.4, curve=curve)
    write_record(tmp_path, written)
    assert record_path(tmp_path, run.name).stat().st_size < 30_000


def test_the_size_of_a_short_validation(rrr: Command) -> None:
    rrr(
        *FIT,
        LAST,
        "--trainer.val_check_interval=4",
        "--data.eval_batch_size=100",
        "--data.micro_batch_size=20",
        "--trainer.limit_val_batches=2",
        "--trainer.default_root_dir=out",
    )
    found = json.loads(Path("out/validated.json").read_text())
    assert (found["batches"], found["used"], found["accumulation"]) == (14, 2, 2)  # 1,397 digits
    assert {"val/loss", "val/accuracy", "train/loss"} <= set(found["metrics"])
