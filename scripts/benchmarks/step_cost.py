"""What distillation adds to a training step, beyond the student and the teacher themselves.

    python scripts/benchmarks/step_cost.py --device cpu --repeats 20 --json step_cost.json

Ratios of seconds per step, for an image network and a BERT: a plain and a distilled step through
this library against the same networks, losses and kernels in a loop written by hand; and, for
contrast, a plain step of a bare Lightning module against that loop, which is what Lightning takes
by itself. For the image network also: a step after `until` against Lightning without the callback,
and the bytes allocated there; a random draw from eight teachers against one teacher, with their
average for contrast. On a CPU the networks are `cifar_resnet20` on batches of 64 and a BERT of 4
layers of 192, on a GPU `resnet50` on batches of 256 and BERT-base on 64 x 128 tokens in bf16-mixed;
pixels and words are noise, as a step's time does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from _text_step import TEXT_WORKLOADS, Bare, TextWorkload, text_loop
from _timing import Comparison, StepClock, allocated, alone, be_quiet, parse, report, row_of
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.teacher import Precision, Teacher
from rrr_lightning.keyed_rng import keyed_generator, keyed_randomness
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.image_networks import build_network

WARM_UP_STEPS = 5
TEMPERATURE, WEIGHT = 4.0, 0.9
POOL_SIZE = 8
MEMORY = "ResNet: allocated memory after `until` / without distillation"
MEMORY_TOLERANCE = 1e-3  # what Lightning logs at a step, and the like


@dataclass(frozen=True)
class Workload:
    """The networks and batches of one device."""

    device: str
    network: str
    classes: int
    batch_size: int
    pixels: int
    precision: str

    def build(self, number: int) -> nn.Module:
        """Returns a network in the memory layout that the student's batches have."""
        with keyed_randomness("step_cost", number):
            network = build_network(self.network, self.classes, small_images=False)
        return network.to(memory_format=torch.channels_last)

    def batches(self, steps: int) -> DataLoader[Any]:
        """Returns a loader of ready batches: four of them, again and again."""
        generator, shape = keyed_generator("step_cost"), (self.batch_size, 3)
        made = []
        for _ in range(4):
            images = torch.randint(
                256, (*shape, self.pixels, self.pixels), dtype=torch.uint8, generator=generator
            )
            labels = torch.randint(self.classes, (self.batch_size,), generator=generator)
            made.append((images, labels))
        batches = [made[step % 4] for step in range(steps)]
        return DataLoader(batches, batch_size=None, pin_memory=self.device == "cuda")  # type: ignore[arg-type]

    def student(self) -> ImageClassifier:
        """Returns a new student."""
        return ImageClassifier(self.network, self.classes, learning_rate=0.01, seed=0)


WORKLOADS = {
    "cpu": Workload("cpu", "cifar_resnet20", 10, 64, 32, "32-true"),
    "cuda": Workload("cuda", "resnet50", 1000, 256, 224, "bf16-mixed"),
}


class TimeSteps(Callback):
    """Ticks at the end of every step, and looks at the module at the start of the last one."""

    def __init__(
        self, clock: StepClock, look: Callable[[LightningModule], None] = lambda module: None
    ) -> None:
        self.clock = clock
        self.look = look

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks."""
        if batch_idx == self.clock.total - 1:
            self.look(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ticks."""
        self.clock.tick()


def quiet_trainer(
    device: str, precision: str, steps: int, callbacks: Sequence[Callback] = (), **more: Any
) -> Trainer:
    """Returns a trainer that prints nothing, validates nothing and leaves nothing on the disk."""
    return Trainer(
        **{"accelerator": device, "devices": 1, "precision": precision, **more},  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def with_lightning(
    work: Workload | TextWorkload,
    clock: StepClock,
    callbacks: Sequence[Callback] = (),
    look: Callable[[LightningModule], None] = lambda module: None,
    module: LightningModule | None = None,
) -> None:
    """Trains a module with Lightning, by default a new student."""
    steps = [*callbacks, TimeSteps(clock, look)]
    trainer = quiet_trainer(work.device, work.precision, clock.total, steps)
    trainer.fit(module or work.student(), work.batches(clock.total))


def distill(
    teachers: list[Any],
    until: float = 1.0,
    per_step: int | Literal["all"] = 1,
    precision: Precision | None = None,
) -> DistillationCallback:
    """Returns a callback that distils on every step up to `until`."""
    schedule = DistillationSchedule(weight=WEIGHT, until=until, shape="constant")
    loss, pool = KLDivergence(temperature=TEMPERATURE), TeacherPool(per_step=per_step)
    return DistillationCallback(teachers, loss, schedule, pool, teacher_precision=precision)


def with_a_loop(work: Workload, clock: StepClock, teacher: nn.Module | None) -> None:
    """Trains a new student, with one teacher or none, in a loop written by hand."""
    student = work.student().to(work.device)
    network, normalise = student.network.train(), student.prepare
    if teacher is not None:
        teacher = teacher.to(work.device).eval().requires_grad_(False)
    optimizer = student.default_optimizer(student.parameter_groups())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, clock.total)
    mixed = work.precision == "bf16-mixed"
    for images, labels in work.batches(clock.total):
        images = normalise(images.to(work.device, non_blocking=True))
        labels = labels.to(work.device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext():
            targets = None
            if teacher is not None:
                with torch.no_grad():
                    targets = teacher(images)
            loss = by_hand(network(images), targets, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        clock.tick()


def by_hand(logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
    """Returns the loss of a step in a few lines of plain torch."""
    task = F.cross_entropy(logits, labels)
    if targets is None:
        return task
    log_q = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
    log_p = F.log_softmax(targets.float() / TEMPERATURE, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return (1 - WEIGHT) * task + WEIGHT * TEMPERATURE**2 * divergence


def after_until(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Trains a new student whose window is over before the first step that counts."""
    distillation = distill([teacher], until=(WARM_UP_STEPS - 1) / clock.total)

    def require_no_trace(module: LightningModule) -> None:
        """The step must be the very call that Lightning makes without the callback."""
        shadowed = "training_step" in vars(module)
        hooked = any(part._forward_hooks or "forward" in vars(part) for part in module.modules())
        if shadowed or hooked or distillation.teachers:
            raise RuntimeError("the callback left a trace after `until`")

    with_lightning(work, clock, [distillation], require_no_trace)


def memory_after_until(work: Workload) -> dict[str, Any]:
    """Returns the row on the bytes allocated at the last step, by where distillation is over."""
    held: list[float] = []

    def fit(callbacks: list[Callback]) -> None:
        clock = alone(work.device, WARM_UP_STEPS + 3)
        with_lightning(work, clock, callbacks, lambda module: held.append(allocated(work.device)))

    fit([])
    # Of this library's own making: after `until` nothing of it is left.
    teacher = Teacher(work.build(0), name="a teacher that is the callback's to free")
    callbacks: list[Callback] = [distill([teacher], until=0.5)]
    del teacher
    fit(callbacks)
    row = row_of(MEMORY, held[1:], 1.0)
    ratio = held[1] / held[0]
    return row | {
        "ratio": ratio, "low": ratio, "high": ratio, "rule": "contains", "ratios": [ratio],
        "met": abs(ratio - 1) < MEMORY_TOLERANCE, "bytes": held[1], "reference_bytes": held[0],
    }  # fmt: skip


def comparisons(work: Workload, text: TextWorkload) -> list[Comparison]:
    """Returns the comparisons of seconds."""
    # A network of its own for each arm: fits that overlap must not share a teacher's state.
    spare, *pool = [work.build(number).to(work.device) for number in range(POOL_SIZE + 1)]
    taught, by_loop = (text.build(number).to(text.device) for number in range(2))
    settings = TEMPERATURE, WEIGHT
    return [
        Comparison(
            "ResNet: plain step / hand-written loop",
            lambda clock: with_lightning(work, clock),
            lambda clock: with_a_loop(work, clock, None),
            goal=1.03,
        ),
        Comparison(
            "ResNet: distilled step / hand-written loop",
            lambda clock: with_lightning(work, clock, [distill(pool[:1])]),
            lambda clock: with_a_loop(work, clock, spare),
            goal=1.03,
        ),
        Comparison(
            "BERT: plain step / hand-written loop",
            lambda clock: with_lightning(text, clock),
            lambda clock: text_loop(text, clock, None, *settings),
            goal=1.03,
        ),
        Comparison(
            "BERT: distilled step / hand-written loop",
            lambda clock: with_lightning(text, clock, [distill([taught])]),
            lambda clock: text_loop(text, clock, by_loop, *settings),
            goal=1.03,
        ),
        Comparison(
            "BERT: plain step of a bare Lightning module / hand-written loop",
            lambda clock: with_lightning(text, clock, module=Bare(text.student())),
            lambda clock: text_loop(text, clock, None, *settings),
            goal=None,
        ),
        Comparison(
            "ResNet: step after until / plain Lightning",
            lambda clock: after_until(work, clock, spare),
            lambda clock: with_lightning(work, clock),
            goal=1.0,
            rule="contains",
        ),
        Comparison(
            f"ResNet: random draw from {POOL_SIZE} teachers / one teacher",
            lambda clock: with_lightning(work, clock, [distill(pool)]),
            lambda clock: with_lightning(work, clock, [distill([spare])]),
            goal=1.02,
        ),
        Comparison(
            f"ResNet: average of {POOL_SIZE} teachers / one teacher",
            lambda clock: with_lightning(work, clock, [distill(pool, per_step="all")]),
            lambda clock: with_lightning(work, clock, [distill([spare])]),
            goal=None,
        ),
    ]


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the comparisons with this in their names")
    arguments = parse(parser, repeats=20, steps=30)
    be_quiet()
    work, text = WORKLOADS[arguments.device], TEXT_WORKLOADS[arguments.device]
    chosen = [each for each in comparisons(work, text) if arguments.only in each.name]
    size = (arguments.repeats, WARM_UP_STEPS, arguments.steps)
    memory = [memory_after_until(work)] if arguments.only in MEMORY else []
    seconds = (compared.run(work.device, *size) for compared in chosen)
    return report(chain(memory, seconds), arguments.json, work.device)


if __name__ == "__main__":
    sys.exit(main())
