"""The launch files are valid shell, and what they start is a command line that `rrr fit` takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SLURM, TORCHRUN = ROOT / "scripts" / "slurm" / "fit.sbatch", ROOT / "scripts" / "torchrun.sh"
EXTRA = ("--trainer.max_steps", "7")


@pytest.fixture
def starts(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a launch file where srun and torchrun only print their arguments, one per line."""
    for name in ("srun", "torchrun"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
        stub.chmod(0o755)

    def run(script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(script), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, **variables},
        )

    return run


Starts = Callable[..., subprocess.CompletedProcess[str]]
SLURMS = {
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_CPUS_PER_TASK": "12",
}


@pytest.mark.parametrize(
    ("script", "variables", "launcher"),
    [
        (SLURM, SLURMS, ["--cpus-per-task=12", "--kill-on-bad-exit=1", "python"]),
        (TORCHRUN, {"GPUS": "8"}, ["--nnodes", "1", "--nproc-per-node", "8", "--standalone"]),
        (
            TORCHRUN,
            {"GPUS": "8", "NODES": "4", "HEAD": "node0:29500"},
            ["--nnodes", "4", "--nproc-per-node", "8", "--rdzv-backend", "c10d",
             "--rdzv-endpoint", "node0:29500", "--rdzv-id", "run"],
        ),
    ],
)  # fmt: skip
def test_what_is_started_is_a_fit_on_all_devices(
    starts: Starts,
    rrr: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    script: Path,
    variables: dict[str, str],
    launcher: list[str],
) -> None:
    found = starts(script, "quickstart/baseline.yaml", "run", *EXTRA, **variables)
    assert found.returncode == 0, found.stderr
    words = found.stdout.splitlines()
    where = words.index("-m")
    assert words[:where] == launcher
    assert words[where + 1 : where + 3] == ["rrr_lightning", "fit"]
    with pytest.raises(SystemExit) as end:
        rrr(*words[where + 2 :], "--print_config")
    assert end.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    nodes = int(variables.get("NODES", variables.get("SLURM_JOB_NUM_NODES", "1")))
    found_there = trainer["num_nodes"], str(trainer["devices"]), trainer["strategy"]
    assert found_there == (nodes, "8", "ddp")
    assert (trainer["max_steps"], trainer["default_root_dir"]) == (7, "run")


def test_slurm_announces_the_end_and_may_start_the_job_again() -> None:
    options = {line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")}
    assert "#SBATCH --requeue" in options
    assert "#SBATCH --signal=SIGUSR1@120" in options  # what `RunCheckpoint` hears


@pytest.mark.parametrize("script", [SLURM, TORCHRUN])
def test_without_configuration_or_folder_there_is_one_line(starts: Starts, script: Path) -> None:
    found = starts(script, "quickstart/baseline.yaml")
    assert found.returncode == 2
    assert found.stderr.startswith("usage: ")
    assert len(found.stderr.splitlines()) == 1


def test_several_nodes_need_a_meeting_place(starts: Starts) -> None:
    found = starts(TORCHRUN, "a.yaml", "run", NODES="2", GPUS="8")
    assert found.returncode != 0
    assert "HEAD=host:port" in found.stderr


@pytest.mark.slow
@pytest.mark.ddp
def test_torchrun_trains_two_ranks_and_goes_on(tmp_path: Path) -> None:
    variables = {**os.environ, "GPUS": "2", "ACCELERATOR": "cpu"}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for steps in ("2", "4"):
        found = subprocess.run(
            ["bash", str(TORCHRUN), "quickstart/baseline.yaml", str(tmp_path / "run"),
             "--trainer.max_steps", steps, "--trainer.val_check_interval", "2"],
            capture_output=True, text=True, env=variables, cwd=ROOT,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
