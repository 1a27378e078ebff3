"""Does a student learn from stored targets what it learns from the live teacher?

    python scripts/benchmarks/target_quality.py --data digits --json target_quality_digits.json
    python scripts/benchmarks/target_quality.py --data cifar10 --source DATA/cifar10

Trains one teacher, then for every seed four students that differ in nothing but what teaches them:
nobody, the live teacher, and its stored targets of all classes and of some. Runs of a seed start
from the same weights and see the same views, so differences are taken within seeds; they come with
an interval of Student's t. The exit status is 1 where the interval of stored minus live leaves out
zero for the worse.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _timing import describe_machine
from lightning.pytorch import Trainer
from scipy import stats

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.base import KeyedDataModule
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.targets.plan import Choice
from rrr_lightning.targets.write import write_targets

METRICS = ("val/loss", "val/accuracy")
ARMS = ("nobody", "live", "stored, all classes", "stored, some classes")


@dataclass(frozen=True)
class Task:
    """Data and networks, and for how many steps they are trained.

    Args:
        source: A folder of CIFAR-10 in parquet files; None for the digits.
        teacher: The teacher's network.
        student: The students' network.
        teacher_steps: Optimizer steps of the teacher.
        steps: Optimizer steps of a student.
        classes: How many of 10 classes are kept where some are.
        batch_size: Images of a step.
        learning_rate: The peak learning rate of both.
    """

    source: str | None
    teacher: str
    student: str
    teacher_steps: int
    steps: int
    classes: int
    batch_size: int
    learning_rate: float

    def data(self, seed: int) -> KeyedDataModule:
        """Returns the data of a seed."""
        if self.source is None:
            return EmbeddedDigits(self.batch_size, seed=seed)
        size = {"global_batch_size": self.batch_size, "eval_batch_size": 500}
        return ImageDataModule(self.source, transform="cifar", seed=seed, **size)

    def module(self, network: str, seed: int) -> ImageClassifier:
        """Returns a new network."""
        return ImageClassifier(
            network,
            10,
            initialization="default",
            learning_rate=self.learning_rate,
            momentum=0.9,
            weight_decay=5e-3 if self.source is None else 5e-4,
            warmup_fraction=0.2,
            seed=seed,
        )


def make_task(name: str, source: str | None, steps: int | None) -> Task:
    """Returns a task by name."""
    if name == "digits":
        return Task(None, "cifar_resnet14", "cifar_resnet8", 200, steps or 50, 4, 40, 0.1)
    return Task(source, "cifar_resnet20", "cifar_resnet8", 800, steps or 400, 4, 128, 0.1)


def make_trainer(steps: int, **settings: Any) -> Trainer:
    """Returns a trainer that leaves nothing on the disk."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 0, **settings},
    )


def options() -> dict[str, Any]:
    """Returns what all ways to be taught have in common."""
    schedule = DistillationSchedule(weight=0.9, until=0.8)
    return {"loss": KLDivergence(temperature=4.0), "schedule": schedule}


def train(task: Task, network: str, seed: int, steps: int, *callbacks: Any) -> ImageClassifier:
    """Trains a network, and returns it."""
    module = task.module(network, seed)
    trainer = make_trainer(steps, callbacks=list(callbacks))
    trainer.fit(module, datamodule=task.data(seed))
    return module


def judge(task: Task, module: ImageClassifier, seed: int) -> dict[str, float]:
    """Returns loss and accuracy on the validation images."""
    trainer = make_trainer(1, limit_val_batches=1.0)
    (found,) = trainer.validate(module, datamodule=task.data(seed), verbose=False)
    return {name: found[name] for name in METRICS}


def taught(task: Task, arm: str, teacher: ImageClassifier, seed: int, folder: Path) -> list[Any]:
    """Returns the callback of an arm, its targets written where it has some."""
    if arm == "nobody":
        return []
    if arm == "live":
        return [DistillationCallback([teacher], **options())]
    kept: tuple[Any, int | None] = ("dense", None) if "all" in arm else ("top_k", task.classes)
    write_targets(
        make_trainer(task.steps),
        task.module(task.student, seed),
        task.data(seed),
        DistillationCallback([teacher], **options()),
        Choice(folder, *kept),
        say=lambda line: None,
    )
    return [DistillationCallback(targets=str(folder), **options())]


def differences(runs: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """Returns the mean difference to the live teacher within seeds, with its 95 % interval."""
    rows = []
    for metric in METRICS:
        by_seed = {
            name: [run[metric] for run in runs if run["arm"] == name] for name in (arm, "live")
        }
        each = [a - b for a, b in zip(by_seed[arm], by_seed["live"], strict=True)]
        mean, n = statistics.mean(each), len(each)
        half = stats.t.ppf(0.975, n - 1) * statistics.stdev(each) / n**0.5
        row = {"name": f"{arm} - live, {metric}", "difference": mean, "n": n, "device": "cpu"}
        rows.append({**row, "low": mean - half, "high": mean + half, "each": each})
    return rows


def is_worse(row: dict[str, Any]) -> bool:
    """Whether the interval leaves out zero for the worse."""
    return bool(row["low"] > 0 if row["name"].endswith("loss") else row["high"] < 0)


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--source", help="folder of CIFAR-10 in parquet files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="optimizer steps of a student")
    parser.add_argument("--json", type=Path, help="file for the runs and differences")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2")
    if arguments.data == "cifar10" and arguments.source is None:
        parser.error("--data cifar10 needs --source")
    warnings.simplefilter("ignore")  # no validation while training, on purpose
    for name in ("lightning.pytorch", "rrr_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    task = make_task(arguments.data, arguments.source, arguments.steps)
    teacher = train(task, task.teacher, 1, task.teacher_steps)
    runs: list[dict[str, Any]] = [{"arm": "the teacher", "seed": 1, **judge(task, teacher, 1)}]
    print(runs[0], flush=True)
    for seed in range(100, 100 + arguments.seeds):
        for arm in ARMS:
            with tempfile.TemporaryDirectory() as folder:
                callbacks = taught(task, arm, teacher, seed, Path(folder))
                module = train(task, task.student, seed, task.steps, *callbacks)
            runs.append({"arm": arm, "seed": seed, **judge(task, module, seed)})
            print(runs[-1], flush=True)
    rows = [row for arm in ARMS if arm != "live" for row in differences(runs, arm)]
    for row in rows:
        print(f"{row['name']}: {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]")
    if arguments.json is not None:
        about = {
            "task": vars(task) | {"source": arguments.data},
            "machine": describe_machine("cpu"),
        }
        content = {"differences": rows, "runs": runs, **about}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(is_worse(row) for row in rows if row["name"].startswith("stored")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
