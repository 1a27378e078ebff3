"""A resumed run ends with the same weights, having seen the same samples at the same steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.data.toy import Notes, NumberedData, by_step, make_trainer

STEPS = 7  # an epoch of 46 samples has three steps of 12


class Save(Callback):
    """Saves after every micro-batch and after every validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Trainer, when: str) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        trainer.save_checkpoint(self.folder / f"{when}{done}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "validation")

    def on_exception(self, trainer: Trainer, *args: Any) -> None:
        self.save(trainer, "exception")


def fit(
    folder: Path,
    steps: int = STEPS,
    checkpoint: Path | None = None,
    module: Notes | None = None,
    **data: Any,
) -> Notes:
    """Accumulates over 3 micro-batches and validates after every 5th, so often inside a window."""
    module = module or Notes()
    trainer = make_trainer(
        folder,
        steps,
        callbacks=[] if checkpoint else [Save(folder)],
        val_check_interval=5,
        check_val_every_n_epoch=None,
    )
    settings = {"micro_batch_size": 4, **data}
    trainer.fit(module, datamodule=NumberedData(**settings), ckpt_path=checkpoint)
    assert trainer.global_step == steps
    return module


def assert_continues(whole: Notes, resumed: Notes, step: int) -> None:
    assert resumed.seen == [item for item in whole.seen if item[0] >= step]
    assert torch.equal(whole.net.weight, resumed.net.weight)
    assert torch.equal(whole.net.bias, resumed.net.bias)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, fit(folder)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 9, 10, 15, 17, 20])
def test_resume_after_any_micro_batch(uninterrupted: tuple[Path, Notes], batch: int) -> None:
    folder, whole = uninterrupted
    resumed = fit(folder, checkpoint=folder / f"batch{batch}.ckpt")
    assert_continues(whole, resumed, step=batch // 3)


@pytest.mark.parametrize("batch", [5, 10, 15, 20])
def test_resume_after_a_validation_inside_a_window(
    uninterrupted: tuple[Path, Notes], batch: int
) -> None:
    folder, whole = uninterrupted
    resumed = fit(folder, checkpoint=folder / f"validation{batch}.ckpt")
    assert_continues(whole, resumed, step=batch // 3)
    again = [point for point in (5, 10, 15, 20) if point > batch // 3 * 3]
    assert len(resumed.evaluated) == 10 * len(again)


class Stumbles(Notes):
    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if len(self.seen) == 10:
            raise RuntimeError("stumbled")
        return super().training_step(batch)


def test_resume_from_a_checkpoint_of_an_exception(
    uninterrupted: tuple[Path, Notes], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="stumbled"):
        fit(tmp_path, module=Stumbles())
    (saved,) = tmp_path.glob("exception*.ckpt")
    assert_continues(uninterrupted[1], fit(tmp_path, checkpoint=saved), step=3)


def test_resume_with_two_workers(uninterrupted: tuple[Path, Notes], tmp_path: Path) -> None:
    folder, whole = uninterrupted
    assert_continues(whole, fit(tmp_path, num_workers=2), step=0)
    resumed = fit(tmp_path, checkpoint=folder / "batch10.ckpt", num_workers=2)
    assert_continues(whole, resumed, step=3)


def test_a_chain_of_resumes(uninterrupted: tuple[Path, Notes], tmp_path: Path) -> None:
    folder, whole = uninterrupted
    checkpoint, seen = folder / "batch4.ckpt", [item for item in whole.seen if item[0] < 1]
    for stop in (2, 3, 5, STEPS):
        part = fit(tmp_path, steps=stop, checkpoint=checkpoint)
        seen += part.seen
        checkpoint = tmp_path / f"stop{stop}.ckpt"
        part.trainer.save_checkpoint(checkpoint)
    assert seen == whole.seen
    assert torch.equal(part.net.weight, whole.net.weight)


def test_a_finished_run_extended_equals_the_longer_run(
    uninterrupted: tuple[Path, Notes], tmp_path: Path
) -> None:
    _, whole = uninterrupted
    short = fit(tmp_path, steps=4)
    short.trainer.save_checkpoint(tmp_path / "finished.ckpt")
    for name in ("finished", "batch12"):
        extended = fit(tmp_path, checkpoint=tmp_path / f"{name}.ckpt")
        assert_continues(whole, extended, step=4)


def test_accumulation_does_not_change_what_a_step_sees(tmp_path: Path) -> None:
    runs = [by_step(fit(tmp_path, micro_batch_size=micro).seen) for micro in (12, 6, 4, 1)]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert set(runs[0]) == set(range(STEPS))


@pytest.mark.parametrize("micro", [12, 6, 2])
@pytest.mark.parametrize("batch", [8, 9, 10])
def test_the_micro_batch_may_change_on_resume(
    uninterrupted: tuple[Path, Notes], batch: int, micro: int
) -> None:
    folder, whole = uninterrupted
    checkpoint = folder / f"batch{batch}.ckpt"
    resumed = fit(folder, checkpoint=checkpoint, micro_batch_size=micro)
    assert len(resumed.seen) == (STEPS - batch // 3) * 12 // micro
    assert by_step(resumed.seen) == by_step([item for item in whole.seen if item[0] >= batch // 3])
    assert torch.allclose(resumed.net.weight, whole.net.weight, atol=1e-5)


def rank_seen(folder: Path, run: str, **data: Any) -> list[list[tuple[int, list[int]]]]:
    """Fits on two ranks; the module's notes come back as files, one per rank."""
    module = Notes()
    checkpoint = data.pop("checkpoint", None)
    trainer = make_trainer(
        folder,
        STEPS,
        devices=2,
        strategy="ddp_fork",
        callbacks=[Leave(folder, run)],
        val_check_interval=5,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, datamodule=NumberedData(**data), ckpt_path=checkpoint)
    return [torch.load(folder / f"{run}{rank}.pt") for rank in range(2)]


class Leave(Callback):
    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{self.run}-{trainer.global_step}.ckpt")

    def on_train_end(self, trainer: Trainer, module: Notes) -> None:
        assert sorted(module.evaluated[:5]) in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
        torch.save(module.seen, self.folder / f"{self.run}{trainer.global_rank}.pt")
        if trainer.global_rank == 0:
            torch.save(module.net.weight.detach(), self.folder / f"{self.run}-weight.pt")


@pytest.mark.ddp
def test_two_ranks_share_each_step_and_resume_exactly(tmp_path: Path) -> None:
    alone = by_step(fit(tmp_path).seen)
    for micro in (None, 2):
        ranks = rank_seen(tmp_path, f"micro{micro}", micro_batch_size=micro)
        left, right = by_step(ranks[0]), by_step(ranks[1])
        for step in alone:
            assert not set(left[step]) & set(right[step])
            assert sorted(left[step] + right[step]) == alone[step]
    # Saved at the validation after 10 micro-batches: one of three of the window of step 3.
    checkpoint = tmp_path / "micro2-3.ckpt"
    resumed = rank_seen(tmp_path, "resumed", micro_batch_size=2, checkpoint=checkpoint)
    assert resumed == [[item for item in rank if item[0] >= 3] for rank in ranks]
    weights = [torch.load(tmp_path / f"{run}-weight.pt") for run in ("micro2", "resumed")]
    assert torch.equal(*weights)
