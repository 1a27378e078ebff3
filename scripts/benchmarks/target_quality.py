"""Does a student learn from stored targets what it learns from the live teacher?

    python scripts/benchmarks/target_quality.py --data digits --json target_quality_digits.json
    python scripts/benchmarks/target_quality.py --data cifar10 --source DATA/cifar10 --kind sampled
    python scripts/benchmarks/target_quality.py --data prose --classes 48

Trains one teacher, then for every seed four students that differ in nothing but what teaches them:
nobody, the live teacher, and its stored targets of all classes and of some: the top ones for
images, a sample for the masked tokens of the prose that comes with installed packages. Runs of a
seed start from the same weights and see the same views and masks, so differences are taken within
seeds; they come with an interval of Student's t, which for stored minus live should hold zero.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _intervals import difference_row
from _timing import be_quiet, report
from lightning.pytorch import Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.base import KeyedDataModule
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.data.text import TextDataModule
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.distillation.sparse import Kind
from rrr_lightning.models.base import StudentModule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.targets.plan import Choice
from rrr_lightning.targets.write import write_targets

METRICS = ("val/loss", "val/accuracy")
ARMS = ("nobody", "live", "stored, all classes", "stored, some classes")


@dataclass(frozen=True)
class Task:
    """Data and networks, and for how many steps they are trained.

    Args:
        source: A folder of CIFAR-10 in parquet files; None for what needs no files.
        teacher: The teacher's network.
        student: The students' network.
        teacher_steps: Optimizer steps of the teacher.
        steps: Optimizer steps of a student.
        classes: How many classes are kept where some are.
        batch_size: Samples of a step.
        learning_rate: The peak learning rate of both.
        temperature: Of the distillation loss.
        kind: What is kept of a row where some classes are.
    """

    source: str | None
    teacher: Any
    student: Any
    teacher_steps: int
    steps: int
    classes: int
    batch_size: int
    learning_rate: float
    temperature: float
    kind: Kind

    @property
    def is_text(self) -> bool:
        """Whether the samples are texts."""
        return isinstance(self.teacher, dict)

    def data(self, seed: int) -> KeyedDataModule:
        """Returns the data of a seed."""
        if self.is_text:
            return TextDataModule(
                "embedded", "train:2048", sequence_length=32, max_val_documents=256,
                global_batch_size=self.batch_size, seed=seed,
            )  # fmt: skip
        if self.source is None:
            return EmbeddedDigits(self.batch_size, seed=seed)
        size = {"global_batch_size": self.batch_size, "eval_batch_size": 500}
        return ImageDataModule(self.source, transform="cifar", seed=seed, **size)

    def module(self, network: Any, seed: int) -> StudentModule:
        """Returns a new network."""
        settings = {"learning_rate": self.learning_rate, "warmup_fraction": 0.2, "seed": seed}
        if self.is_text:
            return MaskedLanguageModel(network, 2048, **settings)
        decay = 5e-3 if self.source is None else 5e-4
        choices = {"initialization": "default", "momentum": 0.9, "weight_decay": decay}
        return ImageClassifier(network, 10, **choices, **settings)


def bert(width: int) -> dict[str, Any]:
    """Returns a BERT of two layers, as in the quickstart."""
    return {
        **{"model_type": "bert", "num_hidden_layers": 2, "hidden_size": width},
        **{"num_attention_heads": width // 32, "intermediate_size": 4 * width},
        **{"max_position_embeddings": 32, "initializer_range": 0.1},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }


def make_task(name: str, source: str | None, **changes: Any) -> Task:
    """Returns a task by name, with other steps, classes or kind where they are given."""
    networks = "cifar_resnet20", "cifar_resnet8"
    tasks = {
        "digits": Task(None, "cifar_resnet14", "cifar_resnet8", 200, 50, 4, 40, 0.1, 4.0, "top_k"),
        "cifar10": Task(source, *networks, 800, 400, 4, 128, 0.1, 4.0, "top_k"),
        "prose": Task(None, bert(128), bert(64), 1200, 400, 12, 32, 0.002, 1.0, "sampled"),
    }
    return replace(tasks[name], **{key: value for key, value in changes.items() if value})


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


def options(task: Task) -> dict[str, Any]:
    """Returns what all ways to be taught have in common."""
    schedule = DistillationSchedule(weight=0.9, until=0.8)
    return {"loss": KLDivergence(temperature=task.temperature), "schedule": schedule}


def train(task: Task, network: Any, seed: int, steps: int, *callbacks: Any) -> StudentModule:
    """Trains a network, and returns it."""
    module = task.module(network, seed)
    trainer = make_trainer(steps, callbacks=list(callbacks))
    trainer.fit(module, datamodule=task.data(seed))
    return module


def judge(task: Task, module: StudentModule, seed: int) -> dict[str, float]:
    """Returns loss and accuracy on the validation images."""
    trainer = make_trainer(1, limit_val_batches=1.0)
    (found,) = trainer.validate(module, datamodule=task.data(seed), verbose=False)
    return {name: found[name] for name in METRICS}


def taught(task: Task, arm: str, teacher: StudentModule, seed: int, folder: Path) -> list[Any]:
    """Returns the callback of an arm, its targets written where it has some."""
    if arm == "nobody":
        return []
    if arm == "live":
        return [DistillationCallback([teacher], **options(task))]
    kept: tuple[Kind, int | None] = ("dense", None) if "all" in arm else (task.kind, task.classes)
    write_targets(
        make_trainer(task.steps),
        task.module(task.student, seed),
        task.data(seed),
        DistillationCallback([teacher], **options(task)),
        Choice(folder, *kept),
        say=lambda line: None,
    )
    return [DistillationCallback(targets=str(folder), **options(task))]


def differences(data: str, runs: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """Returns the mean difference to the live teacher within seeds, for loss and accuracy."""
    rows = []
    for metric in METRICS:
        both = [[run[metric] for run in runs if run["arm"] == name] for name in (arm, "live")]
        goal = 0.0 if arm.startswith("stored") else None
        name = f"{data}: {arm} - live, {metric}"
        rows.append(difference_row(name, list(zip(*both, strict=True)), goal))
    return rows


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "cifar10", "prose"), default="digits")
    parser.add_argument("--source", help="folder of CIFAR-10 in parquet files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="optimizer steps of a student")
    parser.add_argument("--teacher-steps", type=int, help="optimizer steps of the teacher")
    parser.add_argument("--classes", type=int, help="classes kept where some are")
    parser.add_argument("--kind", choices=("top_k", "sampled"), help="which ones are kept then")
    parser.add_argument("--json", type=Path, help="file for the runs and differences")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2")
    if arguments.data == "cifar10" and arguments.source is None:
        parser.error("--data cifar10 needs --source")
    be_quiet()
    names = ("steps", "teacher_steps", "classes", "kind")
    changes = {name: getattr(arguments, name) for name in names}
    task = make_task(arguments.data, arguments.source, **changes)
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
    settings = {**vars(task), "source": arguments.data}
    rows = [
        row | {"task": settings}
        for arm in ARMS
        if arm != "live"
        for row in differences(arguments.data, runs, arm)
    ]
    return report(rows, arguments.json)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
