"""This library's own students: a step of a ResNet and of a BERT costs what a pencil says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from rrr_lightning import CostLedger, DistillationCallback, DistillationSchedule
from rrr_lightning.teachers import load_teacher
from tests.models.texts import Texts, language_model
from tests.models.tiny import CLASSES, classifier, make_trainer, pixels, weights

STEPS, DISTILLED = 6, 3
WIDE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def text_batch() -> dict[str, Tensor]:
    return Texts(46)[[(0, 1), (0, 2), (0, 4)]]


class Same:
    """One and the same batch, so that every step has as many masked tokens."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * 2 * STEPS)

    def __len__(self) -> int:
        return 2 * STEPS


def resnet(size: int, width: int, backward: bool) -> int:
    """Operations of a batch of `size` images of 8 pixels: one block of two at each of 3 widths."""

    def convolution(inputs: int, outputs: int, side: int) -> int:
        return 2 * size * inputs * outputs * 9 * side**2

    first, rest = convolution(3, width, 8), 2 * convolution(width, width, 8)
    for stage, side in ((1, 4), (2, 2)):
        outputs = width << stage
        rest += convolution(outputs // 2, outputs, side) + convolution(outputs, outputs, side)
    rest += 2 * size * 4 * width * CLASSES
    # Gradients of weights and inputs cost as much as the forward; the images need none.
    return 3 * rest + 2 * first if backward else rest + first


def bert(hidden: int, feed_forward: int, columns: int, backward: bool) -> int:
    """Operations of two layers on the batch, and of the head on its masked tokens."""
    size, length = text_batch()["input_ids"].shape
    masked = int((text_batch()["labels"] != -100).sum())
    products = 2 * 2 * size * length * (4 * hidden**2 + 2 * hidden * feed_forward)
    products += 2 * masked * (hidden**2 + hidden * columns)
    attention = 2 * 4 * size * length**2 * hidden
    # The backward of fused attention computes the scores once more.
    return 3 * products + attention + attention * 5 // 2 if backward else products + attention


def fit(
    folder: Path, student: LightningModule, batch: Any, teacher: Any, ledger: bool = True
) -> dict[str, Any]:
    callbacks: list[Any] = [CostLedger()] if ledger else []
    if teacher is not None:
        window = DistillationSchedule(until=DISTILLED / STEPS)
        callbacks.append(DistillationCallback([teacher], schedule=window))
    trainer = make_trainer(STEPS, callbacks=callbacks, default_root_dir=str(folder))
    trainer.fit(student, Same(batch), Same(batch))
    trainer.save_checkpoint(folder / "last.ckpt")
    return json.loads((folder / "ledger.json").read_text()) if ledger else {}


@pytest.mark.parametrize("taught", [False, True])
def test_an_image_step(tmp_path: Path, taught: bool) -> None:
    teacher = classifier("cifar_resnet8") if taught else None
    found = fit(tmp_path, classifier(), pixels(4), teacher)
    assert found["flops"]["student"] == STEPS * resnet(4, 16, backward=True)
    assert found["flops"]["teacher"] == taught * DISTILLED * resnet(4, 16, backward=False)
    assert (found["samples"], found["tokens"]) == (4 * STEPS, None)


@pytest.mark.parametrize("taught", [False, True])
def test_a_text_step(tmp_path: Path, taught: bool) -> None:
    teacher = language_model(network=WIDE) if taught else None
    student = language_model()
    columns = student.network.network.config.vocab_size
    found = fit(tmp_path, student, text_batch(), teacher)
    assert found["flops"]["student"] == STEPS * bert(8, 16, columns, backward=True)
    forward = bert(16, 32, columns, backward=False)
    assert found["flops"]["teacher"] == taught * DISTILLED * forward
    assert (found["samples"], found["tokens"]) == (3 * STEPS, 24 * STEPS)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_student_learns_the_same_with_and_without(tmp_path: Path, kind: str) -> None:
    ends = []
    for ledger in (False, True):
        student: Any = classifier() if kind == "image" else language_model(dropout=True)
        teacher: Any = classifier() if kind == "image" else language_model(network=WIDE)
        fit(tmp_path, student, pixels(4) if kind == "image" else text_batch(), teacher, ledger)
        ends.append(weights(student))
    assert torch.equal(*ends)


def test_a_teacher_brings_its_own_ledger_along(tmp_path: Path) -> None:
    own = fit(tmp_path, classifier(), pixels(4), None)
    assert load_teacher(str(tmp_path / "last.ckpt")).ledger == own
    (tmp_path / "student").mkdir()
    found = fit(tmp_path / "student", classifier(), pixels(4), str(tmp_path / "last.ckpt"))
    assert [teacher["ledger"] for teacher in found["teachers"]] == [own]
    assert found["teachers"][0]["name"] == str(tmp_path / "last.ckpt")
