"""Situations that users of other libraries reported when they embedded a method in their module."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
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
