"""What distillation adds to a training step, beyond the student and the teacher themselves.

    python scripts/benchmarks/step_cost.py --device cpu --repeats 20 --json step_cost.json

Three ratios of seconds per step: a distilled step with `DistillationCallback` against the same
student and teacher in a hand-written loop; a step after `until` against Lightning without the
callback; a random draw from eight teachers against one teacher. On a CPU the networks are
`cifar_resnet20` on batches of 64, on a GPU `resnet50` on batches of 256 in bf16-mixed; the pixels
are noise, as a step's time does not depend on them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _timing import Comparison, StepClock, describe_machine, report
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.networks import build_network
from rrr_lightning.random import keyed_generator, keyed_randomness

WARM_UP_STEPS = 5
TEMPERATURE, WEIGHT = 4.0, 0.9
POOL_SIZE = 8


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

    def __init__(self, clock: StepClock, look: Callable[[LightningModule], None]) -> None:
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


def with_lightning(
    work: Workload,
    clock: StepClock,
    callbacks: Sequence[Callback] = (),
    look: Callable[[LightningModule], None] = lambda module: None,
) -> None:
    """Trains a new student with Lightning."""
    trainer = Trainer(
        accelerator=work.device,
        devices=1,
        precision=work.precision,  # type: ignore[arg-type]
        max_steps=clock.total,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, TimeSteps(clock, look)],
    )
    trainer.fit(work.student(), work.batches(clock.total))


def distill(teachers: list[Any], until: float = 1.0) -> DistillationCallback:
    """Returns a callback that distils from one teacher on every step up to `until`."""
    schedule = DistillationSchedule(weight=WEIGHT, until=until, shape="constant")
    loss = KLDivergence(temperature=TEMPERATURE)
    return DistillationCallback(teachers, loss, schedule, TeacherPool(per_step=1))


def with_a_loop(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Trains a new student with one teacher in a loop written by hand."""
    student = work.student().to(work.device)
    network, normalise = student.network.train(), student.prepare
    teacher = teacher.to(work.device).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=student.momentum, weight_decay=student.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, clock.total)
    mixed = work.precision == "bf16-mixed"
    for images, labels in work.batches(clock.total):
        images = normalise(images.to(work.device, non_blocking=True))
        labels = labels.to(work.device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext():
            with torch.no_grad():
                targets = teacher(images)
            logits = network(images)
            loss = by_hand(logits, targets, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        clock.tick()


def by_hand(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Returns the loss of a distilled step in four lines of plain torch."""
    task = F.cross_entropy(logits, labels)
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


def comparisons(work: Workload) -> list[Comparison]:
    """Returns the three comparisons."""
    # A network of its own for each arm: fits that overlap must not share a teacher's state.
    spare, *pool = [work.build(number).to(work.device) for number in range(POOL_SIZE + 1)]
    return [
        Comparison(
            "distilled step / hand-written loop",
            lambda clock: with_lightning(work, clock, [distill(pool[:1])]),
            lambda clock: with_a_loop(work, clock, spare),
            goal=1.05,
        ),
        Comparison(
            "step after until / plain Lightning",
            lambda clock: after_until(work, clock, spare),
            lambda clock: with_lightning(work, clock),
            goal=1.0,
            rule="contains",
        ),
        Comparison(
            f"random draw from {POOL_SIZE} teachers / one teacher",
            lambda clock: with_lightning(work, clock, [distill(pool)]),
            lambda clock: with_lightning(work, clock, [distill([spare])]),
            goal=1.02,
        ),
    ]


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=sorted(WORKLOADS), default="cpu")
    parser.add_argument("--repeats", type=int, default=20, help="pairs of runs per ratio")
    parser.add_argument("--steps", type=int, default=30, help="timed steps per run")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.steps < 1:
        parser.error("--repeats and --steps must be at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device")
    warnings.simplefilter("ignore")  # no validation, no workers, teachers at chance: all on purpose
    for name in ("lightning.pytorch", "rrr_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    work = WORKLOADS[arguments.device]
    about = {"device": arguments.device, "machine": describe_machine(arguments.device)}
    size = (arguments.repeats, WARM_UP_STEPS, arguments.steps)
    rows = [compared.run(work.device, *size) | about for compared in comparisons(work)]
    return report(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
