"""Every kind of step and of student: wrapped, read, put back, or refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.compile import from_compiled
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    DictForeign,
    Foreign,
    counted_forwards,
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
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


class Rows(NamedTuple):
    aux: Tensor
    logits: Tensor


@dataclass
class Output:
    logits: Tensor


class Wrapping(nn.Module):
    """A network that returns its logits inside of something."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body = make_module().net
        self.wrap = wrap

    def forward(self, inputs: Tensor) -> Any:
        return self.wrap(self.body(inputs))


class Unwrapping(Foreign):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.net = Wrapping(wrap)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = self.net(batch[0])
        logits = output["logits"] if isinstance(output, dict) else output.logits
        return nn.functional.cross_entropy(logits, batch[1])


WRAPS = {
    "named tuple": lambda logits: Rows(logits[:, :2].detach(), logits),
    "dataclass": Output,
    "mapping": lambda logits: {"logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_logits_may_be_a_field_of_what_the_network_returns(kind: str) -> None:
    module, plain = make_module(Unwrapping, wrap=WRAPS[kind]), make_module(Foreign)
    plain.net.load_state_dict(module.net.body.state_dict())
    for each in (plain, module):
        fit(each, distil([make_teacher()], schedule={"until": 1.0}))
    assert torch.equal(weights(plain), weights(module))


class Auxiliary(LightningModule):
    """A network with auxiliary classifiers, which returns a named tuple in training."""

    def __init__(self, name: str) -> None:
        super().__init__()
        kind = getattr(torchvision.models, name)
        self.net = kind(weights=None, init_weights=False, aux_logits=True, num_classes=CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]).logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("name", "size"),
    [("googlenet", 64), pytest.param("inception_v3", 299, marks=pytest.mark.slow)],
)
def test_networks_with_auxiliary_classifiers_learn(name: str, size: int) -> None:
    module, teacher = Auxiliary(name), nn.Sequential(nn.AvgPool2d(size), nn.Flatten())
    teacher.append(nn.Linear(3, CLASSES))
    data = DataLoader(TensorDataset(torch.randn(4, 3, size, size), torch.arange(4)), batch_size=4)
    trainer = make_trainer(1, [distil([teacher])])
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/distillation_loss"] > 0


class Two(Callback):
    """Notes what two callbacks log, and saves after each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append({name: float(each) for name, each in trainer.callback_metrics.items()})
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def two_callbacks(**kwargs: Any) -> list[DistillationCallback]:
    first = distil([make_teacher(1)], schedule={"until": 0.5})
    return [first, distil([make_teacher(2)], name="second", schedule={"until": 0.9}, **kwargs)]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_two_callbacks_mix_both_losses_and_resume(tmp_path: Path) -> None:
    module, two = make_module(), Two(tmp_path)
    fit(module, *two_callbacks(), two, batch_size=64)
    assert "training_step" not in vars(module)
    seen = two.seen[0]
    weight = seen["train/distillation_weight"]
    mixed = (1 - weight) * seen["train/task_loss"] + weight * seen["train/distillation_loss"]
    assert seen["train/task_loss/second"] == pytest.approx(mixed)
    assert seen["train/distillation_loss/second"] != pytest.approx(seen["train/distillation_loss"])
    names = {"DistillationCallback", "DistillationCallback/second"}
    at_step = torch.load(tmp_path / "3.ckpt", weights_only=True)
    assert names <= set(at_step["callbacks"])
    assert [state["teachers"] for state in at_step["callbacks"].values()][:1] != [
        at_step["callbacks"]["DistillationCallback/second"]["teachers"]
    ]
    for step in (3, 6):  # both are on; the first is over
        resumed = make_module()
        trainer = make_trainer(callbacks=two_callbacks())
        data = DataLoader(make_data(), batch_size=64)
        trainer.fit(resumed, data, ckpt_path=tmp_path / f"{step}.ckpt")
        assert torch.equal(weights(module), weights(resumed))


@pytest.mark.parametrize("change", ["teachers", "schedule", "name"])
def test_a_checkpoint_holds_each_of_two_callbacks_to_its_own(tmp_path: Path, change: str) -> None:
    fit(make_module(), *two_callbacks(), Two(tmp_path), steps=8)
    first, second = two_callbacks()
    if change == "teachers":
        second = distil([make_teacher(1)], name="second", schedule={"until": 0.9})
    elif change == "schedule":
        second = distil([make_teacher(2)], name="second", schedule={"until": 0.8})
    else:
        second = distil([make_teacher(2)], name="third", schedule={"until": 0.9})
    trainer = make_trainer(callbacks=[first, second])
    data = DataLoader(make_data(), batch_size=8)
    refused = pytest.raises(InputError, match=r"distillation\.(teachers|schedule\.until): ")
    with pytest.warns() if change == "name" else nullcontext(), refused:
        trainer.fit(make_module(), data, ckpt_path=tmp_path / "3.ckpt")


@pytest.mark.parametrize("when", ["at the first batch", "at a name", "at a teacher's rows"])
def test_a_refusal_prints_nothing_after_the_teachers_are_loaded(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    teacher, kwargs = make_teacher(), {}
    if when == "at the first batch":
        kwargs = {"teacher_min_accuracy": 1.0}
    elif when == "at a name":
        kwargs = {"student_logits": "nett"}
    else:
        teacher = nn.Linear(8, CLASSES + 1)
    with caplog.at_level("INFO"), pytest.raises(InputError):
        fit(make_module(), distil([teacher], **kwargs))
    said = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert "SHA-256" in said[-1]
