from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from rrr_lightning.errors import InputError
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.student import CHECKPOINT_KEY, is_plain, micro_step
from tests.models.tiny import (
    Outputs,
    Same,
    Steps,
    classifier,
    fit,
    loader,
    make_trainer,
    smooth,
    weights,
)

ROUNDING = {"rtol": 1e-4, "atol": 1e-6}  # float32 sums in another order


def curve(**kwargs: Any) -> list[float]:
    steps = Steps()
    trainer = {
        name: kwargs.pop(name) for name in ("steps", "accumulate_grad_batches") if name in kwargs
    }
    fit(classifier(smooth(), **kwargs), callbacks=[steps], **trainer)
    return steps.learning_rates


# ---------------------------------------------------------------------------------- optimization


def test_the_learning_rate_is_stepped_once_per_optimizer_step() -> None:
    plain = curve(warmup_steps=2, steps=6)
    assert plain == pytest.approx([0.0, 0.05, 0.1, 0.1 * 0.853553, 0.05, 0.1 * 0.146447], rel=1e-4)
    assert curve(warmup_steps=2, steps=6, accumulate_grad_batches=2) == plain
    assert curve(warmup_fraction=1 / 3, steps=6) == plain


class Before(ImageClassifier):
    """Notes whether gradients are there when the forward pass begins."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        held = getattr(self, "held", [])
        self.held = [*held, any(each.grad is not None for each in self.parameters())]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("accumulate", "held"), [(1, [False] * 4), (2, [False, True] * 4)])
def test_gradients_are_freed_before_the_forward_pass(accumulate: int, held: list[bool]) -> None:
    module = Before("cifar_resnet8", 4, learning_rate=0.1, seed=0)
    fit(module, steps=4, accumulate_grad_batches=accumulate)
    assert module.held == held


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert curve(steps=2) == [0.1, 0.05]


def test_a_run_inside_its_warm_up_never_reaches_the_peak() -> None:
    assert curve(warmup_steps=8, steps=3) == pytest.approx([0.0, 0.1 / 8, 0.2 / 8])


def test_the_schedule_needs_a_number_of_steps() -> None:
    with pytest.raises(InputError, match=r"trainer.max_steps: .*; found -1; accepted: a positive"):
        fit(classifier(smooth()), steps=-1, max_epochs=1)


def test_the_loaders_are_never_built_to_count_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Trainer) -> float:
        raise AssertionError("an exact resume does not survive this")

    monkeypatch.setattr(Trainer, "estimated_stepping_batches", property(refuse))
    fit(classifier(smooth()), steps=1)


def test_factories_replace_optimizer_and_schedule() -> None:
    module = classifier(
        smooth(), optimizer=partial(Adam, lr=0.01), lr_scheduler=partial(ExponentialLR, gamma=0.5)
    )
    steps = Steps()
    trainer = fit(module, steps=-1, max_epochs=1, accumulate_grad_batches=2, callbacks=[steps])
    assert isinstance(trainer.optimizers[0], Adam)
    assert steps.learning_rates == pytest.approx([0.01, 0.005, 0.0025])


def test_gradients_do_not_depend_on_the_split_of_the_batch() -> None:
    runs: list[Steps] = []
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        runs.append(Steps())
        fit(
            classifier(smooth()),
            loaders=loader(batch_size=batch_size),
            steps=3,
            accumulate_grad_batches=accumulation,
            callbacks=[runs[-1]],
        )
    for run in runs[1:]:
        for split, whole in zip(run.gradients, runs[0].gradients, strict=True):
            torch.testing.assert_close(split, whole, **ROUNDING)


# ---------------------------------------------------------------------------------- randomness


def dropout_masks(global_seed: int, **kwargs: Any) -> list[torch.Tensor]:
    outputs = Outputs("network.body.3")
    module = classifier(smooth(dropout=0.5), learning_rate=0.0, **kwargs)
    torch.manual_seed(global_seed)
    fit(module, loaders=Same(), steps=3, accumulate_grad_batches=2, callbacks=[outputs])
    return [output == 0 for output in outputs.seen]


def test_dropout_is_a_function_of_seed_step_and_micro_batch() -> None:
    first, again = dropout_masks(1), dropout_masks(2)
    assert len(first) == 6
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    different = [torch.equal(a, b) for i, a in enumerate(first) for b in first[:i]]
    assert not any(different)
    assert not torch.equal(first[0], dropout_masks(1, seed=5)[0])


def test_a_micro_batch_is_keyed_by_its_place_in_the_step() -> None:
    trainer = make_trainer(accumulate_grad_batches=3)
    assert [micro_step(trainer, index) for index in (0, 2, 3)] == [(0, 0, 0), (0, 2, 0), (0, 0, 0)]


# ---------------------------------------------------------------------------------- checkpoints


def saved(path: Path, module: ImageClassifier | None = None, **kwargs: Any) -> str:
    module = module or classifier(smooth(), warmup_steps=1)
    trainer = fit(module, **{"loaders": Same(), "steps": 3, **kwargs})
    trainer.save_checkpoint(path / "last.ckpt")
    return str(path / "last.ckpt")


class SaveInTheMiddle(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(tmp_path: Path) -> None:
    whole, resumed = (classifier(smooth(dropout=0.5), warmup_steps=1) for _ in range(2))
    middle = SaveInTheMiddle(tmp_path / "middle.ckpt")
    torch.manual_seed(1)
    fit(whole, loaders=Same(), steps=6, callbacks=[middle])
    torch.manual_seed(2)
    fit(resumed, ckpt_path=middle.path, loaders=Same(), steps=6)
    assert torch.equal(weights(resumed), weights(whole))


def test_an_extended_run_follows_the_longer_curve(tmp_path: Path) -> None:
    path = saved(tmp_path)
    steps = Steps()
    fit(
        classifier(smooth(), warmup_steps=1),
        ckpt_path=path,
        loaders=Same(),
        steps=6,
        callbacks=[steps],
    )
    assert steps.learning_rates == curve(warmup_steps=1, steps=6)[3:]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"learning_rate": 0.5},
            r"^model.learning_rate: differs from .*; found 0.5; accepted: 0.1 ",
        ),
        (
            {"weight_decay": 0.25},
            r"^model.weight_decay: differs from .*; found 0.25; accepted: 3.05",
        ),
        ({"seed": 5}, r"^model.seed: differs from .*; found 5; accepted: 0 "),
        ({"momentum": 0.5}, r"^model.momentum: differs from .*; found 0.5; accepted: 0.875"),
        ({"warmup_steps": 2}, r"^model.warmup_steps: differs from .*; found 2; accepted: 1 "),
        (
            {"warmup_steps": None},
            r"^model.warmup_steps: differs from .*; found 'none'; accepted: 1 ",
        ),
        (
            {"label_smoothing": 0.5},
            r"^model.label_smoothing: differs .*; found 0.5; accepted: 0.0 ",
        ),
    ],
)
def test_a_resumed_run_with_other_values_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path)
    with pytest.raises(InputError, match=message):
        fit(
            classifier(smooth(), **{"warmup_steps": 1, **changed}),
            ckpt_path=path,
            loaders=Same(),
            steps=6,
        )


def test_a_resumed_run_may_grow_but_not_shrink(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(InputError, match=r"trainer.max_steps: is less .*; found 2; accepted: 3 "):
        fit(classifier(smooth(), warmup_steps=1), ckpt_path=path, loaders=Same(), steps=2)


def test_only_a_resumed_run_is_held_to_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path)
    other = ImageClassifier.load_from_checkpoint(path, learning_rate=0.5)
    assert other.learning_rate == 0.5
    make_trainer(limit_val_batches=1).validate(other, loader(), ckpt_path=path, verbose=False)


class OwnOptimizer(ImageClassifier):
    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=0.01)


def test_own_optimizers_are_not_held_to_values_they_do_not_use(tmp_path: Path) -> None:
    path = saved(tmp_path, OwnOptimizer(smooth(), 4), steps=-1, max_epochs=1)
    module = OwnOptimizer(smooth(), 4, learning_rate=0.5)
    trainer = fit(module, ckpt_path=path, loaders=Same(), steps=-1, max_epochs=2)
    assert trainer.global_step == 12
    assert torch.load(path, weights_only=True)[CHECKPOINT_KEY]["class"] == "ImageClassifier"


def test_a_factory_is_not_held_to_values_it_does_not_use(tmp_path: Path) -> None:
    def module(learning_rate: float) -> ImageClassifier:
        return classifier(smooth(), learning_rate=learning_rate, optimizer=partial(Adam, lr=0.01))

    path = saved(tmp_path, module(0.1))
    assert fit(module(0.5), ckpt_path=path, loaders=Same(), steps=6).global_step == 6
    stored = torch.load(path, weights_only=True)
    assert "optimizer" not in stored["hyper_parameters"]
    training = stored[CHECKPOINT_KEY]["training"]
    assert "learning_rate" not in training
    assert (training["optimizer"], training["optimizer.lr"]) == ("Adam", 0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"optimizer": partial(Adam, lr=0.5)},
            r"^model.optimizer.lr: .*found 0.5; accepted: 0.01 ",
        ),
        ({"optimizer": partial(SGD, lr=0.01)}, r"^model.optimizer: .*found 'SGD'; accepted: Adam "),
        (
            {"lr_scheduler": partial(StepLR, step_size=2)},
            r"^model.lr_scheduler.step_size: .*found 2; accepted: 3 ",
        ),
    ],
)
def test_a_factory_is_held_to_what_it_made(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    first = {"optimizer": partial(Adam, lr=0.01), "lr_scheduler": partial(StepLR, step_size=3)}
    path = saved(tmp_path, classifier(smooth(), **first))
    fit(classifier(smooth(), **first), ckpt_path=path, loaders=Same(), steps=6)
    with pytest.raises(InputError, match=message):
        fit(classifier(smooth(), **{**first, **changed}), ckpt_path=path, loaders=Same(), steps=6)


def test_plain_values() -> None:
    assert is_plain({"a": [1, 2.0, ("x", None, True)]})
    for value in (Path(), torch.zeros(1), {"a": [len]}, {Path(): 1}, torch.float32):
        assert not is_plain(value)
