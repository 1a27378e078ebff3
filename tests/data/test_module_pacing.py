from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from rrr_lightning.data.module import pace
from rrr_lightning.data.sampling import BatchPlan, KeyedBatches
from rrr_lightning.errors import InputError
from tests.data.toy import Notes, NumberedData, make_trainer


def batches() -> KeyedBatches:
    """Three steps an epoch, two micro-batches a step."""
    return KeyedBatches(38, BatchPlan(12, 6), seed=0, step=lambda: 0)


@pytest.mark.parametrize(
    ("settings", "interval", "every"),
    [
        ({}, 6, None),
        ({"check_val_every_n_epoch": 4}, 24, None),
        ({"val_check_interval": 0.34}, 2, None),
        ({"val_check_interval": 0.01}, 2, None),
        ({"val_check_interval": 5}, 5, 1),
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, 5, None),
        ({"limit_train_batches": 3}, 1.0, 1),
    ],
)
def test_fractions_of_an_epoch_become_whole_steps(
    tmp_path: Path, settings: dict[str, Any], interval: float, every: int | None
) -> None:
    trainer = make_trainer(tmp_path, 8, **settings)
    before = (trainer.val_check_interval, trainer.check_val_every_n_epoch)
    former = pace(trainer, batches())
    assert trainer.accumulate_grad_batches == 2
    assert (trainer.val_check_interval, trainer.check_val_every_n_epoch) == (interval, every)
    for name, value in former.items():
        setattr(trainer, name, value)
    assert (trainer.val_check_interval, trainer.check_val_every_n_epoch) == before


class Validations(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [3, 6]),
        ({"val_check_interval": 0.67}, [2, 4, 6]),
        ({"val_check_interval": 4}, [2, 4, 6]),
    ],
)
def test_validation_runs_on_time_and_the_trainer_gets_its_settings_back(
    tmp_path: Path, settings: dict[str, Any], steps: list[int]
) -> None:
    validations = Validations()
    trainer = make_trainer(tmp_path, 7, callbacks=[validations], **settings)
    data = NumberedData(38, micro_batch_size=6)
    trainer.fit(Notes(), datamodule=data)
    assert validations.steps == steps
    assert trainer.accumulate_grad_batches == 1
    assert trainer.val_check_interval == settings.get("val_check_interval", 1.0)
    assert trainer.check_val_every_n_epoch == 1


def test_a_fast_run_validates(tmp_path: Path) -> None:
    module = Notes()
    trainer = make_trainer(tmp_path, 1, fast_dev_run=True)
    trainer.fit(module, datamodule=NumberedData(38, micro_batch_size=6))
    assert len(module.seen) == 1
    assert module.evaluated


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"accumulate_grad_batches": 3},
            "trainer.accumulate_grad_batches: is 2 by data.global_batch_size and "
            "data.micro_batch_size; found 3; accepted: leave it out",
        ),
        (
            {"max_steps": -1, "max_epochs": 3},
            "trainer.max_steps: must be set, as the training data never end; an epoch has 3 "
            "optimizer steps; found -1; accepted: a whole number from 1",
        ),
        (
            {"max_epochs": 3},
            "trainer.max_epochs: must be -1, as trainer.max_steps ends the run; an epoch has 3 "
            "optimizer steps; found 3; accepted: -1",
        ),
        (
            {"overfit_batches": 2},
            "trainer.overfit_batches: cannot be used with keyed batches; found 2; accepted: 0.0",
        ),
        (
            {"limit_train_batches": 0.5},
            "trainer.limit_train_batches: cannot be a fraction, as the training data never end; "
            "found 0.5; accepted: 1.0, or a whole number of micro-batches",
        ),
        (
            {"callbacks": [GradientAccumulationScheduler({0: 2})]},
            "trainer.callbacks: GradientAccumulationScheduler changes what a step sees; "
            "accumulation follows from data.global_batch_size and data.micro_batch_size; "
            "accepted: leave it out",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    trainer = make_trainer(tmp_path, **{"max_steps": 8, **settings})
    with pytest.raises(InputError) as caught:
        trainer.fit(Notes(), datamodule=NumberedData(38, micro_batch_size=6))
    assert str(caught.value) == line
