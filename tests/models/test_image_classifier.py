from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.distillation.logits import Normalization
from rrr_lightning.errors import InputError
from rrr_lightning.models.image_classifier import IMAGENET_MEAN, IMAGENET_STD, ImageClassifier
from rrr_lightning.models.student import CHECKPOINT_KEY
from tests.models.tiny import (
    CLASSES,
    Data,
    Same,
    Smooth,
    classifier,
    fit,
    loader,
    make_trainer,
    pixels,
    smooth,
    weights,
)

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}

# ---------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("network", ["cifar_resnet8", "resnet18", smooth()])
def test_initial_weights_are_a_function_of_the_seed(network: Any) -> None:
    torch.manual_seed(1)
    first = classifier(network)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = classifier(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(classifier(network, seed=1)))


def test_nothing_is_drawn_where_sizes_are_tried() -> None:
    state = torch.get_rng_state()
    with torch.device("meta"):
        tried = classifier("cifar_resnet8")
    assert all(parameter.is_meta for parameter in tried.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_global_seed_is_the_default_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    by_default, by_seed = classifier(seed=None), classifier(seed=17)
    assert torch.equal(weights(by_default), weights(by_seed))


def test_the_recipe_draws_other_weights_than_the_networks_own() -> None:
    own = classifier(initialization="default").network.norm
    assert own.weight.tolist() == [1.0] * 16
    assert 0 <= classifier().network.norm.weight.min() < 0.5


def test_a_network_object_keeps_its_weights() -> None:
    network = Smooth()
    before = weights(network)
    module = classifier(network)
    assert module.network is network
    assert torch.equal(weights(module), before)


def test_binary_cross_entropy_starts_at_the_frequency_of_the_classes() -> None:
    head = classifier(loss="binary").network.head
    assert head.bias.tolist() == pytest.approx([-math.log(CLASSES)] * CLASSES)


# ---------------------------------------------------------------------------------- views


def test_pixels_are_normalised_and_floats_are_not() -> None:
    images, _ = pixels(2)
    module = classifier(smooth())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    prepared = module.prepare(images)
    torch.testing.assert_close(prepared, (images.float() / 255 - mean) / std, **ROUNDING)
    assert torch.equal(module.prepare(prepared), prepared)
    assert torch.equal(module(images), module(prepared))
    assert torch.equal(module.logits((images, None)), module(images))


def test_pixels_are_normalised_on_their_device() -> None:
    images, _ = pixels(2)
    prepared = classifier().prepare(images.to("meta"))
    assert prepared.device.type == "meta"
    assert prepared.dtype == torch.float32


def test_images_may_come_without_labels() -> None:
    images, _ = pixels(8)
    rows = make_trainer().predict(classifier(smooth()), DataLoader(images, batch_size=4))
    assert [len(part) for part in rows] == [4, 4]


def test_the_layout_is_that_of_the_network() -> None:
    images, _ = pixels(2)
    module = classifier()
    assert module.prepare(images).is_contiguous(memory_format=torch.channels_last)
    weight = module.network.blocks[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = classifier(channels_last=False)
    assert plain.prepare(images).is_contiguous()
    torch.testing.assert_close(plain(images), module(images), rtol=1e-4, atol=1e-5)


class Views(Callback):
    """Lists the batches as the steps see them."""

    def __init__(self) -> None:
        self.training: list[tuple[Tensor, Tensor]] = []
        self.validation: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.training.append(batch)

    def on_validation_batch_start(self, trainer: Trainer, module: Any, batch: Any, *_: Any) -> None:
        self.validation.append(batch)


def views(global_seed: int = 0, steps: int = 2, **kwargs: Any) -> Views:
    torch.manual_seed(global_seed)
    seen = Views()
    module = classifier(smooth(), mixup_alpha=0.4)
    fit(module, loaders=Same(), steps=steps, callbacks=[seen], **kwargs)
    return seen


def test_mix_up_is_keyed_by_step_and_micro_batch() -> None:
    first, again = (views(seed, accumulate_grad_batches=2).training for seed in (1, 2))
    assert len(first) == 4
    for (images, targets), (same, _) in zip(first, again, strict=True):
        assert torch.equal(images, same)
        assert targets.shape == (4, CLASSES)
    assert not any(torch.equal(a[0], b[0]) for i, a in enumerate(first) for b in first[:i])


def test_mix_up_stays_out_of_evaluation() -> None:
    seen = views(limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None)
    assert len(seen.validation) == 2  # the sanity check and one validation
    assert all(labels.shape == (4,) for _, labels in seen.validation)


def test_mix_up_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = views(steps=5).training
    module = classifier(smooth(), mixup_alpha=0.4)
    fit(module, loaders=Same(), steps=3).save_checkpoint(tmp_path / "last.ckpt")
    rest = views(steps=5, ckpt_path=tmp_path / "last.ckpt").training
    assert len(rest) == 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, whole[3:], strict=True))


class DataWithOwnHook(Data):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0].flip(-1), batch[1]]


def test_a_data_module_may_change_pixels_on_the_device() -> None:
    seen = Views()
    module = classifier(smooth())
    make_trainer(steps=1, callbacks=[seen]).fit(module, datamodule=DataWithOwnHook())
    images, _ = next(iter(loader()))
    assert torch.equal(seen.training[0][0], module.prepare(images.flip(-1)))


# ---------------------------------------------------------------------------------- metrics


def test_evaluation_averages_over_images_whatever_the_batches() -> None:
    module = classifier(label_smoothing=0.3)
    images, labels = pixels(24, seed=1)
    with torch.no_grad():
        logits = module.eval()(images)
    trainer = make_trainer(limit_val_batches=1.0, limit_test_batches=1.0)
    unequal = loader(batch_size=7, seed=1)
    metrics = trainer.validate(module, unequal, verbose=False)[0]
    assert set(metrics) == {"val/loss", "val/accuracy"}
    assert metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx(
        float((logits.argmax(1) == labels).float().mean())
    )
    assert set(trainer.test(module, unequal, verbose=False)[0]) == {"test/loss", "test/accuracy"}


def test_top_5_is_logged_where_it_says_something() -> None:
    module = ImageClassifier("cifar_resnet8", 9).eval()
    images, labels = pixels(24, seed=1)
    top = module(images).topk(5).indices
    trainer = make_trainer(limit_val_batches=1.0)
    metrics = trainer.validate(module, loader(seed=1), verbose=False)[0]
    expected = float((top == labels[:, None]).any(dim=1).float().mean())
    assert metrics["val/accuracy_top5"] == pytest.approx(expected)


def test_training_logs_its_loss() -> None:
    assert "train/loss" in fit(classifier(), steps=1).callback_metrics


@pytest.mark.parametrize("loss", ["softmax", "binary"])
def test_predictions_are_probabilities(loss: Any) -> None:
    module = classifier(loss=loss)
    (first, *_) = make_trainer().predict(module, loader())
    assert first.shape == (4, CLASSES)
    images, _ = next(iter(loader()))
    logits = module.eval()(images)
    probabilities = logits.softmax(1) if loss == "softmax" else 1 / (1 + (-logits).exp())
    assert torch.allclose(first, probabilities, atol=1e-6)


# ---------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_describes_itself_in_plain_types(tmp_path: Path) -> None:
    module = classifier(mean=[0.5] * 3, std=[0.25] * 3)
    trainer = make_trainer(steps=1)
    trainer.fit(module, datamodule=Data(class_names=["a", "b", "c", "d"]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    block = torch.load(tmp_path / "last.ckpt", weights_only=True)[CHECKPOINT_KEY]
    assert block["class"] == "ImageClassifier"
    assert block["schema"] == {
        "columns": CLASSES,
        "labels": ["a", "b", "c", "d"],
        "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "special_token_ids": None,
    }
    rebuilt = ImageClassifier(**block["arguments"])
    assert rebuilt.schema() == module.schema()
    rebuilt.load_state_dict(module.state_dict())
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(weights(loaded), weights(module))
    assert loaded.schema() == module.schema()


def test_a_checkpoint_of_a_network_object_asks_for_it(tmp_path: Path) -> None:
    module = classifier(Smooth())
    trainer = fit(module, steps=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored[CHECKPOINT_KEY]["arguments"]["network"] is None
    with pytest.raises(
        InputError, match=r"network: is missing: the checkpoint's network was given"
    ):
        ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", network=Smooth())
    assert torch.equal(weights(loaded), weights(module))


def test_the_state_is_that_of_the_network_alone() -> None:
    module = classifier()
    assert {name.split(".")[0] for name in module.state_dict()} == {"network"}
    assert not [name for name, _ in module.named_buffers() if not name.startswith("network.")]


def test_the_schema_names_the_input_statistics() -> None:
    assert classifier().schema().normalization == Normalization(IMAGENET_MEAN, IMAGENET_STD)


def test_a_compiled_network_has_the_same_keys() -> None:
    module = classifier(compile_network=True)
    assert list(module.state_dict()) == list(classifier().state_dict())
    assert module.network._compiled_call_impl is not None


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "resnet51"}, r"network: unknown name; did you mean"),
        ({"num_classes": 1}, r"num_classes: out of range; found 1; accepted: 2 or more"),
        ({"label_smoothing": 1.0}, r"label_smoothing: out of range; found 1.0; .*\[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing: out of range; found -0.1"),
        ({"mixup_alpha": -1.0}, r"mixup_alpha: out of range; found -1.0"),
        ({"loss": "hinge"}, r"loss: unknown; found 'hinge'; accepted: softmax, binary"),
        ({"initialization": "x"}, r"initialization: unknown; found 'x'; accepted: recipe, default"),
        ({"warmup_steps": 1, "warmup_fraction": 0.1}, r"warmup_steps: given twice"),
        ({"class_names": ["a"]}, r"class_names: need one name per class"),
        ({"std": [0.0] * 3}, r"a std is not positive"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageClassifier(**{"network": "cifar_resnet8", "num_classes": CLASSES, **arguments})


def test_data_with_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"num_classes: differs .*; found 4; accepted: 9"):
        make_trainer(steps=1).fit(classifier(), datamodule=Data(num_classes=9))


@pytest.mark.parametrize("network", [nn.Flatten(), Smooth(classes=CLASSES + 1)])
def test_a_network_without_one_row_per_image_is_refused(network: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"network: .*not one row of logits per image; found \(4, "
    ):
        fit(classifier(network), steps=1)
