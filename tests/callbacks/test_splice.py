"""Every kind of step and of student: wrapped, read, put back, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.compile import from_compiled
from torch import Tensor, nn

from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    DictForeign,
    Foreign,
    counted_forwards,
    distil,
    fit,
    make_module,
    make_teacher,
    weights,
)


class OneArgument(Foreign):
    def training_step(self, batch: Any) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class Sometimes(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


class ManyCalls(Foreign):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("cls", [OneArgument, Sometimes, ManyCalls])
def test_unusual_steps_learn_from_the_teacher(cls: type[Foreign]) -> None:
    plain, distilled, teacher = make_module(cls), make_module(cls), make_teacher()
    fit(plain)
    with counted_forwards(teacher) as calls:
        fit(distilled, distil([teacher], schedule={"until": 1.0}))
    assert len(calls) > 1
    assert not torch.equal(weights(plain), weights(distilled))


def test_the_logits_are_taken_out_of_the_returned_dict() -> None:
    seen: list[set[str]] = []

    class Read(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any
        ) -> None:
            seen.append(set(outputs))

    fit(make_module(DictForeign), distil([make_teacher()], student_logits=None), Read(), steps=2)
    assert seen[0] == {"loss", "extra"}


class Quiet(Foreign):
    """Logs nothing: `self.log` inside a compiled module warns."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("what", ["inner network", "container", "module"])
def test_compiled_students_get_the_same_gradients(what: str) -> None:
    teacher = make_teacher()
    eager, compiled = make_module(Quiet), make_module(Quiet)
    fit(eager, distil([teacher], schedule={"until": 0.5}, student_logits="net.3"), steps=6)
    target: Any = compiled
    if what == "inner network":
        compiled.net.compile(backend="eager")
        name = "net"
    elif what == "container":
        compiled.net.compile(backend="eager")
        name = "net.3"
    else:
        target, name = from_compiled(torch.compile(compiled, backend="eager")), "net.3"
    fit(target, steps=1)  # compiled before the callback comes
    compiled.load_state_dict(make_module(Quiet).state_dict())
    compiled.gradients.clear()
    before = dict(compiled.__dict__).get("training_step")
    fit(target, distil([teacher], schedule={"until": 0.5}, student_logits=name), steps=6)
    assert dict(compiled.__dict__).get("training_step") is before
    assert "forward" not in compiled.net[3].__dict__
    assert len(compiled.gradients) == 6
    for one, other in zip(eager.gradients, compiled.gradients, strict=True):
        torch.testing.assert_close(one, other)


class Tuple(nn.Module):
    def forward(self, inputs: Tensor) -> Any:
        return inputs.sum(), inputs


class Awkward(Foreign):
    """Has sub-modules that run never, twice, without grad, and give a tuple or one column."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Identity()
        self.twice = nn.Identity()
        self.detached = nn.Identity()
        self.tuple = Tuple()
        self.column = nn.Identity()
        self.first_half = nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        self.twice(self.twice(logits))
        self.detached(logits.detach())
        self.tuple(logits)
        self.column(logits[:, :1])
        self.first_half(logits[: len(logits) // 2])
        return nn.functional.cross_entropy(logits, batch[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "no sub-module is named, and training_step returns no `logits`"),
        ("nett", "no sub-module of this name; did you mean 'net'.*found 'nett'"),
        ("never", "'never' ran never in one training step"),
        ("twice", "'twice' ran 2 times in one training step"),
        ("detached", "do not require grad"),
        ("tuple", "bare tuple"),
        ("column", rf"do not match; found \(8, 1\); .*\(8, {CLASSES}\)"),
        ("first_half", rf"do not match; found \(4, {CLASSES}\); .*\(8, {CLASSES}\)"),
    ],
)
def test_bad_student_rows(name: str | None, message: str) -> None:
    module = make_module(Awkward)
    before = weights(module)
    with pytest.raises(InputError, match=message) as error:
        fit(module, distil([make_teacher()], student_logits=name))
    assert str(error.value).startswith("distillation.student_logits: ")
    assert torch.equal(before, weights(module)), "a step was taken"
    assert "training_step" not in module.__dict__
