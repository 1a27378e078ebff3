"""Choices inside a step, each against the obvious way, for contrast; none has a goal.

    python scripts/benchmarks/kernels.py --device cpu --json kernels_cpu.json

- the loss over many rows and classes, forward and backward, a chunk at a time against at once, and
  over so few that the library does not cut them;
- a student's forward and backward pass, its network compiled against eager, on a ready batch;
- AdamW and SGD on the parameters of a BERT and of a ResNet-50: fused and `foreach` against torch's
  own choice for the device (a loop over parameters on a CPU, `foreach` on a GPU).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from _text_step import TEXT_WORKLOADS
from _timing import Comparison, StepClock, be_quiet, parse, report
from step_cost import WORKLOADS
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_lightning.distillation import chunks
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.networks import build_network
from rrr_lightning.random import keyed_generator

WARM_UP = 3
TEMPERATURE = 4.0
ROWS, CLASSES = {"cpu": 600, "cuda": 8192}, 30522  # enough of them to be cut on the device
FEW_ROWS, FEW_CLASSES = 150, 8192

Step = Callable[[], object]


def arm(step: Step) -> Callable[[StepClock], None]:
    """Returns an arm that does the same again and again."""

    def run(clock: StepClock) -> None:
        for _ in range(clock.total):
            step()
            clock.tick()

    return run


def at_once(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns the divergence in three lines of plain torch."""
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def losses(device: str) -> list[Comparison]:
    """Returns the comparisons of losses: many rows, and few rows that are cut all the same."""
    generator = keyed_generator("kernels")

    def noise(rows: int, classes: int) -> Tensor:
        return torch.randn(rows, classes, generator=generator).to(device)

    def step(student: Tensor, loss: Callable[[Tensor], Tensor]) -> Step:
        rows = student.clone().requires_grad_()
        return lambda: torch.autograd.grad(loss(rows), rows)

    rows = ROWS[device]
    many, teacher = noise(rows, CLASSES), noise(rows, CLASSES)
    few, their_teacher = noise(FEW_ROWS, FEW_CLASSES), noise(FEW_ROWS, FEW_CLASSES)
    targets = their_teacher.argmax(1)
    kl_divergence = KLDivergence(TEMPERATURE)  # the function of that name knows no chunks

    def in_two(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def cut(rows: Tensor) -> Tensor:
            with mock.patch.dict(chunks.CHUNK_ELEMENTS, {device: rows.numel() // 2}):
                return loss(rows)

        return cut

    def divergence(rows: Tensor) -> Tensor:
        return kl_divergence(rows, their_teacher)

    def entropy(rows: Tensor) -> Tensor:
        return chunks.in_chunks(F.cross_entropy, rows, targets)

    return [
        Comparison(
            f"KL divergence of {rows:,} rows of {CLASSES:,}: in chunks / at once",
            arm(step(many, lambda rows: kl_divergence(rows, teacher))),
            arm(step(many, lambda rows: at_once(rows, teacher, TEMPERATURE))),
            None,
        ),
        *(
            Comparison(
                f"{name} of {FEW_ROWS} rows of {FEW_CLASSES:,}: in two chunks / at once",
                arm(step(few, in_two(loss))),
                arm(step(few, loss)),
                None,
            )
            for name, loss in (("KL divergence", divergence), ("cross-entropy", entropy))
        ),
    ]


def students(device: str) -> list[Comparison]:
    """Returns the comparisons of compiled students."""
    text, image = TEXT_WORKLOADS[device], WORKLOADS[device]
    tokens = {name: each.to(device) for name, each in next(iter(text.batches(1))).items()}
    pixels = next(iter(image.batches(1)))[0].to(device)
    half = text.precision == "bf16-mixed"

    def step(make: Callable[[bool], nn.Module], batch: Any, compiled: bool) -> Step:
        model = make(compiled).to(device).train()

        def run() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                rows = model(batch)
            rows.float().sum().backward()

        return run

    def bert(compiled: bool) -> nn.Module:
        return MaskedLanguageModel(text.network, text.vocabulary, compile_network=compiled, seed=0)

    def resnet(compiled: bool) -> nn.Module:
        return ImageClassifier(image.network, image.classes, compile_network=compiled, seed=0)

    return [
        Comparison(f"{name}, forward and backward: compiled / eager", arm(step(make, batch, True)),
                   arm(step(make, batch, False)), None)
        for name, make, batch in (("BERT", bert, tokens), ("ResNet", resnet, pixels))
    ]  # fmt: skip


def optimizers(device: str) -> list[Comparison]:
    """Returns the comparisons of optimizers."""
    bert = TEXT_WORKLOADS[device].student
    made: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
        "AdamW on BERT": (bert, torch.optim.AdamW, {"weight_decay": 1e-5}),
        "SGD on ResNet-50": (lambda: build_network("resnet50", 1000), torch.optim.SGD,
                             {"momentum": 0.875, "weight_decay": 2**-15}),
    }  # fmt: skip

    def step(name: str, **choice: bool) -> Step:
        build, kind, values = made[name]
        parameters = [each for each in build().to(device).parameters() if each.requires_grad]
        for each in parameters:
            each.grad = torch.full_like(each, 1e-3)
        update: Step = kind(parameters, lr=1e-4, **values, **choice).step
        return update

    return [
        Comparison(f"{name}: {choice} / torch's choice", arm(step(name, **{choice: True})),
                   arm(step(name)), None)
        for name in made
        for choice in ("fused", "foreach")
    ]  # fmt: skip


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments = parse(parser, repeats=9, steps=10)
    be_quiet()
    device = arguments.device
    size = device, arguments.repeats, WARM_UP, arguments.steps
    compared = [*losses(device), *students(device), *optimizers(device)]
    return report((each.run(*size) for each in compared), arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
