from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from rrr_lightning.callbacks.randomness import KeyedRandomness
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import Foreign, make_data, make_module, make_trainer, weights


class Same:
    """One and the same batch for ever, so that only dropout differs; resumes anywhere."""

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(make_data().tensors)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Save(Callback):
    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def run(global_seed: int, *callbacks: Callback, ckpt_path: Path | None = None) -> Foreign:
    module = make_module(dropout=0.5)
    trainer = make_trainer(6, callbacks, accumulate_grad_batches=2)
    torch.manual_seed(global_seed)
    trainer.fit(module, Same(), ckpt_path=ckpt_path)
    return module


def test_a_foreign_module_with_dropout_resumes_to_the_same_bits(tmp_path: Path) -> None:
    save = Save(tmp_path / "middle.ckpt", step=3)
    whole = run(1, KeyedRandomness(seed=5), save)
    resumed = run(2, KeyedRandomness(seed=5), ckpt_path=save.path)
    assert torch.equal(weights(resumed), weights(whole))


def test_without_it_the_runs_differ(tmp_path: Path) -> None:
    save = Save(tmp_path / "middle.ckpt", step=3)
    whole = run(1, save)
    assert not torch.equal(weights(run(2, ckpt_path=save.path)), weights(whole))


def test_runs_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights(run(1, KeyedRandomness(seed=5)))
    assert torch.equal(weights(run(2, KeyedRandomness(seed=5))), first)
    assert not torch.equal(weights(run(1, KeyedRandomness(seed=6))), first)
    by_default = KeyedRandomness()
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert torch.equal(weights(run(3, by_default)), first)


def test_steps_and_micro_batches_have_streams_of_their_own() -> None:
    draws: list[float] = []

    class Drawing(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            draws.append(float(torch.rand(())))
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(3, [KeyedRandomness(seed=5)], accumulate_grad_batches=2)
    trainer.fit(make_module(Drawing), Same())
    assert len(set(draws)) == len(draws) == 6


def test_another_seed_on_resume_is_refused(tmp_path: Path) -> None:
    save = Save(tmp_path / "middle.ckpt", step=3)
    run(1, KeyedRandomness(seed=5), save)
    with pytest.raises(InputError, match=r"^seed: differs from .*; found 6; accepted: 5 as in"):
        run(1, KeyedRandomness(seed=6), ckpt_path=save.path)
