from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.callbacks.resume_checks import check_teachers_are_over
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
)


def checkpoint(step: int, **schedule: Any) -> dict[str, Any]:
    callback = DistillationCallback([make_teacher()], schedule=DistillationSchedule(**schedule))
    state = {**callback.state_dict(), "total_steps": 10, "names": ["a.ckpt"]}
    return {"global_step": step, "callbacks": {callback.state_key: state}}


def test_teachers_may_stay_away_once_their_window_is_over() -> None:
    check_teachers_are_over(checkpoint(5, until=0.5), 10)
    check_teachers_are_over(checkpoint(3, until=0.5, weight=0.0), 10)
    check_teachers_are_over({"global_step": 3, "callbacks": {}}, 10)
    check_teachers_are_over({}, 10)


@pytest.mark.parametrize(("step", "max_steps"), [(4, 10), (4, 5), (5, 11)])
def test_an_open_window_needs_its_teachers(step: int, max_steps: int) -> None:
    message = rf"until 0.5 of training; found 'none at step {step} of .*; accepted: a.ckpt as in"
    with pytest.raises(InputError, match=message):
        check_teachers_are_over(checkpoint(step, until=0.5), max_steps)


def test_a_run_that_began_without_teachers_gets_none(tmp_path: Path) -> None:
    trainer = fit(make_module())
    path = tmp_path / "plain.ckpt"
    trainer.save_checkpoint(path)

    def go_on(**allowed: bool) -> Trainer:
        callback = distil([make_teacher()], **allowed)
        trainer = make_trainer(16, [callback])
        trainer.fit(make_module(), DataLoader(make_data(), batch_size=8), ckpt_path=path)
        return trainer

    with pytest.raises(InputError, match=r"the checkpoint.s 8 steps were made without teachers"):
        go_on()
    assert go_on(allow_teacher_change=True).global_step == 16
