"""The teachers see what the student's network was called with."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import Foreign, make_module, make_trainer, weights
from tests.models.texts import CALM, TINY, sample

CLASSES, SIZE = 5, 8


def permuted(x: Tensor) -> Tensor:
    return x[torch.randperm(len(x))]


def mixed(x: Tensor) -> Tensor:
    return 0.6 * x + 0.4 * permuted(x)


def cut_mixed(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., 2:5, 1:6] = permuted(x)[..., 2:5, 1:6]
    return x


def cropped(x: Tensor) -> Tensor:
    return x[..., 1:-1, 2:]


def subset(x: Tensor) -> Tensor:
    return x[: len(x) // 2]


def changed_in_place(x: Tensor) -> Tensor:
    return x.mul_(torch.linspace(0.5, 2, len(x)).view(-1, 1, 1, 1))


def unchanged(x: Tensor) -> Tensor:
    return x


class ImageNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images.to(self.head.weight.dtype)).relu()
        rows: Tensor = self.head(features.mean((2, 3)) * 4)
        return rows


class Changing(Foreign):
    """Changes its images in the step; the labels do not matter at rate 0."""

    change: Any = staticmethod(unchanged)

    def __init__(self) -> None:
        super().__init__()
        self.net = ImageNet()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images = self.change(batch[0])
        logits = self.net(images)
        return nn.functional.cross_entropy(logits, batch[1][: len(images)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Logged(Callback):
    """The values that the callback logs."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.agreements: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/distillation_loss"]))
        self.agreements.append(float(trainer.callback_metrics["train/agreement"]))


def images(dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (32, 3, SIZE, SIZE), generator=generator)
    values = pixels.to(dtype) if dtype == torch.uint8 else (pixels / 64 - 2).to(dtype)
    return DataLoader(TensorDataset(values, torch.arange(32) % CLASSES), batch_size=8)


def copy_of(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network)


def distilled(module: Any, teacher: nn.Module, loader: Any, **kwargs: Any) -> Logged:
    logged = Logged()
    kwargs = {"student_logits": "net", **kwargs}
    callback = DistillationCallback(
        [teacher], loss=KLDivergence(1.0), schedule=DistillationSchedule(until=1.0), **kwargs
    )
    make_trainer(3, [callback, logged]).fit(module, loader)
    return logged


def assert_the_same(logged: Logged) -> None:
    assert len(logged.losses) == 3
    assert logged.losses == pytest.approx([0.0] * 3, abs=1e-6)
    assert logged.agreements == [1.0] * 3


CHANGES = [
    unchanged,
    permuted,
    mixed,
    cut_mixed,
    cropped,
    subset,
    changed_in_place,
    Tensor.double,
    Tensor.bfloat16,
]


@pytest.mark.parametrize("name", ["net", "net.head"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_teacher_that_is_the_student_agrees_whatever_the_step_does_to_the_images(
    change: Any, compiled: bool, name: str
) -> None:
    module = make_module(Changing)
    module.change = change
    teacher = copy_of(module.net)
    if compiled:
        torch._dynamo.reset()
        module.net.compile(backend="eager")
    assert_the_same(distilled(module, teacher, images(), student_logits=name))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float16])
def test_the_teacher_gets_the_dtype_that_the_step_makes(dtype: torch.dtype) -> None:
    module = make_module(Changing)
    module.net = nn.Sequential(nn.Conv2d(3, CLASSES, SIZE), nn.Flatten())
    module.change = lambda x: x.float() / 4
    assert_the_same(distilled(module, copy_of(module.net), images(dtype)))


class Returning(Changing):
    """Returns its logits, so that its network has no name."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(self.change(batch[0]))
        return {"loss": nn.functional.cross_entropy(logits, batch[1]), "logits": logits}


@pytest.mark.parametrize("change", [permuted, mixed, cropped])
def test_a_step_whose_network_is_not_known_is_refused_where_it_changes_the_batch(
    change: Any,
) -> None:
    module = make_module(Returning)
    module.change = change
    with pytest.raises(InputError, match=r"changes the batch.*distillation.teacher_inputs"):
        distilled(module, copy_of(module.net), images(), student_logits=None)


def test_a_step_whose_network_is_not_known_may_leave_the_batch_alone() -> None:
    module = make_module(Returning)
    assert_the_same(distilled(module, copy_of(module.net), images(), student_logits=None))


class Copies(Callback):
    """Copies and pickles the module after the first step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if args[-1] == 0:
            self.copies = [copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))]
            self.pickled = pickle.dumps(pl_module)
            self.scripted = torch.jit.script(pl_module.net)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize("name", ["net", "net.head"])
def test_copies_made_during_a_run_train_themselves(name: str) -> None:
    module, copies = make_module(Changing), Copies()
    callback = DistillationCallback([copy_of(module.net)], student_logits=name)
    make_trainer(2, [callback, copies]).fit(module, images())
    assert b"rrr_lightning" not in copies.pickled
    before = [parameter.clone() for parameter in module.parameters()]
    batch = next(iter(images()))
    for copied in copies.copies:
        assert copied.training_step.__self__ is copied
        copied.log = lambda *_, **__: None
        copied.training_step(batch, 0).backward()
        assert all(parameter.grad is not None for parameter in copied.parameters())
        torch.optim.SGD(copied.parameters(), lr=1.0).step()
    assert all(map(torch.equal, before, module.parameters()))
    assert copies.scripted(batch[0]).shape == (8, CLASSES)


# ---------------------------------------------------------------------------------------- texts


def shuffled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.randperm(len(batch["input_ids"]))
    return {name: each[order] for name, each in batch.items()}


def shortened(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: each[:, :6].contiguous() if each.ndim == 2 else each for name, each in batch.items()
    }


def halved(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each[: len(each) // 2] for name, each in batch.items()}


def masked_again(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    tokens = batch["input_ids"]
    chosen = torch.rand(tokens.shape) < 0.4
    labels = batch["labels"]
    if labels.ndim == 2:
        labels = torch.where(chosen, tokens, -100)
    return {**batch, "input_ids": torch.where(chosen, 4, tokens), "labels": labels}


def narrowed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**batch, "input_ids": batch["input_ids"].int()}


def text_network(masked: bool) -> nn.Module:
    config = transformers.BertConfig(**TINY, **CALM, num_labels=3)
    kind = transformers.BertForMaskedLM if masked else transformers.BertForSequenceClassification
    network: nn.Module = kind(config)
    with torch.no_grad():  # rows that differ from text to text
        for parameter in network.parameters():
            parameter.mul_(8)
    return network


class ChangingTexts(Changing):
    """Changes its texts in the step; the network gets the labels, as in many scripts."""

    passes_labels = True

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.net = text_network(masked)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch = self.change(batch)
        if self.passes_labels:
            return self.net(**batch).loss
        labels = batch["labels"]
        logits = self.net(batch["input_ids"], batch["attention_mask"]).logits
        return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def texts(masked: bool) -> DataLoader[Any]:
    samples = [sample(0, number) for number in range(1, 36) if number % 3]
    if not masked:
        samples = [{**each, "labels": torch.tensor(n % 3)} for n, each in enumerate(samples)]
    return DataLoader(samples, batch_size=8)  # type: ignore[arg-type]


TEXT_CHANGES = [unchanged, shuffled, shortened, halved, masked_again, narrowed]


@pytest.mark.parametrize("masked", [True, False], ids=["masked words", "sequences"])
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("change", TEXT_CHANGES, ids=lambda change: change.__name__)
def test_a_teacher_that_is_the_student_agrees_whatever_the_step_does_to_the_texts(
    change: Any, compiled: bool, masked: bool
) -> None:
    module = make_module(ChangingTexts, masked=masked)
    module.change = change
    teacher = copy_of(module.net)
    if compiled:
        torch._dynamo.reset()
        module.net.compile(backend="eager")
    assert_the_same(distilled(module, teacher, texts(masked)))


@pytest.mark.parametrize("change", [shuffled, shortened], ids=lambda change: change.__name__)
def test_a_sequence_classifier_need_not_get_the_labels(change: Any) -> None:
    module = make_module(ChangingTexts, masked=False)
    module.change, module.passes_labels = change, False
    assert_the_same(distilled(module, copy_of(module.net), texts(masked=False)))


@pytest.mark.parametrize("change", [unchanged, narrowed], ids=lambda change: change.__name__)
def test_the_labels_of_the_batch_tell_the_masked_words_where_the_step_keeps_them(
    change: Any,
) -> None:
    module = make_module(ChangingTexts)
    module.change, module.passes_labels = change, False
    assert_the_same(distilled(module, copy_of(module.net), texts(masked=True)))


@pytest.mark.parametrize(
    "change", [shuffled, shortened, halved, masked_again], ids=lambda change: change.__name__
)
def test_masked_words_that_only_the_step_knows_are_refused(change: Any) -> None:
    module = make_module(ChangingTexts)
    module.change, module.passes_labels = change, False
    before = weights(module)
    with pytest.raises(
        InputError, match=r"^distillation.teacher_inputs: .*which tokens are masked"
    ):
        distilled(module, copy_of(module.net), texts(masked=True))
    assert torch.equal(before, weights(module))


class Embedded(ChangingTexts):
    """Looks its words up in a frozen table, and passes them on in another dtype."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch = self.change(dict(batch))
        table = self.net.get_input_embeddings().weight.detach()
        words = table[batch.pop("input_ids")].double().float()
        return self.net(inputs_embeds=words, **batch).loss


@pytest.mark.parametrize("masked", [True, False], ids=["masked words", "sequences"])
@pytest.mark.parametrize("change", [unchanged, shuffled], ids=lambda change: change.__name__)
def test_the_teacher_gets_the_embeddings_that_the_network_gets(change: Any, masked: bool) -> None:
    module = make_module(Embedded, masked=masked)
    module.change = change
    assert_the_same(distilled(module, copy_of(module.net), texts(masked)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "masked words", "sequences"])
def test_a_compiler_that_traces_gradients_changes_nothing(kind: str) -> None:
    torch._dynamo.reset()
    if kind == "images":
        module, loader, change = make_module(Changing), images(), mixed
    else:
        masked = kind == "masked words"
        module, loader = make_module(ChangingTexts, masked=masked), texts(masked)
        change = shuffled
    module.change = change
    teacher = copy_of(module.net)
    module.net.compile(backend="aot_eager")
    logged = distilled(module, teacher, loader)
    assert logged.losses == pytest.approx([0.0] * 3, abs=1e-5)
    assert logged.agreements == [1.0] * 3
