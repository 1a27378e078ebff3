"""Bad teachers stop the run before the first step."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from rrr_lightning.callbacks.teacher_checks import validation_batches
from rrr_lightning.callbacks.teacher_loading import _refuse_causal
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.distillation.losses import KLDivergence, LogitMSE, SoftCrossEntropy
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    CLASSES,
    FEATURES,
    Foreign,
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
    weights,
)


class Wrong(nn.Module):
    def __init__(self, columns: int, value: float = 0.0) -> None:
        super().__init__()
        self.columns, self.value = columns, value
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full((len(inputs), self.columns), self.value)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (Wrong(1), f"found 1; accepted: {CLASSES}"),
        (Wrong(CLASSES + 1), rf"found {CLASSES + 1}; accepted: {CLASSES}"),
        (Wrong(CLASSES, math.nan), "NaN"),
    ],
)
def test_bad_teacher_rows(teacher: nn.Module, message: str) -> None:
    module = make_module()
    before = weights(module)
    with pytest.raises(InputError, match=message):
        fit(module, distil([make_teacher(), teacher]))
    assert torch.equal(before, weights(module)), "a step was taken"


class RulesOut(nn.Module):
    """Gives -inf to the first class, as a network with masked logits does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_teacher()

    def forward(self, inputs: Tensor) -> Tensor:
        ruled_out = torch.tensor([True] + [False] * (CLASSES - 1))
        found: Tensor = self.net(inputs).masked_fill(ruled_out, -math.inf)
        return found


@pytest.mark.parametrize("loss", [KLDivergence(), KLDivergence(1e4), SoftCrossEntropy()])
def test_a_teacher_may_rule_classes_out(loss: nn.Module) -> None:
    module = make_module()
    fit(module, distil([RulesOut(), make_teacher()], loss=loss))
    assert weights(module).isfinite().all()


@pytest.mark.parametrize("loss", [LogitMSE(), KLDivergence(direction="reverse")])
def test_losses_that_would_be_infinite_refuse_such_a_teacher(loss: nn.Module) -> None:
    with pytest.raises(InputError, match=r"teachers\[0\]: 8 of 8 rows .* hold -inf"):
        fit(make_module(), distil([RulesOut()], loss=loss))


def test_min_accuracy_and_chance(caplog: pytest.LogCaptureFixture) -> None:
    useless = Wrong(CLASSES)
    with pytest.raises(
        InputError, match=r"right on .*%\) of 8 rows of a training batch; accepted: at least 90\.0%"
    ):
        fit(make_module(), distil([useless], teacher_min_accuracy=0.9))
    fit(make_module(), distil([useless]))
    assert "no better than chance" in caplog.text
    caplog.clear()

    class Oracle(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :CLASSES]

    fit(make_module(), distil([Oracle()], teacher_min_accuracy=0.9))
    assert "no better than chance" not in caplog.text


class Validates(Foreign):
    """Validation batches come from a loader of its own."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/outputs", self.net(batch[0]).mean())


@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_the_accuracy_is_taken_on_validation_samples(sanity_steps: int) -> None:
    inputs = torch.eye(8)[:, :8]
    train = TensorDataset(inputs, torch.full((8,), 4))  # the teacher is wrong on most of these
    validation = TensorDataset(inputs[:5], torch.arange(5))

    callback = distil([Columns()], teacher_min_accuracy=0.9)
    trainer = make_trainer(steps=2, callbacks=[callback], num_sanity_val_steps=sanity_steps)
    loaders = [DataLoader(each, batch_size=8) for each in (train, validation)]
    trainer.fit(make_module(Validates), *loaders)
    assert trainer.global_step == 2


class Columns(nn.Module):
    """Right on the classes below `known`, and on no others."""

    def __init__(self, known: int = CLASSES) -> None:
        super().__init__()
        self.known = known

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs[:, :CLASSES].clone()
        rows[:, self.known :] = -1
        return rows


def by_class(each: int = 400) -> TensorDataset:
    labels = torch.arange(CLASSES).repeat_interleave(each)
    return TensorDataset(torch.eye(FEATURES)[labels], labels)


class Rows(Dataset[Any]):
    """Counts what is fetched; a collate function makes batches of its rows."""

    def __init__(self) -> None:
        self.tensors, self.seen = by_class(), []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.rand(1), np.random.rand(1), random.random()
        self.seen.append(index)
        inputs, label = self.tensors[index]
        return {"inputs": inputs, "label": int(label)}


def collate(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    return torch.stack([row["inputs"] for row in rows]), torch.tensor([r["label"] for r in rows])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(by_class())


class Batches:
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.eye(FEATURES)[:5], torch.arange(5))] * 3)


def judged(validation: Any, known: int, minimum: float | None, **settings: Any) -> Any:
    callback = distil([Columns(known)], teacher_min_accuracy=minimum)
    trainer = make_trainer(steps=1, callbacks=[callback], **settings)
    trainer.fit(make_module(Validates), DataLoader(make_data(), batch_size=8), validation)
    return trainer


LOADERS = {
    "in order": lambda: DataLoader(by_class(), batch_size=64),
    "shuffled": lambda: DataLoader(by_class(), batch_size=7, shuffle=True),
    "rows": lambda: DataLoader(Rows(), batch_size=50, collate_fn=collate),
    "several": lambda: [DataLoader(by_class(), batch_size=64), DataLoader(by_class())],
}


@pytest.mark.filterwarnings("ignore:.*num_workers|.*shuffling enabled:UserWarning")
@pytest.mark.parametrize("kind", LOADERS)
def test_samples_are_drawn_over_the_whole_validation_set(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    loader: Any = LOADERS[kind]()
    judged(loader, known=3, minimum=0.5)  # right on 60 %, and on none of the last 800
    assert "no better than chance" not in caplog.text
    line = (
        r"right on (5[5-9]|6[0-5])\.\d% \(standard error 2\.\d%\) of 5\d\d rows of validation sam"
    )
    with pytest.raises(InputError, match=line):
        judged(loader, known=3, minimum=0.7)
    judged(loader, known=1, minimum=None)  # right on all of the first 400
    assert "which is no better than chance" in caplog.text


@pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning")
@pytest.mark.parametrize("kind", ["stream", "sampler", "batches"])
def test_where_samples_have_no_index_the_first_batches_are_judged(kind: str) -> None:
    subset = list(range(800))
    loader: Any = {
        "stream": lambda: DataLoader(Stream(), batch_size=64),
        "sampler": lambda: DataLoader(by_class(), batch_size=64, sampler=subset),  # type: ignore
        "batches": Batches,
    }[kind]()
    line = r"of \d+ rows of the first validation batches; accepted: at least 100.0%"
    with pytest.raises(InputError, match=line):
        judged(loader, known=1, minimum=1.0)


def test_the_check_leaves_no_trace_in_chance_or_order() -> None:
    def run(teachers: Any) -> tuple[list[int], list[float], Tensor]:
        rows, generator = Rows(), torch.Generator().manual_seed(4)
        validation = DataLoader(rows, batch_size=50, collate_fn=collate, generator=generator)
        callbacks = [distil(teachers)] if teachers else []
        trainer = make_trainer(steps=2, callbacks=callbacks, val_check_interval=2)
        module = make_module(Validates, dropout=0.5)
        seed_everything(5, verbose=False)
        trainer.fit(module, DataLoader(make_data(), batch_size=8, shuffle=True), validation)
        drawn = [torch.rand(()).item(), float(np.random.rand()), random.random()]
        return rows.seen[-2000:], drawn, generator.get_state()

    seen, drawn, state = run(None)
    assert seen == list(range(2000))
    again, drawn_again, state_again = run([Columns()])
    assert (again, drawn_again) == (seen, drawn)
    assert torch.equal(state_again, state)


def test_all_ranks_judge_on_the_same_samples() -> None:
    def drawn(rank: int) -> list[int]:
        rows = Rows()
        sampler: Any = DistributedSampler(rows, num_replicas=2, rank=rank, shuffle=False)
        loader = DataLoader(rows, batch_size=50, sampler=sampler, collate_fn=collate)
        assert sum(len(labels) for _, labels in validation_batches(loader)[0]) == 512
        return rows.seen

    assert drawn(0) == drawn(1)
    assert len(set(drawn(0))) == 512


def test_data_modules_of_this_library_are_drawn_from_too() -> None:
    data = EmbeddedDigits(eval_batch_size=100)
    batches, what = validation_batches(data.val_dataloader())
    labels = torch.cat([labels for _, labels in batches])
    assert what == "validation samples drawn at random"
    assert (len(labels), labels.bincount(minlength=10).min() > 30) == (512, True)


def test_few_samples_are_judged_all() -> None:
    with pytest.raises(InputError, match=r"right on 60.0% \(standard error 8.9%\) of 30 rows"):
        judged(DataLoader(by_class(6), batch_size=4), known=3, minimum=0.7)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_student_that_could_validate_needs_no_validation_data() -> None:
    teacher = make_teacher()
    module = make_module(Validates)
    fit(module, distil([teacher]))
    assert module.trainer.global_step > 0


def test_a_teacher_that_fails_on_the_students_batch_is_named() -> None:
    with pytest.raises(InputError, match=r"distillation\.teachers\[0\]: .*fails on a batch"):
        fit(make_module(), distil([nn.Linear(3, CLASSES)]))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_run_without_validation_data_judges_on_a_training_batch() -> None:
    fit(make_module(Validates), distil([make_teacher()], teacher_min_accuracy=0.0), steps=2)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_scores_have_no_accuracy(shape: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    scores = TensorDataset(torch.randn(8, 8), torch.randn(shape))

    class Scores(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, targets = batch
            return nn.functional.mse_loss(self.net(inputs), targets.view(-1, 1))

    def run(**more: Any) -> None:
        callback = distil([nn.Linear(8, 1)], loss=LogitMSE(), **more)
        trainer = make_trainer(steps=2, callbacks=[callback])
        trainer.fit(make_module(Scores), DataLoader(scores, batch_size=8))

    run()
    assert "chance" not in caplog.text
    with pytest.raises(InputError, match="teacher_min_accuracy: no accuracy of a teacher"):
        run(teacher_min_accuracy=0.5)


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Input height (32) doesn't match model (224)."),
        ValueError("Input image size (32*32) doesn't match model (224*224).\nmore"),
        TypeError("unsupported operand"),
        IndexError("index out of range in self"),
        KeyError("pixel_values"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_whatever_a_teacher_raises_is_one_line_with_its_input_and_a_way_out(
    error: Exception,
) -> None:
    with pytest.raises(
        InputError, match=r"teachers\[0\]: the teacher '.*' fails on a batch"
    ) as got:
        fit(make_module(), distil([Raises(error)]))
    line = str(got.value)
    assert "(8, 8) float32" in line
    assert "teacher_inputs" in line
    assert "\n" not in line
    assert got.value.__cause__ is error


def test_a_vision_transformer_of_another_size_is_named_with_the_size_of_the_images() -> None:
    timm = pytest.importorskip("timm")
    size = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1}
    network = timm.models.VisionTransformer(num_classes=CLASSES, **size)
    images = nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.Upsample((24, 24)), Triple(), network)
    with pytest.raises(InputError, match=r"fails on a batch of the student \(Input height"):
        fit(make_module(), distil([images]))


class Triple(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def language_model(kind: str, **settings: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 11}
    architecture = getattr(transformers, kind)
    found: nn.Module = architecture(architecture.config_class(**sizes, **settings))
    return found


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("GPT2LMHeadModel", {}),
        ("GPTNeoXForCausalLM", {}),
        ("BertLMHeadModel", {"is_decoder": True}),
    ],
)
def test_causal_language_models_are_refused(kind: str, settings: dict[str, Any]) -> None:
    network = language_model(kind, **settings)
    with pytest.raises(InputError, match=r"teachers\[0\]: .* causal language model"):
        fit(make_module(), distil([network]))
    module = make_module()
    module.add_module("language", network)
    with pytest.raises(InputError, match=r"^model: .* causal language model"):
        fit(module, distil([make_teacher()]))


def test_masked_language_models_are_not_taken_for_causal_ones() -> None:
    _refuse_causal("model", "bert", language_model("BertForMaskedLM"))
