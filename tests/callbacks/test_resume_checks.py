"""How many steps `until` refers to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    distil,
    fit,
    make_module,
    make_teacher,
)


@pytest.mark.parametrize("bounds", [{}, {"max_time": {"minutes": 5}}])
def test_an_unbounded_run_is_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no bound"):
        fit(make_module(), distil([make_teacher()]), steps=-1, **bounds)


def test_epochs_times_batches_bound_a_run() -> None:
    callback = distil([make_teacher()])
    fit(make_module(), callback, steps=-1, max_epochs=3, accumulate_grad_batches=3)
    assert callback.state_dict()["total_steps"] == 3 * 3  # ceil(8 batches / 3) in each of 3 epochs


@pytest.mark.parametrize(
    ("scheduling", "steps"), [({0: 8}, 4), ({0: 1, 2: 4}, 8 + 8 + 2 + 2), ({1: 3}, 8 + 3 * 3)]
)
def test_accumulation_that_changes_is_counted_epoch_by_epoch(
    scheduling: dict[int, int], steps: int
) -> None:
    callback = distil([make_teacher()])
    accumulation = GradientAccumulationScheduler(scheduling)
    trainer = fit(make_module(), callback, accumulation, steps=-1, max_epochs=4)
    assert callback.state_dict()["total_steps"] == trainer.global_step == steps


@pytest.mark.parametrize("norm", [True, False])
def test_the_epoch_that_weight_averaging_adds_is_not_counted(norm: bool) -> None:
    module = make_module()
    if norm:
        module.net.append(torch.nn.BatchNorm1d(CLASSES))  # type: ignore[operator]
    callback = distil([make_teacher()])
    averaging = StochasticWeightAveraging(0.05, swa_epoch_start=2)
    fit(module, callback, averaging, steps=-1, max_epochs=4)
    assert callback.state_dict()["total_steps"] == 4 * 8
