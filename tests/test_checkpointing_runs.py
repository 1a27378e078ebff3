"""A run and its folder: signals, one writer, nothing lost, and what cannot be written to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from rrr_lightning.checkpointing import RunCheckpoint, RunFolder, last_checkpoint
from rrr_lightning.metrics_file import read_rows
from tests.cli_runs import FIT, TINY, Command

Refused = Callable[..., str]
RUN = ("fit", *TINY, "--trainer.default_root_dir=run", "--ckpt_path=last")
LONG = (*RUN, "--trainer.max_steps=8", "--trainer.val_check_interval=4",
        "--trainer.check_val_every_n_epoch=null")  # fmt: skip


class Sends(Callback):
    """Sends a signal to this process in the middle of a step, or of the validation after it.

    Args:
        number: The signal.
        step: The step.
        in_validation: Whether to wait for the validation after the step.
    """

    def __init__(self, number: int, step: int, in_validation: bool = False) -> None:
        self.number = number
        self.step = step
        self.in_validation = in_validation

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.in_validation:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and self.in_validation:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def interrupts_arrive() -> Iterator[None]:
    """A shell's background job starts with SIGINT ignored, and so would these runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def sends(number: int, step: int, in_validation: bool = False) -> str:
    where = f"step: {step}, in_validation: {str(in_validation).lower()}"
    return (
        f"--trainer.callbacks+={{class_path: {__name__}.Sends, "
        f"init_args: {{number: {int(number)}, {where}}}}}"
    )


def saved() -> dict[str, Any]:
    content: dict[str, Any] = torch.load(last_checkpoint("run"), weights_only=True)
    return content


def logged() -> list[tuple[str, str]]:
    rows = read_rows("run/metrics.csv")[1]
    return [(row["step"], row.get("train/loss") or row["val/loss"]) for row in rows]


@pytest.mark.parametrize(
    ("number", "step", "in_validation", "left_at"),
    [
        (signal.SIGINT, 1, False, 2),
        (signal.SIGTERM, 5, False, 6),
        (signal.SIGINT, 3, False, 4),  # the validation of that step comes first
        (signal.SIGTERM, 4, True, 4),
    ],
)
def test_a_signal_saves_after_the_step_and_the_run_resumes_exactly(
    number: int, step: int, in_validation: bool, left_at: int, rrr: Command
) -> None:
    rrr(*LONG)
    whole, rows = saved()["state_dict"], logged()
    Path("run").rename("whole")
    with pytest.raises(SystemExit) as end:
        rrr(*LONG, sends(number, step, in_validation))
    assert end.value.code == 128 + number
    assert saved()["global_step"] == left_at
    rrr(*LONG)
    assert logged() == rows
    assert all(torch.equal(whole[name], tensor) for name, tensor in saved()["state_dict"].items())
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_in_the_last_step_lets_the_run_end(rrr: Command) -> None:
    rrr(*LONG, sends(signal.SIGTERM, 7))
    assert saved()["global_step"] == 8


def test_a_run_that_is_extended_continues_where_it_ended(rrr: Command) -> None:
    rrr(*RUN, "--trainer.max_steps=8", *LONG[-2:])
    whole = [step for step, _ in logged()]
    Path("run").rename("whole")
    rrr(*RUN, "--trainer.max_steps=4", *LONG[-2:])
    assert saved()["global_step"] == 4
    rrr(*LONG)
    assert [step for step, _ in logged()] == whole
    assert saved()["global_step"] == 8


def test_by_default_a_checkpoint_is_written_at_every_validation_and_at_the_end(
    rrr: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save = RunCheckpoint._save

    def note(self: RunCheckpoint, trainer: Trainer) -> None:
        before = self._saved_step
        save(self, trainer)
        steps.extend([] if self._saved_step == before else [self._saved_step])

    monkeypatch.setattr(RunCheckpoint, "_save", note)
    rrr(*RUN, "--trainer.max_steps=7", "--trainer.val_check_interval=3",
        "--trainer.check_val_every_n_epoch=null")  # fmt: skip
    assert steps == [3, 6, 7]


def test_a_metrics_file_without_a_checkpoint_is_kept(rrr: Command) -> None:
    rrr(*RUN, "--trainer.max_steps=2")
    first = Path("run/metrics.csv").read_bytes()
    for number in (1, 2):
        last_checkpoint("run").unlink()
        rrr(*RUN, "--trainer.max_steps=3")
        assert Path("run/metrics-1.csv").read_bytes() == first
        assert Path(f"run/metrics-{number}.csv").exists()


def test_two_runs_do_not_write_into_one_folder(rrr: Command, refused: Refused) -> None:
    rrr(*RUN, "--trainer.max_steps=1")
    before = sorted(path.name for path in Path("run").rglob("*"))
    other = RunFolder("run", str)
    other._take()
    line = refused(*RUN, "--trainer.max_steps=2")
    assert line.startswith(
        "trainer.default_root_dir: another process is writing a run into this folder; found 'run'"
    )
    assert sorted(path.name for path in Path("run").rglob("*")) == before
    other._let_go()
    rrr(*RUN, "--trainer.max_steps=2")


@pytest.mark.parametrize("folder", ["memory://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_addresses_are_refused_as_run_folders(folder: str, refused: Refused) -> None:
    line = refused(*FIT, f"--trainer.default_root_dir={folder}")
    assert line.startswith("trainer.default_root_dir: addresses are not supported")
    assert not os.listdir(".")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("file/below", "file is no folder"),
        ("/proc/run", "cannot be written to"),
        ("x" * 300, "cannot be written to (File name too long)"),
        ("nul\0byte", "cannot be written to (embedded null byte)"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(
    folder: str, message: str, refused: Refused
) -> None:
    Path("file").touch()
    line = refused(*FIT, f"--trainer.default_root_dir={folder}")
    assert line.startswith("trainer.default_root_dir: ")
    assert message in line
    assert os.listdir(".") == ["file"]


def test_a_logger_of_ones_own_leaves_the_run_in_one_folder(rrr: Command) -> None:
    logger = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: elsewhere}}"
    rrr(*RUN, "--trainer.max_steps=2", f"--trainer.logger={logger}")
    names = {path.name for path in Path("run").iterdir()}
    assert names == {"checkpoints", "config.yaml", "ledger.json", "metrics.csv"}
    assert list(Path("elsewhere").rglob("metrics.csv"))


@pytest.mark.parametrize("damage", ["a,b\n1,2\n", "step,x\n0\n", "step,x\nzero,1\n", "\0\0\n"])
def test_a_damaged_metrics_file_is_one_line(damage: str, rrr: Command, refused: Refused) -> None:
    rrr(*RUN, "--trainer.max_steps=2")
    Path("run/metrics.csv").write_text(damage)
    assert "metrics.csv" in refused(*RUN, "--trainer.max_steps=3")


def test_a_full_disk_ends_in_one_line_and_leaves_no_part(
    rrr: Command, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    rrr(*RUN, "--trainer.max_steps=1")
    kept = last_checkpoint("run").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    line = refused(*RUN, "--trainer.max_steps=2")
    assert "the checkpoint cannot be written (No space left on device)" in line
    assert last_checkpoint("run").read_bytes() == kept
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["last.ckpt"]


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    from rrr_lightning.checkpointing import StopSignals

    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        StopSignals([signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT
