"""How many files of the package a reader has to follow: counted while the code runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from rrr_lightning import DistillationCallback, DistillationSchedule, ImageClassifier
from rrr_lightning.teachers import load_teacher
from tests.callbacks.foreign import CLASSES, FEATURES, make_data, make_trainer

PACKAGE = str(Path(__file__).resolve().parent.parent / "rrr_lightning")


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Collects the files of the package in which a function is called."""
    files: set[str] = set()

    def see(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name != "<module>" and name.startswith(PACKAGE):
            files.add(name.removeprefix(PACKAGE + "/"))

    sys.setprofile(see)
    try:
        yield files
    finally:
        sys.setprofile(None)


class Watch(Callback):
    """Watches from the end of the second step to the end of the third."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self._watch = files_entered()
            self.files = self._watch.__enter__()
        elif trainer.global_step == 3:
            self._watch.__exit__(None, None, None)


def test_a_distilled_step_enters_few_files() -> None:
    teachers = [nn.Linear(FEATURES, CLASSES) for _ in range(2)]
    student = ImageClassifier(nn.Linear(FEATURES, CLASSES), CLASSES, channels_last=False)
    watch = Watch()
    distillation = DistillationCallback(teachers, schedule=DistillationSchedule(until=1.0))
    trainer = make_trainer(4, [distillation, watch])
    loader = DataLoader(make_data(), batch_size=8)
    trainer.fit(student, loader, loader)
    assert "callbacks/step.py" in watch.files
    assert len(watch.files) <= 14, "\n".join(sorted(watch.files))


def test_a_checkpoint_becomes_a_network_by_few_files(tmp_path: Path) -> None:
    module = ImageClassifier("cifar_resnet8", 10, seed=0)
    content = {"state_dict": module.state_dict(), "rrr_lightning": module.describe()}
    torch.save(content, tmp_path / "a.ckpt")
    with files_entered() as files:
        load_teacher(str(tmp_path / "a.ckpt"))
    assert "models/loading.py" in files
    assert len(files) <= 15, "\n".join(sorted(files))


def test_a_study_file_becomes_a_report_by_few_files(tmp_path: Path) -> None:
    from tests.fuzz import make_study, read_study

    make_study(tmp_path)
    with files_entered() as files:
        read_study(tmp_path)
    assert "study/report.py" in files
    assert len(files) <= 14, "\n".join(sorted(files))
