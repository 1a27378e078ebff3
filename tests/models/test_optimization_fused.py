"""AdamW is fused where that is possible, and trains as others do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.optimization import can_fuse
from tests.models.texts import CALM, TINY, Gradients, TextData, language_model
from tests.models.tiny import classifier, fit, make_trainer, smooth


def fit_text(model: LightningModule, steps: int = 4, **settings: Any) -> Trainer:
    trainer = make_trainer(steps, **settings)
    trainer.fit(model, datamodule=TextData())
    return trainer


def is_fused(trainer: Trainer) -> Any:
    return trainer.optimizers[0].param_groups[0]["fused"]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.02)


def test_text_is_learned_alike() -> None:
    noted = []
    for model in (language_model(), language_model(optimizer=adamw)):
        seen = Gradients()
        noted.append((is_fused(fit_text(model, 12, callbacks=[seen])), seen.noted))
    (fused, ours), (other, theirs) = noted
    assert (fused, other) == (True, None)
    assert len(ours) == 12
    for left, right in zip(ours, theirs, strict=True):
        assert (left - right).norm() < 1e-3 * right.norm()


def test_a_part_that_joins_later_is_trained() -> None:
    model = language_model()
    late = model.network.network.bert.encoder.layer[0].output.dense.weight
    before = late.detach().clone()

    class Joins(Callback):
        """Sets a parameter free after two steps, which no optimizer may stumble over."""

        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            late.grad = None
            late.requires_grad_(trainer.global_step >= 2)

    trainer = fit_text(model, callbacks=[Joins()])
    assert trainer.global_step == 4
    assert is_fused(trainer) is True
    assert not torch.equal(before, late)


def test_images_leave_the_choice_to_torch() -> None:
    # Its fused SGD fails where a parameter has its first gradient after the first step.
    assert is_fused(fit(classifier(smooth()))) is None


@pytest.mark.filterwarnings("ignore")
def test_gradients_are_clipped_in_mixed_precision() -> None:
    trainer = fit_text(language_model(), precision="bf16-mixed", gradient_clip_val=0.1)
    assert (trainer.global_step, is_fused(trainer)) == (4, None)


class Clips(MaskedLanguageModel):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


class Looks(MaskedLanguageModel):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


class ClipsFromOutside(Callback):
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        pl_module.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "callbacks"),
    [(Clips, []), (Looks, []), (MaskedLanguageModel, [ClipsFromOutside()])],
    ids=["clips", "looks", "callback"],
)
def test_hooks_of_others_clip_in_mixed_precision(kind: Any, callbacks: list[Callback]) -> None:
    model = kind({**TINY, **CALM}, 30, learning_rate=0.01, seed=0)
    trainer = fit_text(model, precision="bf16-mixed", callbacks=callbacks)
    assert (trainer.global_step, is_fused(trainer)) == (4, None)


def test_gradients_that_are_scaled_are_unscaled_before_hooks_see_them() -> None:
    model: Any = language_model()
    model._trainer = SimpleNamespace(gradient_clip_val=None, precision="16-mixed", callbacks=[])
    assert can_fuse(model) is None
    model._trainer.precision = "bf16-mixed"
    assert can_fuse(model) is True


@pytest.mark.parametrize(
    "parameter",
    [
        torch.ones(2, device="meta"),
        torch.ones(3, 4)[:, :2],
        torch.ones(1, 2, 3, 4).to(memory_format=torch.channels_last),
    ],
    ids=["device", "gaps", "layout"],
)
def test_what_fused_kernels_do_not_know_is_left_to_torch(parameter: torch.Tensor) -> None:
    module = LightningModule()
    module.weight = nn.Parameter(torch.ones(2))
    assert can_fuse(module) is True
    module.other = nn.Parameter(parameter)
    assert can_fuse(module) is None
