"""How many steps `until` refers to."""

from __future__ import annotations

from typing import Any

import pytest

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
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
