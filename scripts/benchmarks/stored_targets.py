"""What distillation from stored targets adds to a plain training step.

    python scripts/benchmarks/stored_targets.py --device cpu --repeats 20 --json stored_targets.json

Two ratios of seconds per step, for images and for masked tokens: a step that reads its targets from
the disk, against the same step without distillation. Both train with Lightning through this
library's modules and data modules; the targets are written first, by `rrr targets`' own function.
On a CPU the networks are `cifar_resnet20` on batches of 128 images of 32 pixels with 100 classes,
of which 10 are kept, and a BERT of 4 layers of 256 on 16 sequences of 128 tokens, of whose 8,192
classes 12 are sampled; on a GPU `resnet50` on 256 images of 224 pixels with 1,000 classes, and BERT
base on 64 sequences with 30,522. Pixels and tokens are noise, as a step's time does not depend on
them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import Comparison, StepClock, be_quiet, parse, report
from lightning.pytorch import Callback, LightningModule
from step_cost import TimeSteps, quiet_trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.embedded import StoredImages
from rrr_lightning.data.masking import Masking
from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.data.text import Batch, masked_batch
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.keyed_rng import keyed_generator
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.targets.plan import Choice
from rrr_lightning.targets.write import write_targets

WARM_UP_STEPS = 5
GOAL = 1.05
SPECIAL = range(5)


class NoiseTexts:
    """Sequences of random tokens, masked by key.

    Args:
        count: How many.
        length: Tokens of each.
        vocabulary: Number of tokens; the first five are special, the last of them is the mask.
    """

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        generator = keyed_generator("stored_targets")
        shape = (count, length)
        self.ids = torch.randint(len(SPECIAL), vocabulary, shape, generator=generator).numpy()
        self.masking = Masking(vocabulary, SPECIAL, SPECIAL[-1])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        ids = self.ids[[index for _, index in keys]]
        return masked_batch(ids, np.full(len(ids), ids.shape[1]), self.masking, keys)


@dataclass(frozen=True)
class Images:
    """A classifier and its images."""

    name: str
    network: str
    classes: int
    batch_size: int
    pixels: int

    def module(self, seed: int) -> LightningModule:
        """Returns a new network."""
        return ImageClassifier(self.network, self.classes, learning_rate=0.01, seed=seed)

    def load(self) -> StoredImages:
        """Returns the images of four steps."""
        generator, count = keyed_generator("stored_targets"), 4 * self.batch_size
        shape = (count, 3, self.pixels, self.pixels)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        return StoredImages(images, torch.randint(self.classes, (count,), generator=generator))


@dataclass(frozen=True)
class Texts:
    """A masked-language model and its sequences."""

    name: str
    network: str
    classes: int
    batch_size: int
    length: int

    def module(self, seed: int) -> LightningModule:
        """Returns a new network."""
        return MaskedLanguageModel(self.network, self.classes, learning_rate=1e-4, seed=seed)

    def load(self) -> NoiseTexts:
        """Returns the sequences of four steps."""
        return NoiseTexts(4 * self.batch_size, self.length, self.classes)


WORKLOADS: dict[str, list[Images | Texts]] = {
    "cpu": [
        Images("cifar_resnet20", "cifar_resnet20", 100, 128, 32),
        Texts("BERT mini", "mini", 8192, 16, 128),
    ],
    "cuda": [
        Images("resnet50", "resnet50", 1000, 256, 224),
        Texts("BERT base", "base", 30522, 64, 128),
    ],
}
PRECISION = {"cpu": "32-true", "cuda": "bf16-mixed"}


class Noise(KeyedDataModule):
    """The data of a workload."""

    def __init__(self, work: Images | Texts) -> None:
        super().__init__(work.batch_size, seed=0)
        self.work = work

    def load(self) -> tuple[Any, Any]:
        """Returns the set twice."""
        loaded = self.work.load()
        return loaded, loaded


def options() -> dict[str, Any]:
    """Returns what the writing and the reading of targets have in common."""
    schedule = DistillationSchedule(weight=0.9, until=1.0, shape="constant")
    return {"loss": KLDivergence(temperature=2.0), "schedule": schedule}


def write(work: Images | Texts, device: str, steps: int, folder: Path) -> None:
    """Writes the targets of a run, by a teacher like the student."""
    distillation = DistillationCallback([work.module(1)], **options())
    trainer = quiet_trainer(device, PRECISION[device], steps)
    write_targets(trainer, work.module(0), Noise(work), distillation, Choice(folder), _say_nothing)


def _say_nothing(line: str) -> None:
    pass


def compare(work: Images | Texts, device: str, folder: Path) -> Comparison:
    """Returns the comparison of a workload, whose targets are in a folder."""

    def run(clock: StepClock, *callbacks: Callback) -> None:
        steps = [*callbacks, TimeSteps(clock)]
        trainer = quiet_trainer(device, PRECISION[device], clock.total, steps)
        trainer.fit(work.module(0), datamodule=Noise(work))

    return Comparison(
        f"step on stored targets / plain step, {work.name}",
        lambda clock: run(clock, DistillationCallback(targets=str(folder), **options())),
        lambda clock: run(clock),
        goal=GOAL,
    )


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments = parse(parser, repeats=20, steps=20)
    be_quiet()
    device, steps = arguments.device, arguments.steps

    def row(work: Images | Texts) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            write(work, device, WARM_UP_STEPS + steps, Path(folder, "targets"))
            compared = compare(work, device, Path(folder, "targets"))
            return compared.run(device, arguments.repeats, WARM_UP_STEPS, steps)

    return report(map(row, WORKLOADS[device]), arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
