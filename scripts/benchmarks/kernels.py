"""Choices inside a step, each against the obvious way, for contrast; none has a goal.

    python scripts/benchmarks/kernels.py --device cpu --json kernels_cpu.json

- the loss over many rows and classes, forward and backward, a chunk at a time against at once;
- AdamW and SGD on the parameters of a BERT and of a ResNet-50: fused and `foreach` against torch's
  own choice for the device (a loop over parameters on a CPU, `foreach` on a GPU).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from _text_step import TEXT_WORKLOADS
from _timing import Comparison, StepClock, be_quiet, describe_machine, parse, report
from torch import Tensor, nn
from torch.nn import functional as F

from rrr_lightning.distillation.losses import kl_divergence
from rrr_lightning.models.networks import build_network
from rrr_lightning.random import keyed_generator

WARM_UP = 3
TEMPERATURE = 4.0
ROWS, CLASSES = 600, 30522

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
    """Returns the comparison of losses."""
    generator = keyed_generator("kernels")
    student, teacher = (
        torch.randn(ROWS, CLASSES, generator=generator).to(device) for _ in range(2)
    )

    def step(loss: Callable[..., Tensor]) -> Step:
        rows = student.clone().requires_grad_()
        return lambda: torch.autograd.grad(loss(rows, teacher, TEMPERATURE), rows)

    name = f"KL divergence of {ROWS} rows of {CLASSES:,}: in chunks / at once"
    return [Comparison(name, arm(step(kl_divergence)), arm(step(at_once)), None)]


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
    about = {"device": device, "machine": describe_machine(device)}
    compared = [*losses(device), *optimizers(device)]
    return report([each.run(*size) | about for each in compared], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
