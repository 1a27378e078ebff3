"""Situations that users of other libraries reported when they embedded a method in their module."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    Foreign,
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
    weights,
)


class Copies(Callback):
    """Copies the module during the run, as an average of weights does, and trains the copy."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step != 2:
            return
        taken = copy.deepcopy(pl_module)
        before, others = weights(pl_module), weights(taken)
        taken.log = lambda *_: None
        optimizer = torch.optim.SGD(taken.parameters(), lr=0.1)
        taken.training_step(torch.utils.data.default_collate([make_data()[0]] * 4), 0).backward()
        optimizer.step()
        assert torch.equal(weights(pl_module), before), "the copy trains the original"
        assert not torch.equal(weights(taken), others), "the copy does not train"
        self.done = True


def test_a_copy_made_during_the_run_trains_itself() -> None:
    """pytorch-lightning#10914: an average of weights deep-copies the module while it is trained."""
    plain, watched, copies = make_module(), make_module(), Copies()
    fit(plain, distil([make_teacher()]), steps=4)
    fit(watched, distil([make_teacher()]), copies, steps=4)
    assert copies.done
    assert torch.equal(weights(plain), weights(watched))


class FixedSize(nn.Module):
    """A teacher that takes inputs of one size alone, and says so as its library does."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.head, self.error = nn.Linear(32, 5), error

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[1] != 32:
            raise self.error(f"Input height ({inputs.shape[1]}) doesn't match model (32).")
        rows: Tensor = self.head(inputs)
        return rows


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_a_teacher_of_fixed_input_size_is_refused_in_one_line(error: type[Exception]) -> None:
    """lightly-train#29, pytorch-image-models#597: a ViT refuses images of another size."""
    line = r"fails on a batch of the student \(Input height \(8\) doesn't match model \(32\)\.\)"
    with pytest.raises(InputError, match=line) as caught:
        fit(make_module(), distil([FixedSize(error)]), steps=1)
    assert "\n" not in str(caught.value)
    assert "interpolate" in str(caught.value)


class Samples(Dataset[dict[str, Tensor]]):
    """Samples as dictionaries, which is how torchgeo's data sets give them."""

    def __init__(self, name: str) -> None:
        self.rows, self.name = make_data(), name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        inputs, label = self.rows[place]
        return {"image": inputs, self.name: label}


class OfDicts(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        labels = batch["label"] if "label" in batch else batch["labels"]
        return nn.functional.cross_entropy(self.net(batch["image"]), labels)


@pytest.mark.parametrize("name", ["label", "labels"])
def test_labels_of_dictionaries_have_either_name(name: str) -> None:
    """torchgeo: the samples of its classification data sets have `label`, others `labels`."""
    trainer = make_trainer(
        1, [distil([make_teacher()], teacher_min_accuracy=0.999, teacher_inputs=image_of)]
    )
    with pytest.raises(InputError, match=r"is right on .* of 8 rows .*teacher_min_accuracy"):
        trainer.fit(make_module(OfDicts), DataLoader(Samples(name), batch_size=8))


def image_of(batch: Any) -> Any:
    return batch["image"]


class NextToken(LightningModule):
    """A causal language model that is not of transformers: it shifts its labels itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, labels = batch["input_ids"], batch["labels"]
        logits = self.net(tokens)[:, :-1].reshape(-1, 20)
        return nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("padding", [0, 3])
def test_labels_that_are_the_tokens_themselves_are_refused(padding: int) -> None:
    """The collator of a causal language model copies the tokens into the labels, unshifted."""
    tokens = torch.randint(20, (8, 12), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, 12 - padding :] = -100
    samples = [{"input_ids": row, "labels": of} for row, of in zip(tokens, labels, strict=True)]
    module = NextToken()
    callback = distil([nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))])
    with pytest.raises(InputError, match=r"labels of the batch are its own tokens"):
        make_trainer(callbacks=[callback]).fit(module, DataLoader(samples, batch_size=4))


class Collates(Foreign):
    def collate(self, samples: list[Any]) -> Any:
        return torch.utils.data.default_collate(samples)


@pytest.mark.slow  # a process that imports torch
@pytest.mark.filterwarnings("ignore:.*persistent_workers")
def test_a_method_of_the_module_collates_in_spawned_workers() -> None:
    """Where workers are spawned (macOS, Windows), a bound `collate_fn` pickles the module."""
    torch.manual_seed(0)
    module = Collates()
    loader = DataLoader(
        make_data(),
        batch_size=8,
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=module.collate,
    )
    make_trainer(steps=2, callbacks=[distil([make_teacher()])]).fit(module, loader)
    plain = make_module()
    fit(plain, distil([make_teacher()]), steps=2)
    assert torch.equal(weights(module), weights(plain))


class Saves(Callback):
    """Pickles and scripts the network in the middle of the run."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        file = io.BytesIO()
        torch.save(pl_module.net, file)
        self.content = file.getvalue()
        self.scripted = torch.jit.script(pl_module.net)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_network_that_is_saved_whole_has_nothing_of_this_library(tmp_path: Path) -> None:
    """`torch.save(net)` during a run leaves a file that opens where this library is missing."""
    saves = Saves()
    fit(make_module(), distil([make_teacher()]), saves, steps=4)
    assert b"rrr_lightning" not in saves.content
    loaded = torch.load(io.BytesIO(saves.content), weights_only=False)
    inputs = torch.randn(3, 8)
    assert torch.allclose(loaded(inputs), saves.scripted(inputs))


class Changes(Callback):
    """Changes the number of steps while the run is under way."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            trainer.fit_loop.epoch_loop.max_steps = self.steps


@pytest.mark.parametrize("steps", [4, 12])
def test_a_number_of_steps_that_changes_during_the_run_is_refused(steps: int) -> None:
    """Callbacks that stop early or go on by changing `max_steps` move the end of distillation."""
    callback = distil([make_teacher()], schedule={"until": 1.0})
    with pytest.raises(InputError, match=r"trainer\.max_steps"):
        fit(make_module(), callback, Changes(steps), steps=8)


def test_a_vision_transformer_of_one_image_size_says_how_to_resize() -> None:
    """lightly-train#29, with the real network: a ViT of transformers takes one size of image."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, num_labels=5,
    )  # fmt: skip
    teacher = ViTForImageClassification(config)
    student = Foreign()
    student.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 5))
    images = torch.randn(16, 3, 24, 24)
    data = torch.utils.data.TensorDataset(images, torch.arange(16) % 5)
    trainer = make_trainer(steps=2, callbacks=[distil([teacher])])
    with pytest.raises(
        InputError, match=r"Input image size (.|\n)* distillation\.teacher_inputs"
    ) as refused:
        trainer.fit(student, DataLoader(data, batch_size=8))
    assert isinstance(refused.value.__cause__, ValueError)
