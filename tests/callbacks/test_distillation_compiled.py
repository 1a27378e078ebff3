"""A distilled student with a compiled network follows the gradients of an eager one."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.keyed_rng import keyed_generator
from rrr_lightning.models.image_classifier import ImageClassifier
from tests.models.texts import Gradients, TextData, language_model
from tests.models.tiny import make_trainer

STEPS = 4
FUSED = {"rtol": 1e-3, "atol": 1e-5}  # fused kernels round elsewhere
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def images(seed: int, **choice: Any) -> tuple[Any, Any]:
    student = ImageClassifier("cifar_resnet8", 10, learning_rate=1e-3, seed=seed, **choice)
    return student, EmbeddedDigits(global_batch_size=12, seed=3)


def texts(seed: int, **choice: Any) -> tuple[Any, Any]:
    return language_model(seed=seed, learning_rate=1e-4, **choice), TextData()


def fit(make: Any, **choice: Any) -> tuple[Any, list[Tensor]]:
    torch._dynamo.reset()
    (student, data), (teacher, _) = make(0, **choice), make(7)
    noted = Gradients()
    callback = DistillationCallback([teacher], schedule=DistillationSchedule(until=1.0))
    make_trainer(STEPS, callbacks=[callback, noted]).fit(student, datamodule=data)
    return student, noted.noted


@pytest.mark.parametrize(
    ("make", "part"), [(images, "network"), (texts, "network.network")], ids=["images", "texts"]
)
def test_compiled_students_follow_the_same_gradients(make: Any, part: str) -> None:
    _, eager = fit(make)
    student, compiled = fit(make, compile_network=True)
    assert student.get_submodule(part)._compiled_call_impl is not None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(eager) == len(compiled) == STEPS
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, **FUSED)


def test_a_compiled_teacher_that_is_tried_in_validation_teaches_alike() -> None:
    noted = []
    for compiled in (False, True):
        torch._dynamo.reset()
        (student, data), (network, _) = images(0), images(7)
        teacher = Teacher(network, name="owned")
        seen = Gradients()
        distillation = DistillationCallback(
            [teacher],
            schedule=DistillationSchedule(until=1.0),
            teacher_precision="32",
            teacher_compile=compiled,
        )
        validating = {"limit_val_batches": 1, "num_sanity_val_steps": 1}
        trainer = make_trainer(STEPS, callbacks=[distillation, seen], **validating)
        trainer.fit(student, datamodule=data)
        noted.append(seen.noted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(noted[0]) == len(noted[1]) == STEPS
    for eager, fused in zip(*noted, strict=True):
        torch.testing.assert_close(eager, fused, **FUSED)


def test_as_many_masked_tokens_in_other_places_are_not_compiled_again() -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    student = language_model(compile_network=True).train()
    seen = []
    for step in range(12):  # torch gives up on a function after 8 compilations
        generator = keyed_generator("places", step)
        tokens = torch.randint(5, 30, (3, 8), generator=generator)
        labels = torch.full((24,), -100)
        places = torch.randperm(24, generator=generator)[:6]
        labels[places] = tokens.flatten()[places]
        given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        student({**given, "labels": labels.view(3, 8)}).sum().backward()
        seen.append(graphs["unique_graphs"])
    assert seen[0] > 0
    assert seen == seen[:1] * 12
