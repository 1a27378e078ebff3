"""Teachers loaded from specs are made cheaper on the first batch, unless their rows suffer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch._inductor import config as inductor

from rrr_lightning.callbacks import teacher_loading
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import CLASSES, distil, fit, make_module


class Deep(nn.Module):
    """A convolution, a norm and a head; bf16 cannot tell rows apart that a large offset hides."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, CLASSES)
        self.offset = offset

    def forward(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.head(self.norm(self.conv(inputs[:, None])).relu().mean(2))
        return 5 * rows + self.offset


class Solid(nn.Module):
    """As `Deep`, over the features as a cube of 2 x 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(1, 6, 2, padding=1), nn.BatchNorm3d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        rows: Tensor = self.head(
            self.norm(self.conv(inputs.view(-1, 1, 2, 2, 2))).relu().amax((2, 3, 4))
        )
        return rows


def make_owned(offset: float = 0.0) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Deep(offset)
    return Teacher(network, name="deep", key="distillation.teachers[0]")


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_loading, "computes_in_bf16", lambda device: True)


class Looks(Callback):
    """Notes what a teacher is at the end of a step."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.seen: dict[str, Any] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        network: Any = self.teacher.network
        self.seen = {
            "norm": type(network.norm).__name__,
            "types": {network.conv.weight.dtype, network.head.weight.dtype},
            "rows": self.teacher.logits(batch).dtype,
        }


def run(
    teacher: Teacher, caplog: pytest.LogCaptureFixture, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Returns the line on the teacher, and what it was at the last step."""
    looks = Looks(teacher)
    with caplog.at_level(logging.INFO):
        fit(make_module(), distil([teacher], schedule={"until": 1.0}, **options), looks, steps=2)
    (line,) = (line for line in caplog.messages if "mean KL" in line)
    return line, looks.seen


@pytest.mark.usefixtures("native")
def test_the_default_is_bf16_where_the_device_computes_in_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line, seen = run(make_owned(), caplog)
    assert line.startswith("distillation.teachers[0]: made cheaper, in bf16: ")
    assert "of 8 top classes are those of float32, mean KL " in line
    assert seen == {"norm": "Identity", "types": {torch.bfloat16}, "rows": torch.bfloat16}


def test_elsewhere_it_is_float32_with_the_same_rows(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_loading, "computes_in_bf16", lambda device: False)
    line, seen = run(make_owned(), caplog)
    assert "made cheaper, in float32: 8 of 8 top classes" in line
    assert seen == {"norm": "Identity", "types": {torch.float32}, "rows": torch.float32}


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("asked", [None, "bf16"])
def test_rows_that_would_move_too_far_keep_the_teacher_as_it_was_loaded(
    caplog: pytest.LogCaptureFixture, asked: Any
) -> None:
    line, seen = run(make_owned(1e4), caplog, teacher_precision=asked)
    assert line.startswith("distillation.teachers[0]: left as it was loaded, as in bf16 only ")
    held = torch.float32 if asked is None else torch.bfloat16
    assert seen == {"norm": "BatchNorm1d", "types": {held}, "rows": held}


@pytest.mark.usefixtures("native")
def test_float32_is_there_for_the_asking(caplog: pytest.LogCaptureFixture) -> None:
    line, seen = run(make_owned(), caplog, teacher_precision="32")
    assert "made cheaper, in float32" in line
    assert seen["types"] == {torch.float32}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_teachers_are_compiled_for_the_asking(caplog: pytest.LogCaptureFixture) -> None:
    teacher = make_owned()
    line, seen = run(teacher, caplog, teacher_precision="32", teacher_compile=True)
    assert "made cheaper, in float32, compiled: 8 of 8 top classes" in line
    assert seen == {"norm": "Identity", "types": {torch.float32}, "rows": torch.float32}


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so() -> None:
    torch._dynamo.reset()
    distillation = distil([make_owned(0.5)], teacher_compile=True)
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(InputError, match=r"distillation\.teacher_compile: .*accepted: false"),
    ):
        fit(make_module(), distillation, steps=2)


def test_a_teacher_with_convolutions_in_space_is_made_cheaper(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_loading, "computes_in_bf16", lambda device: False)
    torch.save(Solid().state_dict(), tmp_path / "solid.pt")
    spec = {"model": {"class_path": f"{__name__}.Solid"}, "checkpoint": str(tmp_path / "solid.pt")}
    with caplog.at_level(logging.INFO):
        fit(make_module(), distil([spec], schedule={"until": 1.0}), steps=2)
    (line,) = (line for line in caplog.messages if "mean KL" in line)
    assert "made cheaper, in float32: 8 of 8 top classes" in line
