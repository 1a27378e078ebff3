"""Studies that really train, through the command: as single runs, refused, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rrr_lightning.metrics_file import read_rows
from rrr_lightning.study.results import run_costs
from tests.study.studies import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
CHANGES: dict[str, Any] = {
    "overlay": {
        "trainer": {"val_check_interval": 1000, "log_every_n_steps": 1, "limit_val_batches": 4},
        "data.init_args.eval_batch_size": 50,
        # Killed runs resume in their midst, and a kill loses a known amount of work.
        "checkpoint.every_n_steps": 10,
        "cost.every_n_seconds": 1e-9,
    },
    "seeds": [1],
    "teachers": {"longer": {"base": "quickstart/teacher.yaml", "steps": 60, "seeds": [901]}},
    "durations": [8, 16, 32, 64],
    "quality": {"metric": "val/loss", "direction": "min", "target": 1.0},
}


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rrr_lightning", *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def study(folder: Path, name: str, **changes: Any) -> subprocess.Popen[str]:
    file = write(folder / f"{name}.yaml", **{**CHANGES, **changes})
    return start("study", "run", file, "--out", str(folder / name), "--devices", "cpu:2")


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate()
    assert process.returncode == 0, error + out
    return out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    out = finish(study(folder, "out"))
    assert "jobs run" in out
    assert out.rstrip().endswith(".png")
    return folder / "out"


def weights(run: Path) -> dict[str, Any]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state: dict[str, Any] = checkpoint["state_dict"]
    return state


def records(home: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in home.glob("records/*.json")}


def test_a_run_of_a_study_is_rrr_fit_alone(undisturbed: Path, tmp_path: Path) -> None:
    run = undisturbed / "runs" / "distilled-16-1"
    alone = f"--trainer.default_root_dir={tmp_path / 'alone'}"
    finish(start("fit", "--config", str(run / "run.yaml"), alone))
    ours, theirs = weights(run), weights(tmp_path / "alone")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_runs_of_one_seed_are_paired(undisturbed: Path) -> None:
    first = {}
    for arm, metric in (("baseline", "train/loss"), ("distilled", "train/task_loss")):
        _, rows = read_rows(undisturbed / "runs" / f"{arm}-16-1" / "metrics.csv")
        first[arm] = float(rows[0][metric])
    assert first["distilled"] == pytest.approx(first["baseline"], rel=1e-6)


def test_a_rerun_runs_nothing(undisturbed: Path) -> None:
    before = json.loads((undisturbed / "report.json").read_text())
    assert "0 jobs run" in finish(study(undisturbed.parent, "out"))
    assert json.loads((undisturbed / "report.json").read_text()) == before


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for listed in Path("/proc", str(pid), "task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            found += [child, *descendants(child)]
    return found


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Kills a study and all of its processes, none of which may tidy up."""
    while not condition() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGSTOP)
    for pid in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def step_of(run: Path) -> int:
    """Where a run stands, by its ledger."""
    file = run / "ledger.json"
    return int(json.loads(file.read_text())["step"]) if file.exists() else 0


def by_flops(home: Path) -> dict[tuple[str, ...], float]:
    """The speed-ups by FLOPs that a report holds, by arm and charge."""
    report = json.loads((home / "report.json").read_text())
    return {
        (arm["name"], cell["charge"]): cell["speed_up"]
        for arm in report["arms"]
        for cell in arm["cells"]
        if cell["clock"] == "flops"
    }


def test_a_killed_study_ends_with_the_same_report(undisturbed: Path, tmp_path: Path) -> None:
    home = tmp_path / "out"
    resumed = {"longer-901": 13, "distilled-64-1": 23}  # to be killed within, at a step or later
    moments: list[Callable[[], bool]] = [
        lambda: (home / "pilot" / "baseline" / "config.yaml").exists(),
        *[
            lambda run=run, step=step: step_of(home / "runs" / run) >= step  # type: ignore[misc]
            for run, step in resumed.items()
        ],
        lambda: len(records(home)) == 9,
    ]
    for moment in moments:
        kill_when(study(tmp_path, "out"), moment)
    finish(study(tmp_path, "out"))
    ours, theirs = records(home), records(undisturbed)
    assert set(ours) == set(theirs)
    for name, record in theirs.items():
        assert ours[name]["quality"] == record["quality"], name
        assert ours[name]["fingerprint"] == record["fingerprint"], name
        paid, done = ours[name]["ledger"], record["ledger"]
        assert paid["steps"] - paid["redone_steps"] == done["steps"], name
        # Exact where nothing was redone, and else by the share of steps that were not.
        exact = 0.0 if paid["redone_steps"] == 0 else 0.1
        expected = pytest.approx(run_costs(done)["flops"], rel=exact)
        assert run_costs(paid)["flops"] == expected, name
    for name, step in resumed.items():
        paid = ours[name]["ledger"]
        # What came after the last checkpoint, which was not at the beginning, was done once more.
        assert 0 < paid["redone_steps"] < step, name
        assert paid["phases"]["set_up"]["count"] > 1, name
    arm = json.loads((undisturbed / "report.json").read_text())["arms"][0]
    assert (arm["name"], arm["censored"]) == ("distilled", None)
    assert arm["speed_up"] is not None
    assert by_flops(home) == pytest.approx(by_flops(undisturbed), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"arms": {"baseline": {}, "b": {"overlay": {"distillation.schedule.untl": 0.5}}}},
            "did you mean 'distillation.schedule.until'?",
        ),
        (
            {"quality": {"metric": "val/los", "direction": "min", "target": 1.0}},
            "did you mean 'val/loss'?",
        ),
        (
            {
                "arms": {
                    "baseline": {},
                    "b": {"overlay": {"distillation.teachers": ["no/such.ckpt"]}},
                }
            },
            "no/such.ckpt",
        ),
    ],
)
def test_what_rrr_fit_would_refuse_is_refused_before_the_study(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    teachers = {} if "arms" in changes else CHANGES["teachers"]
    process = study(tmp_path, "out", **{"teachers": teachers, **changes})
    _, error = process.communicate()
    assert process.returncode == 2
    (only,) = error.splitlines()
    assert only.startswith("rrr: error: ")
    assert line in only
    assert not (tmp_path / "out").exists()


def test_the_file_of_a_run_can_be_run_by_hand(undisturbed: Path) -> None:
    config = yaml.safe_load((undisturbed / "runs" / "baseline-8-1" / "run.yaml").read_text())
    assert config["trainer"]["max_steps"] == 8
    assert config["seed_everything"] == 1
