"""Pilots: every kind of run is tried in small, teachers first, and what is wrong is said."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import Places, run_jobs
from rrr_lightning.study import fit_runs, pilot
from rrr_lightning.study.pilot import STEPS, Timing, time_runs
from rrr_lightning.study.plan import make_plan
from rrr_lightning.study.settings import Quality
from rrr_lightning.study.study_file import make_study
from tests.study.pretend import Pretend, in_this_process
from tests.study.studies import content

HERE = Places(({},))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend()
    monkeypatch.setattr(pilot, "forked", pretend)
    monkeypatch.setattr(pilot, "run_jobs", in_this_process)
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
    assert timing.teacher == pytest.approx(STEPS / 4 / 2)
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

    monkeypatch.setattr(pilot, "run_jobs", failing)
    with pytest.raises(InputError, match=line):
        timed(tmp_path)


def test_a_warm_up_in_steps_is_cut_short(tmp_path: Path, pretend: Pretend) -> None:
    assert fit_runs.PRELOADED  # both programs of the study preload the same
    changes = {"model.init_args.warmup_steps": 3, "model.init_args.warmup_fraction": None}
    timed(tmp_path, overlay=changes)
    config = yaml.safe_load((tmp_path / "pilot" / "baseline" / "run.yaml").read_text())
    assert config["model"]["init_args"]["warmup_steps"] == 1
