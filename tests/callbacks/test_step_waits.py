"""Nothing in a distilled step makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.models.image_classifier import ImageClassifier

# What brings a number, or a shape that depends on numbers, to the host.
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
STEPS = 6
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Watch(TorchDispatchMode):
    """Notes the names of all kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(trainer: Trainer, watch: Watch) -> Iterator[None]:
    """Watches what `training_step` does, the callback's part included, but not the optimizer's."""
    strategy: Any = trainer.strategy
    step = strategy.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        with watch:
            return step(*args, **kwargs)

    strategy.training_step = training_step
    try:
        yield
    finally:
        del strategy.training_step


def parts(device: str, *more: Callback) -> tuple[Trainer, LightningModule, DataLoader[Any]]:
    owned = Teacher(ImageClassifier("cifar_resnet8", 10, seed=1), name="owned")
    schedule = DistillationSchedule(until=1.0)
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed",
        max_steps=STEPS,
        max_epochs=-1,
        log_every_n_steps=100,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[DistillationCallback([owned], schedule=schedule), *more],
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    batches: Any = [(images, torch.arange(4))] * STEPS
    student = ImageClassifier("cifar_resnet8", 10, learning_rate=0.1, seed=0)
    return trainer, student, DataLoader(batches, batch_size=None, pin_memory=device == "cuda")


def test_no_kernel_of_a_distilled_step_brings_a_number_to_the_host() -> None:
    watch = Watch()
    trainer, student, loader = parts("cpu")
    with watched(trainer, watch):
        trainer.fit(student, loader)
    assert "convolution" in watch.names
    assert not set(watch.names) & set(WAITING)


@pytest.mark.gpu
def test_a_profile_of_distilled_steps_holds_no_synchronisation() -> None:
    class Profile(Callback):
        """Records the last steps."""

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 3:
                torch.cuda.synchronize()
                self.profile = torch.profiler.profile()
                self.profile.start()

        def on_train_batch_end(self, *args: Any) -> None:
            if args[-1] == STEPS - 1:
                self.profile.stop()

    profile = Profile()
    trainer, student, loader = parts("cuda", profile)
    trainer.fit(student, loader)
    names = {event.key for event in profile.profile.key_averages()}
    assert any("convolution" in name for name in names)
    # `cudaDeviceSynchronize` is the profiler's own; numbers come to the host by way of a stream.
    waits = {"cudaStreamSynchronize", "cudaEventSynchronize", *(f"aten::{n}" for n in WAITING)}
    assert not names & waits
