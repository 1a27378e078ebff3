"""Checkpoints: whole or not there, found by rule, and read without running code."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader, TensorDataset

from rrr_lightning.checkpointing import (
    AtomicCheckpointIO,
    RunCheckpoint,
    check_checkpoint,
    find_checkpoint,
    last_checkpoint,
)
from rrr_lightning.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


class Line(LightningModule):
    """A module that knows nothing of this library."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, width)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, callback: RunCheckpoint, max_steps: int, module: Any = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=max_steps,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or Line(), DataLoader(TensorDataset(torch.ones(8, 1)), num_workers=0))
    return trainer


# ---------------------------------------------------------------------------------- saving


def test_what_is_saved_is_loaded_and_the_folder_holds_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.arange(3), "b": [1]}, path)
    AtomicCheckpointIO().save_checkpoint({"a": torch.arange(4), "b": [2]}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["a"], torch.arange(4))
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_save_that_fails_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: None}, path)
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}
    AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_the_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"step": 1}


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": Code()}, tmp_path / "bad.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt")
    with pytest.raises(InputError, match="ckpt_path"):
        check_checkpoint(tmp_path / "bad.ckpt", Line())
    assert not (tmp_path / "executed").exists()


SAVER = """
import sys, torch
from rrr_lightning.checkpointing import AtomicCheckpointIO
for step in range(1, 10_000):
    content = {"step": step, "weights": torch.full((500_000,), float(step))}
    AtomicCheckpointIO().save_checkpoint(content, sys.argv[1])
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for number in range(6):
        command = [sys.executable, "-c", SAVER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.013 * number)
            process.send_signal(signal.SIGKILL)
        content = AtomicCheckpointIO().load_checkpoint(path)
        assert torch.equal(content["weights"], torch.full((500_000,), float(content["step"])))


# ---------------------------------------------------------------------------------- when


def test_saves_every_n_steps_and_at_the_last(tmp_path: Path) -> None:
    saved: list[int] = []

    class Recorded(RunCheckpoint):
        def _save(self, trainer: Trainer) -> None:
            before = self._saved_step
            super()._save(trainer)
            if self._saved_step != before:
                saved.append(trainer.global_step)

    train(tmp_path, Recorded(every_n_steps=3), max_steps=7)
    assert saved == [3, 6, 7]
    assert torch.load(last_checkpoint(tmp_path), weights_only=True)["global_step"] == 7


def test_saves_on_sigterm_but_not_on_other_exceptions(tmp_path: Path) -> None:
    class Stopped(Line):
        exception: type[BaseException] = SIGTERMException

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 2:
                raise self.exception

    class Broken(Stopped):
        exception = ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "broken", RunCheckpoint(), 5, Broken())
    assert not last_checkpoint(tmp_path / "broken").exists()
    with pytest.raises(SIGTERMException):
        train(tmp_path / "stopped", RunCheckpoint(), 5, Stopped())
    assert torch.load(last_checkpoint(tmp_path / "stopped"))["global_step"] == 2


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="every_n_steps: must be positive; found 0"):
        RunCheckpoint(every_n_steps=0)


# ---------------------------------------------------------------------------------- finding


def test_last_is_the_run_folders_own(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, None, training=True) is None
    assert find_checkpoint(tmp_path, "last", training=True) is None
    AtomicCheckpointIO().save_checkpoint({}, last_checkpoint(tmp_path))
    assert find_checkpoint(tmp_path, "last", training=True) == last_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path, None, training=False) is None
    with pytest.raises(InputError, match=r"holds the checkpoints of a run.*--ckpt_path last"):
        find_checkpoint(tmp_path, None, training=True)


def test_a_cut_file_from_a_kill_is_never_picked(tmp_path: Path) -> None:
    folder = last_checkpoint(tmp_path).parent
    folder.mkdir()
    (folder / ".last.ckpt.part").write_bytes(b"PK")
    assert find_checkpoint(tmp_path, "last", training=True) is None


@pytest.mark.parametrize("asked", ["last", "nowhere.ckpt", "."])
def test_a_checkpoint_that_is_not_there_is_refused(asked: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ckpt_path: no such checkpoint"):
        find_checkpoint(tmp_path, asked, training=False)


def test_a_fitting_checkpoint_gives_its_step(tmp_path: Path) -> None:
    train(tmp_path, RunCheckpoint(), max_steps=3)
    content = check_checkpoint(last_checkpoint(tmp_path), Line())
    assert content["global_step"] == 3
    assert "state_dict" not in content


def test_weights_alone_and_other_networks_are_refused(tmp_path: Path) -> None:
    torch.save(Line().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="is not a checkpoint of a training run; found"):
        check_checkpoint(tmp_path / "weights.pt", Line())
    train(tmp_path, RunCheckpoint(), max_steps=1)
    with pytest.raises(InputError, match="do not fit the network"):
        check_checkpoint(last_checkpoint(tmp_path), Line(width=2))


def test_a_damaged_or_foreign_checkpoint_is_not_continued(tmp_path: Path) -> None:
    content = {"state_dict": Line().state_dict(), "global_step": 3}
    path = tmp_path / "a.ckpt"
    torch.save({**content, "optimizer_states": [torch.full((1000,), 7.0)]}, path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(torch.full((1000,), 7.0).numpy().tobytes()) + 99] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"ckpt_path: .*a\.ckpt cannot be read.*Bad CRC-32"):
        check_checkpoint(path, Line())
    torch.save({**content, "hyper_parameters": {"root": tmp_path}}, path)
    with pytest.raises(InputError, match=r"ckpt_path: .*holds pickled objects \(pathlib"):
        check_checkpoint(path, Line())
    torch.save({**content, "device": torch.device("cpu"), "seen": {1, 2}}, path)
    assert check_checkpoint(path, Line())["global_step"] == 3
    torch.save({**content, "state_dict": 3}, path)
    with pytest.raises(InputError, match="not a checkpoint of a training run"):
        check_checkpoint(path, Line())


def test_a_checkpoint_with_an_average_beside_its_weights_is_continued(tmp_path: Path) -> None:
    """Lightning's WeightAveraging keeps the current weights beside the averaged ones."""
    other = {name: tensor + 1 for name, tensor in Line().state_dict().items()}
    content = {"state_dict": Line().state_dict(), "current_model_state": other, "global_step": 3}
    torch.save(content, tmp_path / "a.ckpt")
    assert check_checkpoint(tmp_path / "a.ckpt", Line())["global_step"] == 3


# ---------------------------------------------------------------------------------- not finite


class Diverges(Line):
    """Loses its loss, or its weights, at a step."""

    def __init__(self, loss_at: int = -1, weights_at: int = -1) -> None:
        super().__init__()
        self.loss_at, self.weights_at = loss_at, weights_at

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * (torch.nan if self.trainer.global_step == self.loss_at else 1.0)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert self.layer.weight.grad is not None
        if self.trainer.global_step == self.weights_at:
            self.layer.weight.grad.fill_(torch.inf)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Diverges(loss_at=4), "weights 'layer.weight' are not finite after 6 steps"),
        (Diverges(weights_at=5), "weights 'layer.weight' are not finite after 6 steps"),
        (Diverges(weights_at=6), "weights 'layer.weight' are not finite after 8 steps"),
    ],
)
def test_a_run_that_has_diverged_stops_and_keeps_the_last_good_checkpoint(
    module: Diverges, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, RunCheckpoint(every_n_steps=2), 8, module)
    stored = torch.load(last_checkpoint(tmp_path), weights_only=True)
    assert stored["global_step"] == (4 if module.weights_at != 6 else 6)
    assert all(tensor.isfinite().all() for tensor in stored["state_dict"].values())


def test_the_loss_is_looked_at_when_it_is_logged(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^loss: the task's loss is not finite at step 49, .*; found nan"
    ):
        train(tmp_path, RunCheckpoint(), 100, Diverges(loss_at=49))
    assert not last_checkpoint(tmp_path).exists()
