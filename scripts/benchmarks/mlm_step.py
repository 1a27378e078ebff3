"""What it saves to send only the masked tokens through the vocabulary head.

    python scripts/benchmarks/mlm_step.py --device cpu --repeats 9 --json mlm_step.json

Seconds per step and peak memory of `MaskedLanguageModel`, alone and with `DistillationCallback`,
against steps that compute the logits of all tokens with transformers' own networks: by its Trainer,
distilled on every token, as is usual with full logits; and by loops written by hand, with the same
loss, with that of the module here (rows picked out of all logits), and of the task alone. Same
networks, batches, optimizer, precision, threads.

On a CPU student and teacher have two layers of width 128 and a vocabulary of 30,522, in batches of
32 x 128 tokens, 15 % of them masked: a head that outweighs its encoder. The wider the encoder, the
less is saved. On a GPU they are BERT-base in bf16-mixed, 64 x 128 tokens.

Peak memory is measured in processes of their own, as what the steps need on top of what the process
held before the first one (libraries, networks, batches); whole processes are in the JSON file.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from _peer_loops import transformers_text
from _text_step import TextWorkload
from _timing import (
    Comparison,
    StepClock,
    Turns,
    be_quiet,
    memory_of,
    memory_row,
    parse,
    print_memory,
    report,
)
from step_cost import TEMPERATURE, WEIGHT, distill, with_lightning
from torch import Tensor
from torch.nn import functional as F

from rrr_lightning.models.masked_lm import MaskedLanguageModel

WARM_UP_STEPS = 2
MEMORY_STEPS = 3
VOCABULARY = 30522
MEMORY_GOAL = 1 / 3
NARROW = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}


@dataclass(frozen=True)
class Workload(TextWorkload):
    """The networks and batches of one device, and the goals there."""

    time_goal: float
    same_loss_goal: float

    def teacher(self) -> MaskedLanguageModel:
        """Returns a teacher, in place."""
        return self.build(1).to(self.device).eval().requires_grad_(False)


WORKLOADS = {
    "cpu": Workload("cpu", NARROW, VOCABULARY, 32, 128, "32-true", 0.2, 0.34),
    "cuda": Workload("cuda", "base", VOCABULARY, 64, 128, "bf16-mixed", 0.6, 0.8),
}


def masked_rows(work: Workload, clock: StepClock, distilled: bool) -> None:
    """Trains a new student with this library."""
    callbacks = [distill([work.teacher()])] if distilled else []
    with_lightning(work, clock, callbacks)


def full_logits(
    work: Workload, clock: StepClock, distilled: bool, every_token: bool = False
) -> None:
    """Trains a new student in a loop written by hand, with the logits of all tokens."""
    student = work.student().to(work.device)
    network: Any = student.network.network.train()
    teacher: Any = work.teacher().network.network if distilled else None
    optimizer = student.default_optimizer([{"params": list(network.parameters())}])
    mixed = work.precision == "bf16-mixed"
    for batch in work.batches(clock.total):
        given = {name: each.to(work.device, non_blocking=True) for name, each in batch.items()}
        labels = given.pop("labels")
        optimizer.zero_grad()
        with torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext():
            loss = loss_of_all(network, teacher, given, labels, every_token)
        loss.backward()
        optimizer.step()
        clock.tick()


def loss_of_all(
    network: Any, teacher: Any, given: dict[str, Tensor], labels: Tensor, every_token: bool
) -> Any:
    """Returns the loss of a step; transformers' own for the task."""
    if teacher is None:
        return network(**given, labels=labels).loss
    with torch.no_grad():
        targets = teacher(**given).logits
    output = network(**given, labels=labels)
    logits = output.logits
    if every_token:
        logits, targets = logits.flatten(0, 1), targets.flatten(0, 1)
    else:
        logits, targets = logits[labels != -100], targets[labels != -100]
    log_q = F.log_softmax(logits.float() / TEMPERATURE, dim=1)
    log_p = F.log_softmax(targets.float() / TEMPERATURE, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return (1 - WEIGHT) * output.loss + WEIGHT * TEMPERATURE**2 * divergence


def with_trainer(work: Workload, clock: StepClock) -> None:
    """Trains a new student with the Trainer of transformers, with the KL on every token."""
    teacher: Any = work.teacher().network.network
    transformers_text(work, clock, teacher)


Arm = Callable[[Workload, StepClock], None]
ARMS: dict[str, Arm] = {
    "plain rows": lambda work, clock: masked_rows(work, clock, False),
    "plain full": lambda work, clock: full_logits(work, clock, False),
    "distilled rows": lambda work, clock: masked_rows(work, clock, True),
    "distilled full": lambda work, clock: full_logits(work, clock, True),
    "distilled every": lambda work, clock: full_logits(work, clock, True, every_token=True),
    "distilled Trainer": with_trainer,
}


def pairs(work: Workload) -> list[tuple[str, str, str, float]]:
    """Returns what is compared: name, arm, reference, and the goal for the seconds per step."""
    rows, full = "masked rows", "full logits"
    return [
        (f"distilled, {rows} / Hugging Face Trainer, {full}", "distilled rows",
         "distilled Trainer", work.time_goal),
        (f"distilled, {rows} / {full}, KL on every token", "distilled rows", "distilled every",
         work.time_goal),
        (f"distilled, {rows} / {full}, the same loss", "distilled rows", "distilled full",
         work.same_loss_goal),
        (f"not distilled, {rows} / {full}", "plain rows", "plain full", work.same_loss_goal),
    ]  # fmt: skip


class Untimed(StepClock):
    """Takes neither times nor turns."""

    def __init__(self, device: str) -> None:
        super().__init__(device, MEMORY_STEPS, Turns(), 0)

    def tick(self) -> None:
        """Does nothing."""


def print_memory_of(work: Workload, name: str) -> None:
    """Prints the bytes held before and at the peak of a few steps; in a process of its own."""

    def prepare() -> None:
        importlib.import_module("transformers.trainer")  # libraries are needed either way
        next(iter(work.batches(1)))
        _ = work.student().to(work.device), work.teacher()  # both at once

    print_memory(work.device, prepare, lambda: ARMS[name](work, Untimed(work.device)))


def memory_rows(work: Workload, repeats: int) -> Iterator[dict[str, Any]]:
    """Yields the rows on peak memory, in the order of `pairs`."""
    held = {
        name: [
            memory_of(__file__, "--device", work.device, "--memory-of", name)
            for _ in range(repeats)
        ]
        for name in ARMS
    }
    for name, arm, reference, _ in pairs(work):
        yield memory_row(f"peak memory: {name}", held[arm], held[reference], MEMORY_GOAL)


def time_rows(work: Workload, repeats: int, steps: int) -> Iterator[dict[str, Any]]:
    """Yields the rows on seconds per step."""
    for name, arm, reference, goal in pairs(work):
        arms = partial(ARMS[arm], work), partial(ARMS[reference], work)
        compared = Comparison(f"seconds: {name}", *arms, goal)
        yield compared.run(work.device, repeats, WARM_UP_STEPS, steps)


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory-of", choices=sorted(ARMS), help=argparse.SUPPRESS)
    arguments = parse(parser, repeats=9, steps=4)
    be_quiet()
    work = WORKLOADS[arguments.device]
    if arguments.memory_of is not None:
        print_memory_of(work, arguments.memory_of)
        return 0
    seconds = time_rows(work, arguments.repeats, arguments.steps)
    memory = memory_rows(work, min(3, arguments.repeats))
    return report(chain(seconds, memory), arguments.json, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
