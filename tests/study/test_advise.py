"""Advice: the arithmetic of a distilled step, the cheapest setting, and what is assumed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import Places, run_jobs
from rrr_lightning.study import advise as advise_module
from rrr_lightning.study import worker
from rrr_lightning.study.advise import (
    STEPS,
    StepCosts,
    Timing,
    advise,
    list_hours,
    list_runs,
    time_runs,
)
from rrr_lightning.study.config import Quality, make_study
from rrr_lightning.study.plan import make_plan
from tests.study.pretend import Pretend, in_this_process
from tests.study.studies import content

PLAIN = Timing("baseline", 0.3, None, 0.0, 0.0, 0.0, 1.0, 1.0, 1, "A processor")
STUDY = make_study(
    content(
        arms={
            "baseline": {},
            "one": {"overlay": {"distillation": {"teachers": "longer/901"}}},
            "all": {"overlay": {"distillation": {"teachers": "longer", "pool.per_step": "all"}}},
        }
    )
)
# A forward pass of 0.1 s; nothing else in a distilled step but 0.03 s of the loss with two.
ONE = replace(PLAIN, kind="one", distilled=0.4, share=0.5, teacher=0.1)
ALL = replace(PLAIN, kind="all", distilled=0.53, share=0.5, teacher=0.2)


def advice(baseline: Timing = PLAIN, one: Timing = ONE) -> str:
    timings = {"baseline": baseline, "one": one, "all": ALL}
    return advise(STUDY, make_plan(STUDY, Path("/x")), timings)


def test_the_factor_is_what_the_extra_costs() -> None:
    costs = StepCosts(("a", "b"), step=0.3, wait=0.0, forward=0.1, rest=0.0)
    assert costs.factor(1.0, 1, 1) == pytest.approx(4 / 3)
    assert costs.factor(1.0, 1, 2) == pytest.approx(5 / 3)
    assert costs.factor(0.5, 2, 1) == pytest.approx(1 + 1 / 12)
    waiting = replace(costs, wait=0.3)
    assert waiting.factor(1.0, 1, 1) == pytest.approx(1 + 1 / 6)


def row(text: str, *cells: str) -> list[str]:
    (found,) = [
        line
        for line in text.splitlines()
        if line.replace(", ", ",").split()[: len(cells)] == [*cells]
    ]
    return found.split()


def test_the_table_has_teachers_until_every_and_pool() -> None:
    text = advice()
    assert "1.333 (save 25.0%)" in " ".join(row(text, "longer-901", "1", "1"))
    assert "1.083 (save 7.7%)" in " ".join(row(text, "longer-901", "1", "4"))
    pool = " ".join(row(text, "longer-901,longer-902", "2", "1"))
    assert "1.767" in pool  # 0.03 s of the rest as well
    assert "Cheapest of these: [longer-901], per_step 1, until 0.25, every_n_steps 4" in text
    assert "0.33 of a student's step" in text
    assert "Assumed: the teachers' own training is free" in text


def test_it_says_whether_the_loader_is_the_bottleneck() -> None:
    assert "The loader keeps up." in advice()
    assert "The loader is the bottleneck." in advice(replace(PLAIN, wait=0.1))


def test_without_a_distilled_step_there_is_no_advice() -> None:
    study = make_study(content(arms={"baseline": {}, "b": {}}, teachers={}))
    timings = {"baseline": PLAIN, "b": replace(PLAIN, kind="b")}
    with pytest.raises(InputError, match="arms: no arm has teachers"):
        advise(study, make_plan(study, Path("/x")), timings)


HERE = Places(({},))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend()
    monkeypatch.setattr(worker, "forked", pretend)
    monkeypatch.setattr(advise_module, "run_jobs", in_this_process)
    return pretend


def timed(home: Path, quality: Quality | None = None, **changes: Any) -> Any:
    study = make_study(content(**changes))
    return time_runs(make_plan(study, home), home, HERE, quality or study.quality)


def test_each_kind_is_tried_once_teachers_first(tmp_path: Path, pretend: Pretend) -> None:
    timings = timed(tmp_path)
    assert [name for _, name in pretend.calls] == ["longer", "baseline", "distilled"]
    assert list(timings) == ["longer", "baseline", "distilled"]
    config = yaml.safe_load((tmp_path / "pilot" / "distilled" / "run.yaml").read_text())
    assert config["trainer"]["max_steps"] == STEPS
    assert config["distillation"]["teachers"] == [
        str(tmp_path / "pilot" / "longer" / "checkpoints" / "last.ckpt")
    ]
    assert not (tmp_path / "runs").exists()


def test_it_reads_the_ledger(tmp_path: Path, pretend: Pretend) -> None:
    timing = timed(tmp_path)["distilled"]
    assert timing.plain == pytest.approx(STEPS / 4)
    assert timing.distilled == pytest.approx(STEPS / 3)
    assert timing.share == 0.5
    assert timing.teacher == pytest.approx(STEPS / 4 / 2)  # over the 2 distilled of 4 steps
    assert timing.wait == pytest.approx(STEPS / 10 / 4)
    assert timing.validation == pytest.approx(0.5 * 4 / 2)  # 2 of 4 batches were validated
    assert (timing.devices, timing.device) == (1, "cpu")


def test_hours_are_those_of_the_steps_and_validations_to_come(tmp_path: Path) -> None:
    overlay = {"trainer.val_check_interval": 10}
    (run, *_) = (
        run
        for run in make_plan(make_study(content(overlay=overlay)), tmp_path)
        if run.name == "distilled-32-1"
    )
    timing = Timing("distilled", 1.0, 3.0, 0.25, 0.5, 2.0, 7.0, 4.0, 1, "cpu")
    assert timing.seconds(run) == pytest.approx(7 + 32 * (0.75 + 0.75 + 0.5) + 4 * 4.0)
    # 64 batches are validated at 10, 20, ... 60 and at the end
    assert replace(timing, accumulation=2).seconds(run) == pytest.approx(7 + 64 + 7 * 4.0)
    # too few distilled steps for a median
    assert replace(timing, distilled=None).seconds(run) == timing.seconds(run)


def test_what_was_timed_here_is_not_timed_again(tmp_path: Path, pretend: Pretend) -> None:
    first = timed(tmp_path)
    assert timed(tmp_path) == first
    assert len(pretend.calls) == 3
    timed(tmp_path, overlay={"trainer.log_every_n_steps": 2})
    assert len(pretend.calls) == 6


def test_a_metric_that_is_never_logged_is_refused_before_the_study(
    tmp_path: Path, pretend: Pretend
) -> None:
    with pytest.raises(InputError) as error:
        timed(tmp_path, Quality("val/los", "min"))
    assert str(error.value) == (
        "quality.metric: no run logs it; did you mean 'val/loss'?; found 'val/los'; "
        "accepted: train/loss, val/loss"
    )
    timed(tmp_path, Quality("glue", "max", None, ("true",), "a", "b"))


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import sys; print('rrr: error: model.x: no such key'); sys.exit(2)", "^model.x: no such"),
        ("1/0", r"^FILE: a first few steps crashed: ZeroDivisionError: .*\(see .*log.txt\)$"),
    ],
)
def test_a_kind_that_fails_is_refused_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, line: str
) -> None:
    def failing(jobs: Any, folder: Any, places: Any, stream: Any) -> Any:
        (job,) = jobs
        changed = type(job)(job.name, (job.command[0], "-c", code), job.folder)
        return run_jobs([changed], folder, places, io.StringIO())

    monkeypatch.setattr(advise_module, "run_jobs", failing)
    with pytest.raises(InputError, match=line):
        timed(tmp_path)


def test_a_warm_up_in_steps_is_cut_short(tmp_path: Path, pretend: Pretend) -> None:
    changes = {"model.init_args.warmup_steps": 3, "model.init_args.warmup_fraction": None}
    timed(tmp_path, overlay=changes)
    config = yaml.safe_load((tmp_path / "pilot" / "baseline" / "run.yaml").read_text())
    assert config["model"]["init_args"]["warmup_steps"] == 1


def timing(kind: str, distilled: float | None = None) -> Timing:
    share = 0.5 if distilled else 0.0
    return Timing(kind, 0.1, distilled, share, 0.1, 0.1, 7.0, 2.0, 2, "A processor")


def test_runs_and_what_they_need(tmp_path: Path) -> None:
    runs = make_plan(make_study(content()), tmp_path)
    lines = list_runs(runs, ["baseline-4-1"]).splitlines()
    assert lines[1].split() == ["longer-901", "60", "901"]
    assert lines[2].endswith("has finished")
    assert [line.split() for line in lines if line.startswith("distilled-32-2")] == [
        ["distilled-32-2", "32", "2", "longer-901"]
    ]
    assert lines[-1] == "17 runs, 16 of them left"


def test_hours_are_those_of_the_devices(tmp_path: Path) -> None:
    runs = make_plan(make_study(content()), tmp_path)
    timings = {name: timing(name) for name in ("longer", "baseline")}
    timings["distilled"] = timing("distilled", 0.3)
    text = list_hours(runs, {}, timings)
    # set-up 7 s, validation 2 s each 5 steps, 0.2 s per step or 0.3 s where half are distilled
    teacher = 7 + 60 * 0.2 + 12 * 2
    plain = 2 * sum(7 + steps * 0.2 + (1 + (steps - 1) // 5) * 2 for steps in (4, 8, 16, 32))
    taught = 2 * sum(7 + steps * 0.3 + (1 + (steps - 1) // 5) * 2 for steps in (4, 8, 16, 32))
    hours = 2 * (teacher - 11 * 2 + plain + taught) / 3600  # the teacher is validated once
    assert f"{hours:.3f} device-hours" in text
    assert "100.0 plain / 300.0 distilled" in text
    assert "A processor" in text
    assert "evaluates" not in text
    assert "not among these hours: the command that evaluates" in list_hours(
        runs, {}, timings, True
    )
