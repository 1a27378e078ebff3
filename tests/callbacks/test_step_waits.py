"""Nothing in a distilled step makes the host wait for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.cost_ledger import CostLedger
from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.models.text_student import TextStudent
from tests.models.texts import batch, masked_lm
from tests.targets.runs import sure, train, with_targets, write

# What brings a number, or a shape that depends on numbers, to the host.
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
STEPS, FIRST = 6, 3  # the first steps try teachers and count operations
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Watch(TorchDispatchMode):
    """Notes the names of all kernels; those that pick by a mask count as `nonzero`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        picks = args[1] if name.startswith("index") and len(args) > 1 else ()
        masks = [each for each in picks if isinstance(each, torch.Tensor)] if picks else []
        by_mask = any(each.dtype in (torch.bool, torch.uint8) for each in masks)
        self.names.append("nonzero" if by_mask else name)
        return func(*args, **(kwargs or {}))


class WatchSteps(Callback):
    """Watches whole steps, Lightning's own work and the other callbacks' included."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._entered = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == FIRST:
            self.watch.__enter__()
            self._entered = True

    def on_train_batch_end(self, *args: Any) -> None:
        if args[-1] == STEPS - 1:
            self.close()

    def on_exception(self, *args: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._entered:
            self._entered = False
            self.watch.__exit__(None, None, None)


class UnwatchedTransfer(TextStudent):
    """What is done on the way to the device is done on the host."""

    def _apply_batch_transfer_handler(self, *args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return super()._apply_batch_transfer_handler(*args, **kwargs)


class UnwatchedMaskedLM(UnwatchedTransfer, MaskedLanguageModel):
    """A masked-LM student."""


class UnwatchedClassifier(UnwatchedTransfer, TextClassifier):
    """A text classifier."""


def make_trainer(device: str, folder: Path, teacher: Any, *more: Callback) -> Trainer:
    schedule = DistillationSchedule(until=1.0)
    return Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed",
        max_steps=STEPS,
        max_epochs=-1,
        log_every_n_steps=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=True,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[DistillationCallback([teacher], schedule=schedule), CostLedger(), *more],
    )


def loader_of(batch: Any, device: str) -> DataLoader[Any]:
    batches: Any = [batch] * STEPS
    return DataLoader(batches, batch_size=None, pin_memory=device == "cuda")


def parts(
    device: str, folder: Path, *more: Callback, mixup_alpha: float = 0.0
) -> tuple[Trainer, LightningModule, DataLoader[Any]]:
    owned = Teacher(ImageClassifier("cifar_resnet8", 10, seed=1), name="owned")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    student = ImageClassifier(
        "cifar_resnet8", 10, learning_rate=0.1, mixup_alpha=mixup_alpha, seed=0
    )
    trainer = make_trainer(device, folder, owned, *more)
    return trainer, student, loader_of((images, torch.arange(4)), device)


def text_parts(
    device: str, folder: Path, *more: Callback, padded: bool, masked: bool = True
) -> tuple[Trainer, LightningModule, DataLoader[Any]]:
    kind: Any = UnwatchedMaskedLM if masked else UnwatchedClassifier
    config = masked_lm().config.to_dict()
    teacher = Teacher(kind(config, seed=1), name="owned")
    trainer = make_trainer(device, folder, teacher, *more)
    given = batch()
    if not padded:
        given["attention_mask"].fill_(1)
    if not masked:
        given["labels"] = torch.arange(len(given["labels"])) % 2
    return trainer, kind(config, seed=0), loader_of(given, device)


def test_no_kernel_of_a_distilled_step_brings_a_number_to_the_host(tmp_path: Path) -> None:
    steps = WatchSteps()
    trainer, student, loader = parts("cpu", tmp_path, steps)
    trainer.fit(student, loader)
    names = steps.watch.names
    assert names.count("convolution_backward") >= STEPS - FIRST
    assert not set(names) & set(WAITING)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_no_kernel_of_a_distilled_step_on_text_brings_a_number_to_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padded: bool, masked: bool
) -> None:
    def to_another_device(module: Any, batch: dict[str, Tensor], *_: Any) -> dict[str, Tensor]:
        return {name: each.clone() for name, each in batch.items()}

    to_another_device.__module__ = DataHooks.__module__
    monkeypatch.setattr(DataHooks, "transfer_batch_to_device", to_another_device)
    steps = WatchSteps()
    trainer, student, loader = text_parts("cpu", tmp_path, steps, padded=padded, masked=masked)
    trainer.fit(student, loader)
    names = steps.watch.names
    assert names.count("_log_softmax_backward_data") >= STEPS - FIRST
    assert not set(names) & set(WAITING)


@pytest.mark.parametrize("kind", ["top_k", "sampled", "dense"])
def test_no_kernel_of_a_step_on_stored_targets_brings_a_number_to_the_host(
    tmp_path: Path, kind: str
) -> None:
    whole = {"schedule": {"until": 1.0}}
    write(tmp_path / "targets", [sure(7)], kind=kind, classes=3, **whole)
    steps = WatchSteps()
    train(
        tmp_path / "run", with_targets(tmp_path / "targets", **whole), steps, log_every_n_steps=100
    )
    names = steps.watch.names
    assert names.count("convolution_backward") >= STEPS - FIRST
    assert not set(names) & set(WAITING)


def test_the_watch_sees_numbers_and_masks() -> None:
    for wait in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.sum() > 0 or None):
        watch = Watch()
        with watch:
            wait(torch.ones(3))
        assert set(watch.names) & set(WAITING)


class Profile(Callback):
    """Records the last steps."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == FIRST:
            torch.cuda.synchronize()
            self.profile = torch.profiler.profile()
            self.profile.start()

    def on_train_batch_end(self, *args: Any) -> None:
        if args[-1] == STEPS - 1:
            self.profile.stop()

    def of(self, trainer: Trainer, student: LightningModule, loader: Any) -> set[str]:
        """The names of what has run in the last steps of a fit."""
        trainer.fit(student, loader)
        return {event.key for event in self.profile.key_averages()}


# `cudaDeviceSynchronize` is the profiler's own; numbers come to the host by way of a stream.
SYNCHRONISATIONS = {"cudaStreamSynchronize", "cudaEventSynchronize"}


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_a_profile_of_distilled_steps_on_text_holds_no_synchronisation(
    tmp_path: Path, padded: bool, masked: bool
) -> None:
    profile = Profile()
    names = profile.of(*text_parts("cuda", tmp_path, profile, padded=padded, masked=masked))
    assert any("log_softmax_backward" in name for name in names)
    assert not names & SYNCHRONISATIONS


@pytest.mark.gpu
@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_a_profile_of_distilled_steps_holds_no_synchronisation(
    tmp_path: Path, mixup_alpha: float
) -> None:
    profile = Profile()
    names = profile.of(*parts("cuda", tmp_path, profile, mixup_alpha=mixup_alpha))
    assert any("convolution" in name for name in names)
    assert not names & SYNCHRONISATIONS
    if mixup_alpha == 0:  # the share of a mixture is a number that was on the host all along
        assert not names & {f"aten::{name}" for name in WAITING}
