"""The default optimizers are fused where that is possible, and train as others do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from rrr_lightning.models.fused import can_fuse
from rrr_lightning.models.image_classifier import ImageClassifier
from tests.models.texts import Gradients, TextData, language_model
from tests.models.tiny import classifier, fit, make_trainer, smooth, weights


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.875, weight_decay=2**-15)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.02)


def test_images_are_learned_alike() -> None:
    models = [classifier(smooth()), classifier(smooth(), optimizer=sgd)]
    before = weights(models[0])
    trainers = [fit(model, max_steps=12) for model in models]
    fused = [each.optimizers[0].param_groups[0]["fused"] for each in trainers]
    assert fused == [True, None]
    torch.testing.assert_close(*map(weights, models), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, weights(models[0]), atol=1e-3)


def test_text_is_learned_alike() -> None:
    models = [language_model(), language_model(optimizer=adamw)]
    noted = []
    for model in models:
        seen = Gradients()
        trainer = make_trainer(12, callbacks=[seen])
        trainer.fit(model, datamodule=TextData())
        noted.append((trainer.optimizers[0].param_groups[0]["fused"], seen.noted))
    (fused, ours), (other, theirs) = noted
    assert (fused, other) == (True, None)
    assert len(ours) == 12
    for left, right in zip(ours, theirs, strict=True):
        assert (left - right).norm() < 1e-3 * right.norm()


@pytest.mark.filterwarnings("ignore")
def test_gradients_are_clipped_in_mixed_precision() -> None:
    model = classifier(smooth())
    trainer = fit(model, precision="bf16-mixed", gradient_clip_val=0.1)
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["fused"] is None


class Clips(ImageClassifier):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_clips_by_itself_trains_in_mixed_precision() -> None:
    trainer = fit(Clips(smooth(), 4, learning_rate=0.1, seed=0), precision="bf16-mixed")
    assert trainer.global_step == 4


class Looks(ImageClassifier):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_clips_in_a_hook_trains_in_mixed_precision() -> None:
    trainer = fit(Looks(smooth(), 4, learning_rate=0.1, seed=0), precision="bf16-mixed")
    assert trainer.global_step == 4


def test_gradients_that_are_scaled_are_unscaled_before_hooks_see_them() -> None:
    model = classifier(smooth())
    model._trainer = SimpleNamespace(gradient_clip_val=None, precision="16-mixed")  # type: ignore[assignment]
    assert can_fuse(model) is None
    model._trainer.precision = "bf16-mixed"  # type: ignore[union-attr,misc]
    assert can_fuse(model) is True


def test_what_torch_cannot_fuse_is_left_to_it() -> None:
    module = LightningModule()
    module.weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert can_fuse(module) is None
    module.weight = torch.nn.Parameter(torch.ones(2))
    assert can_fuse(module) is True
