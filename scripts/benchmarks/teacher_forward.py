"""What a teacher's forward costs as it runs by default, and how far its rows move.

    python scripts/benchmarks/teacher_forward.py --device cpu --data FOLDER --json FILE

A teacher loaded from a spec has its batch norms folded, its convolutions in `channels_last`, and
its weights in bf16 where the device computes in it. Seconds per forward are held against the same
network in eager float32 on the same device, as loaded; on batches of noise, as the time does not
depend on the pixels. With `--data` the networks are trained first for some hundred steps, and the
top classes of both forwards are compared on real held-out data: FOLDER holds `cifar10/` (parquet
files), `photos/` (class folders under `train/` and `val/`) and `text/` (parquet files), or some of
them. Networks that know little have many near ties; a teacher of one's own is compared with

    python scripts/benchmarks/teacher_forward.py --teacher SPEC --images FOLDER

`--precision` compares the top classes in a precision that the device would not choose by itself;
seconds are not measured then, as they would be those of an emulation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _intervals import wilson
from _timing import Comparison, StepClock, be_quiet, parse, report
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.types import TRAIN_DATALOADERS
from torch.utils._pytree import tree_map

from rrr_lightning.callbacks._teachers import device_precision
from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.data.text import TextDataModule
from rrr_lightning.distillation.rows import compare_rows
from rrr_lightning.distillation.teacher import Normalization, Precision, Teacher
from rrr_lightning.models.base import StudentModule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.random import keyed_generator
from rrr_lightning.teachers import load_teacher

WARM_UP = 2
GOAL, AGREEMENT_GOAL = 0.6, 0.995
AGREEMENT_ROWS = 4000
VOCABULARY, MASK, MASKED = 30522, 103, 0.15
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.05,
}


@dataclass(frozen=True)
class Subject:
    """A network, the batches that its forward is timed on, and what it learns from.

    Args:
        name: What the rows of the result call it.
        module: Returns the network, untrained.
        batch: Returns a batch of noise.
        folder: The folder of `--data` that holds its data.
        data: Returns the data in that folder.
        steps: Steps to train it for.
    """

    name: str
    module: Callable[[], StudentModule]
    batch: Callable[[], Any]
    folder: str
    data: Callable[[str], LightningDataModule]
    steps: int


def images(batch: int, pixels: int) -> Any:
    """Returns a batch of noise for an image network."""
    generator = keyed_generator("teacher_forward")
    shape = batch, 3, pixels, pixels
    pixel_values = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return pixel_values, torch.zeros(batch, dtype=torch.long)


def tokens(batch: int, length: int) -> Any:
    """Returns a batch of noise for a masked-LM network."""
    generator, shape = keyed_generator("teacher_forward"), (batch, length)
    words = torch.randint(1000, VOCABULARY, shape, generator=generator)
    masked = torch.rand(shape, generator=generator) < MASKED
    return {
        "input_ids": torch.where(masked, MASK, words),
        "attention_mask": torch.ones_like(words),
        "labels": torch.where(masked, words, -100),
    }


def cifar(source: str) -> LightningDataModule:
    """Returns images of 32 pixels."""
    return ImageDataModule(source, transform="cifar", global_batch_size=128, eval_batch_size=500)


def photos(source: str, crop: int = 128) -> LightningDataModule:
    """Returns photos, in small crops to learn from quickly."""
    return ImageDataModule(
        source, crop_size=crop, resize_size=round(crop * 8 / 7), global_batch_size=32,
        eval_batch_size=32, min_scale=0.35, num_workers=0,
    )  # fmt: skip


def text(source: str) -> LightningDataModule:
    """Returns masked text; the tokenizer lies beside it or on the hub."""
    beside = Path(source).parent / "bert-base-uncased"
    return TextDataModule(
        source, str(beside) if beside.is_dir() else "bert-base-uncased", global_batch_size=32,
        max_documents=20000, max_val_documents=400, num_workers=0,
    )  # fmt: skip


def subjects(device: str) -> list[Subject]:
    """Returns what is measured on a device."""
    cuda = device == "cuda"
    bert: Any = "base" if cuda else SMALL_BERT
    sizes = (512, 256, 64) if cuda else (64, 16, 16)
    return [
        Subject(
            "ResNet-20, 32 pixels",
            lambda: ImageClassifier("cifar_resnet20", 10, learning_rate=0.2, warmup_fraction=0.15,
                                    initialization="default", seed=0),
            lambda: images(sizes[0], 32), "cifar10", cifar, 2000,
        ),
        Subject(
            "ResNet-50, 224 pixels",
            lambda: ImageClassifier("resnet50", 10, learning_rate=0.05, warmup_fraction=0.15,
                                    initialization="default", seed=0),
            lambda: images(sizes[1], 224), "photos", photos, 600,
        ),
        Subject(
            f"BERT{'-base' if cuda else ' of 4 layers of 256'}, 128 tokens, masked rows",
            lambda: MaskedLanguageModel(bert, VOCABULARY, learning_rate=1e-3, warmup_fraction=0.1,
                                        seed=0),
            lambda: tokens(sizes[2], 128), "text", text, 300,
        ),
    ]  # fmt: skip


def train(module: StudentModule, data: LightningDataModule, device: str, steps: int) -> None:
    """Trains a network in place; in bf16 where the device has it, as speed is what matters here."""
    half = device_precision(torch.device(device)) == "bf16"
    trainer = Trainer(
        accelerator=device, devices=1, precision="bf16-mixed" if half else "32-true",
        max_steps=steps, max_epochs=-1,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)


def time_row(name: str, teachers: tuple[Teacher, Teacher], batch: Any, size: Any) -> dict[str, Any]:
    """Returns the row on the seconds per forward of the first teacher against the second."""

    def forwards(teacher: Teacher) -> Callable[[StepClock], None]:
        def arm(clock: StepClock) -> None:
            for _ in range(clock.total):
                teacher.rows(batch)
                clock.tick()

        return arm

    mine, plain = (forwards(teacher) for teacher in teachers)
    return Comparison(f"{name}: seconds / eager float32", mine, plain, GOAL).run(*size)


def agreement_row(
    name: str, teachers: tuple[Teacher, Teacher], batches: Iterator[Any]
) -> dict[str, Any]:
    """Returns the row on the share of rows whose top class is that of float32."""
    sums = torch.zeros(3)
    for batch in batches:
        rows, plain = (teacher.rows(batch) for teacher in teachers)
        sums += compare_rows(plain, rows).cpu()
        if sums[2] >= AGREEMENT_ROWS:
            break
    same, divergence, count = sums.tolist()
    low, high = wilson(same, count)
    return {
        **{"name": f"{name}: top-1 agreement with float32", "ratio": same / count},
        **{"low": low, "high": high, "coverage": 0.95, "n": int(count)},
        **{"goal": AGREEMENT_GOAL, "rule": "at least", "met": same / count >= AGREEMENT_GOAL},
        **{"mean_kl_nats": divergence / count},
    }


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, standard deviation


def held_out(data: LightningDataModule, device: str) -> Iterator[Any]:
    """Yields validation batches, on the device."""
    loader: TRAIN_DATALOADERS = data.val_dataloader()
    for batch in islice(loader, 400):
        yield tree_map(lambda each: each.to(device), batch)


def two_of(
    load: Callable[[], Teacher], device: str, precision: Precision
) -> tuple[Teacher, Teacher]:
    """Returns a teacher made cheaper, and as loaded in eager float32."""
    teachers = load(), load()
    for teacher in teachers:
        teacher.place(device, "32")
    teachers[0].cheapen(precision)
    return teachers


def measure(
    subject: Subject, device: str, precision: Precision, data: Path | None, size: Any
) -> list[dict[str, Any]]:
    """Returns the rows on one network."""
    module = subject.module()
    source = None if data is None else data / subject.folder
    learned = source is not None and source.is_dir()
    if learned:
        holds = subject.data(str(source))
        train(module, holds, device, subject.steps)
    state = module.cpu().state_dict()

    def load() -> Teacher:
        network = subject.module()
        network.load_state_dict(state)
        return Teacher(network, name=subject.name, schema=network.schema())

    teachers = two_of(load, device, precision)
    batch = tree_map(lambda each: each.to(device), subject.batch())
    chosen = precision == device_precision(torch.device(device))
    rows = [time_row(subject.name, teachers, batch, size)] if chosen else []
    if learned:
        name = f"{subject.name}, in {precision}"
        rows.append(agreement_row(name, teachers, held_out(holds, device)))
    return rows


def measure_teacher(spec: str, folder: str, device: str, size: Any) -> list[dict[str, Any]]:
    """Returns the rows on a teacher of one's own."""
    data = photos(folder, 224)
    data.trainer = Trainer(
        accelerator=device, logger=False, enable_checkpointing=False, max_steps=1
    )
    data.setup("validate")

    def load() -> Teacher:
        teacher = load_teacher(spec, key="--teacher")
        if teacher.schema.normalization is None:  # a spec that does not tell: those of ImageNet
            told = replace(teacher.schema, normalization=Normalization(*IMAGENET))
            return Teacher(teacher.network, name=spec, schema=told)
        return teacher

    teachers = two_of(load, device, device_precision(torch.device(device)))
    batch = next(held_out(data, device))
    rows = agreement_row(spec, teachers, held_out(data, device))
    return [time_row(spec, teachers, batch, size), rows]


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of real data to train and compare on")
    parser.add_argument("--only", default="", help="measure the networks with this in their names")
    parser.add_argument("--teacher", help="a teacher spec instead of the networks made here")
    parser.add_argument("--images", help="its images: a folder with train/ and val/")
    parser.add_argument("--train-steps", type=int, help="steps to train the networks for")
    parser.add_argument("--precision", choices=("bf16", "16", "32"), help="default: the device's")
    arguments = parse(parser, repeats=9, steps=10)
    if (arguments.teacher is None) != (arguments.images is None):
        parser.error("--teacher and --images go together")
    be_quiet()
    device = arguments.device
    precision = arguments.precision or device_precision(torch.device(device))
    size = device, arguments.repeats, WARM_UP, arguments.steps
    if arguments.teacher is not None:
        rows = measure_teacher(arguments.teacher, arguments.images, device, size)
    else:
        chosen = [each for each in subjects(device) if arguments.only in each.name]
        steps = {} if arguments.train_steps is None else {"steps": arguments.train_steps}
        rows = (
            row
            for subject in chosen
            for row in measure(replace(subject, **steps), device, precision, arguments.data, size)
        )
    return report(rows, arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
