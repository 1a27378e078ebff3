"""Under SLURM a run whose time is nearly up saves, goes back to the queue, and resumes exactly."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rrr_lightning.checkpointing import RunCheckpoint, last_checkpoint
from rrr_lightning.metrics_file import read_rows
from tests.cli_runs import TINY, Command
from tests.data.toy import Notes, NumberedData, make_trainer

STEPS, SIGNALLED = 6, 2
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$(dirname "$0")/calls"
exit "${SCONTROL_ENDS:-0}"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Pretends to be the only task of a SLURM job; gives the file of scontrol's arguments."""
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(SCONTROL)
    command.chmod(0o755)
    variables = {"JOB_ID": "4321", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    former = signal.getsignal(signal.SIGUSR1)
    yield command.with_name("calls")
    signal.signal(signal.SIGUSR1, former)


class Signals(Callback):
    """Sends SIGUSR1 in the middle of a step.

    Args:
        step: The step.
        rank: The rank that gets it.
    """

    def __init__(self, step: int = SIGNALLED, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            os.kill(os.getpid(), signal.SIGUSR1)


def train(folder: Path, *callbacks: Callback, step: int | None = None, **settings: Any) -> Notes:
    """Trains over two micro-batches a step; `step` is where to go on from."""
    module = Notes()
    kept = [*callbacks, RunCheckpoint()]
    settings = {"enable_checkpointing": True, "callbacks": kept, "limit_val_batches": 0, **settings}
    trainer = make_trainer(folder, STEPS, **settings)
    checkpoint = None if step is None else last_checkpoint(folder)
    trainer.fit(module, datamodule=NumberedData(micro_batch_size=6), ckpt_path=checkpoint)
    return module


def weights(folder: Path) -> torch.Tensor:
    state: dict[str, torch.Tensor] = torch.load(last_checkpoint(folder))["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


def test_the_signal_saves_at_the_end_of_the_step_and_requeues(tmp_path: Path, calls: Path) -> None:
    train(tmp_path / "whole")
    with pytest.raises(SIGTERMException):
        train(tmp_path / "run", Signals())
    assert torch.load(last_checkpoint(tmp_path / "run"))["global_step"] == SIGNALLED + 1
    assert calls.read_text() == "requeue 4321\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"], "no hpc_ckpt"
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # as in the process that the queue starts
    rest = train(tmp_path / "run", step=SIGNALLED + 1)
    assert rest.seen[0][0] == SIGNALLED + 1
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert calls.read_text() == "requeue 4321\n"


def test_a_job_of_an_array_is_named_by_both_numbers(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4300")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "21")
    with pytest.raises(SIGTERMException):
        train(tmp_path / "run", Signals())
    assert calls.read_text() == "requeue 4300_21\n"


@pytest.mark.parametrize("scontrol", ["fails", "is missing"])
def test_a_job_that_cannot_be_requeued_is_saved_and_says_so(
    tmp_path: Path,
    calls: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scontrol: str,
) -> None:
    monkeypatch.setenv("SCONTROL_ENDS", "1")
    if scontrol == "is missing":
        calls.with_name("scontrol").unlink()
    with caplog.at_level(logging.WARNING), pytest.raises(SIGTERMException):
        train(tmp_path / "run", Signals())
    assert "job 4321 is saved, but could not be handed back to the queue" in caplog.text
    assert torch.load(last_checkpoint(tmp_path / "run"))["global_step"] == SIGNALLED + 1


def test_a_run_in_its_last_step_just_ends(tmp_path: Path, calls: Path) -> None:
    train(tmp_path / "run", Signals(STEPS - 1))
    assert torch.load(last_checkpoint(tmp_path / "run"))["global_step"] == STEPS
    assert not calls.exists()


def test_outside_slurm_and_over_a_handler_of_others_nothing_is_heard(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    train(tmp_path / "theirs", Signals())
    monkeypatch.delenv("SLURM_NTASKS")
    train(tmp_path / "outside", Signals())
    assert heard == [signal.SIGUSR1] * 2
    assert not calls.exists()


def losses(folder: str) -> list[tuple[str, str]]:
    _, rows = read_rows(Path(folder, "metrics.csv"))
    return [(row["step"], row["train/loss"]) for row in rows if row["train/loss"]]


def test_rrr_fit_goes_on_from_where_the_signal_came(
    rrr: Command, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `fit.sbatch` starts it both times."""
    run = ("fit", *TINY, f"--trainer.max_steps={STEPS}", "--ckpt_path=last")
    signals = f"--trainer.callbacks+={__name__}.Signals"
    rrr(*run, "--trainer.default_root_dir=whole")
    with pytest.raises(SystemExit) as end:
        rrr(*run, signals, "--trainer.default_root_dir=run")
    assert end.value.code == 128 + signal.SIGUSR1
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    monkeypatch.setattr(Signals, "on_before_optimizer_step", Callback.on_before_optimizer_step)
    rrr(*run, signals, "--trainer.default_root_dir=run")
    assert torch.equal(weights(Path("run")), weights(Path("whole")))
    assert losses("run") == losses("whole")
    assert calls.read_text() == "requeue 4321\n"


@pytest.mark.ddp
def test_all_ranks_leave_after_the_same_step(tmp_path: Path, calls: Path) -> None:
    folder = tmp_path / "run"
    signals = {0: Signals(SIGNALLED + 1, rank=0), 1: Signals(SIGNALLED, rank=1)}

    def task(rank: int) -> None:
        os.environ |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "SLURM_JOB_ID": str(10_000 + os.getppid())}
        train(folder, signals[rank], devices=2, strategy="ddp")

    context = multiprocessing.get_context("fork")
    tasks = [context.Process(target=task, args=(rank,)) for rank in range(2)]
    for process in tasks:
        process.start()
    for process in tasks:
        process.join(timeout=120)
        process.kill()
    ended = [128 + signal.SIGTERM, 128 + signal.SIGUSR1]  # the rank that heard nothing ends too
    assert [process.exitcode for process in tasks] == ended
    assert torch.load(last_checkpoint(folder))["global_step"] == SIGNALLED + 1
    assert calls.read_text().count("requeue") == 1
