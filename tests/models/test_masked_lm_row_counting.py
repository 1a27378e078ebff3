"""A step follows the mean over all of its rows, however they are spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError
from rrr_lightning.models.masked_lm import EXPECTED_ROWS, RowCounting
from tests.models.texts import Gradients, TextData, assert_same, language_model
from tests.models.tiny import make_trainer

STEPS = 4


def fit(
    folder: Path | None = None, distilled: bool = False, trainer: Any = None, **data: Any
) -> list[Tensor]:
    """Fits on the same samples per step, whatever the split."""
    noted = Gradients(folder)
    callbacks: list[Any] = [noted]
    if distilled:
        schedule = DistillationSchedule(until=0.9)
        callbacks.append(DistillationCallback([language_model(seed=7)], schedule=schedule))
    made = make_trainer(STEPS, callbacks=callbacks, **(trainer or {}))
    made.fit(language_model(), datamodule=TextData(**data))
    return noted.noted


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_split_batches_equal_the_whole(distilled: bool, clip: float | None) -> None:
    settings = {"gradient_clip_val": clip}
    whole = fit(distilled=distilled, trainer=settings)
    for micro in (4, 1):
        split = fit(distilled=distilled, trainer=settings, micro_batch_size=micro)
        assert_same(whole, split, STEPS)
    if clip:
        assert all(gradient.norm() == pytest.approx(clip, rel=1e-3) for gradient in whole)


@pytest.mark.ddp
@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("micro", [None, 2])
def test_two_ranks_equal_one(tmp_path: Path, distilled: bool, micro: int | None) -> None:
    alone = fit(distilled=distilled)
    ranks = {"devices": 2, "strategy": "ddp_fork"}
    fit(tmp_path, distilled, ranks, micro_batch_size=micro)
    for rank in range(2):
        assert_same(alone, torch.load(tmp_path / f"gradients{rank}.pt"), STEPS)


class Scaled(MixedPrecision):
    """Half precision's order of scaling, hooks and clipping, in full precision on the CPU."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))

    def forward_context(self) -> Any:
        return torch.autocast("cpu", enabled=False)


def test_gradients_are_put_to_scale_after_half_precision_was_undone() -> None:
    clipped = {"gradient_clip_val": 0.05}
    plain = fit(trainer=clipped)
    scaled = fit(trainer={"plugins": [Scaled()], **clipped}, micro_batch_size=4)
    assert_same(plain, scaled, STEPS)


class Squares(RowCounting, LightningModule):
    """A foreign module: batches are numbers, however many."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.noted: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.contribution((self.weight * batch).sum(), len(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.weight.grad is not None:
            self.noted.append(self.weight.grad.item())


def numbers(*batches: list[float]) -> DataLoader[Any]:
    return DataLoader([torch.tensor(batch) for batch in batches], batch_size=None)  # type: ignore[arg-type]


def fit_numbers(module: LightningModule, *batches: list[float], **settings: Any) -> None:
    make_trainer(-1, **{"max_epochs": 1, **settings}).fit(module, numbers(*batches))


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_a_short_window_at_the_end_of_an_epoch_counts_in_full() -> None:
    module = Squares()
    fit_numbers(module, [1.0], [2.0, 3.0, 6.0], [5.0], accumulate_grad_batches=2)
    assert module.noted[1:] == [3.0, 5.0]


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_a_step_without_rows_has_no_gradient() -> None:
    module = Squares()
    fit_numbers(module, [], [4.0, 6.0], [], [])
    assert module.noted == [0.0, 5.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_gradients_of_a_whole_step_are_right_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    scale = torch._foreach_mul_

    def counted(*given: Any) -> None:
        passes.append(given)
        scale(*given)

    monkeypatch.setattr(torch, "_foreach_mul_", counted)
    module = Squares()
    fit_numbers(module, [1.0], [2.0, 3.0, 7.0])
    assert (module.noted, passes) == ([1.0, 4.0], [])
    fit_numbers(module, [1.0], [2.0, 3.0, 6.0], accumulate_grad_batches=2)
    assert (module.noted[-1], len(passes)) == (3.0, 1)


def test_a_mean_goes_through_the_same_factor() -> None:
    module = Squares()
    total = module.contribution(torch.tensor(12.0), 3)
    assert total == 12 / EXPECTED_ROWS == 4 * module.row_factor(3)


class Forgetful(Squares):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        pass


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_a_hook_that_swallows_the_scaling_is_noticed() -> None:
    with pytest.raises(InputError, match=r"Forgetful.on_before_optimizer_step does not call super"):
        fit_numbers(Forgetful(), [1.0], [2.0])


class Hoarder(SingleDeviceStrategy):
    handles_gradient_accumulation = True


def test_strategies_with_an_accumulation_of_their_own_are_refused() -> None:
    trainer = Trainer(
        strategy=Hoarder("cpu"), max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"trainer.strategy: .*found 'Hoarder'"):
        trainer.fit(Squares(), numbers([1.0]))
