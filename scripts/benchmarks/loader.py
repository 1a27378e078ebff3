"""Images and sequences per second and core, against torchvision and against what a GPU consumes.

    python scripts/benchmarks/loader.py --device cpu --repeats 20 --json loader.json

Images: seconds of a batch, library / torchvision, both in one thread, batch by batch in turn. The
library's batch is bytes, for the device to normalise; torchvision's is `ImageFolder` with Pillow,
`RandomResizedCrop`, a flip and `ToTensor`, and in a row of its own `Normalize` as well. "Large" are
the photos enlarged to four times their sides; "prepared" are files as `prepare_imagenet.py` makes
them, against torchvision on the originals.
Text: the seconds in which a core makes a batch of masked sequences / those in which one A100 trains
BERT-base on them. Needs the folder of real test data: `RRR_DATA`, or `../shared/data`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from _timing import Comparison, Median, StepClock, report
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.images import ViewedImages
from rrr_lightning.data.text import TextDataModule
from rrr_lightning.data.transforms import EvaluationView, TrainingView, View

sys.path.append(str(Path(__file__).parents[1]))
from prepare_imagenet import smaller

BATCH, SIDE, RESIZED = 20, 224, 256
GOAL = 0.4  # 2.5 times as many images
TEXT_BATCH, LENGTH = 128, 128
CONSUMED = 900  # sequences of 128 tokens per second, by BERT-base on an A100
WARM_UP, STEPS = 2, 6
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Batches = Callable[[int], Any]
CROPPED = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip()]
CENTRAL = [transforms.Resize(RESIZED), transforms.CenterCrop(SIDE)]
TENSOR, NORMALIZE = transforms.ToTensor(), transforms.Normalize(MEAN, STD)


def ours(folder: Path, view: View) -> Batches:
    """Returns what makes the n-th batch of a folder as `ImageDataModule` does."""
    source = FolderImages(folder)
    length = len(source.labels)
    images = ViewedImages(source, torch.arange(length), view)
    return lambda n: images[[divmod(n * BATCH + place, length) for place in range(BATCH)]]


def theirs(folder: Path, *steps: Any) -> Batches:
    """Returns what makes the n-th batch of a folder as torchvision's recipes do."""
    images = ImageFolder(str(folder), transforms.Compose(steps))
    length = len(images)
    return lambda n: default_collate(
        [images[(n * BATCH + place) % length] for place in range(BATCH)]
    )


def arm(batches: Batches) -> Callable[[StepClock], None]:
    """Returns what makes as many batches as a clock asks for, from where it left off."""
    number = itertools.count()

    def run(clock: StepClock) -> None:
        for _ in range(clock.total):
            batches(next(number))
            clock.tick()

    return run


def compare(
    name: str,
    folder: Path,
    view: View,
    steps: list[Any],
    repeats: int,
    originals: Path | None = None,
) -> dict[str, Any]:
    """Returns the row of one comparison."""
    comparison = Comparison(
        f"seconds per image, library / torchvision: {name}",
        arm(ours(folder, view)),
        arm(theirs(originals or folder, *steps)),
        goal=GOAL,
    )
    row = comparison.run("cpu", repeats, WARM_UP, STEPS)
    return row | {
        "images_per_second": BATCH / row["seconds"],
        "reference_images_per_second": BATCH / row["reference_seconds"],
        "times_as_many": 1 / row["ratio"],
    }


def enlarged(folder: Path, to: Path) -> Path:
    """Writes every fifth image of a folder with sides of four times the length."""
    for path in sorted(folder.glob("*/*"))[::5]:
        image, place = Image.open(path).convert("RGB"), to / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (4 * image.width, 4 * image.height)
        image.resize(size, Image.Resampling.BICUBIC).save(place, quality=90)
    return to


def prepared(folder: Path, to: Path, side: int) -> Path:
    """Writes the images of a folder as a preparation does."""
    for path in folder.glob("*/*"):
        place = to / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(smaller(path.read_bytes(), str(path), side, quality=90))
    return to


def image_rows(root: Path, scratch: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Yields the rows about images."""
    for archive in ("natural_photos", "imagenet_like"):
        with tarfile.open(root / f"{archive}.tar") as tar:
            tar.extractall(scratch / archive, filter="data")
    train, central = TrainingView(SIDE, 0.08, seed=1), EvaluationView(RESIZED, SIDE)
    photos, like = scratch / "natural_photos" / "train", scratch / "imagenet_like" / "train"
    large = enlarged(photos, scratch / "large")
    smaller = prepared(photos, scratch / "smaller", side=320)
    large_smaller = prepared(large, scratch / "large_smaller", side=400)
    crops, normalized = [*CROPPED, TENSOR], [*CROPPED, TENSOR, NORMALIZE]
    yield compare("natural photos, crops", photos, train, crops, repeats)
    yield compare("natural photos, crops, Normalize", photos, train, normalized, repeats)
    yield compare("natural photos, evaluation", photos, central, [*CENTRAL, TENSOR], repeats)
    yield compare("images of 224 pixels, crops", like, train, crops, repeats)
    yield compare("large photos, crops", large, train, crops, repeats)
    name = "photos prepared to 320 pixels, crops, / the originals"
    yield compare(name, smaller, train, crops, repeats, photos)
    name = "large photos prepared to 400 pixels, crops, / the originals"
    yield compare(name, large_smaller, train, crops, repeats, large)


def text_row(root: Path, cache: Path, repeats: int) -> dict[str, Any]:
    """Returns the row about masked sequences."""
    data = TextDataModule(
        str(root / "text"),
        tokenizer=str(root / "bert-base-uncased"),
        max_documents=8000,
        max_val_documents=100,
        sequence_length=LENGTH,
        global_batch_size=TEXT_BATCH,
        cache_dir=str(cache),
        seed=1,
    )
    data.prepare_data()
    samples = data.sets[0]

    def batch(n: int) -> Any:
        places = range(n * TEXT_BATCH, (n + 1) * TEXT_BATCH)
        return samples[[divmod(place * 4099, len(samples)) for place in places]]

    seconds = []
    comparison = Comparison("", arm(batch), arm(batch), goal=1)
    for _ in range(repeats):
        row = comparison.run("cpu", 1, WARM_UP, 4 * STEPS)
        seconds.append((row["seconds"] + row["reference_seconds"]) / 2)
    middle = Median.of([each * CONSUMED / TEXT_BATCH for each in seconds])
    return {
        "name": f"seconds per masked sequence of {LENGTH} on a core / on an A100 with BERT-base",
        "ratio": middle.value,
        "low": middle.low,
        "high": middle.high,
        "goal": 1.0,
        "rule": "at most",
        "met": middle.value <= 1,
        "n": repeats,
        "coverage": middle.coverage,
        "sequences_per_second": CONSUMED / middle.value,
        "reference_sequences_per_second": CONSUMED,
    }


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--repeats", type=int, default=20, help="pairs of short runs per ratio")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    fallback = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("RRR_DATA", fallback))
    if not root.is_dir():
        parser.error(f"no test data: RRR_DATA is not set and {fallback} is not a folder")
    logging.getLogger("rrr_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = [*image_rows(root, scratch, arguments.repeats)]
        rows.append(text_row(root, scratch, arguments.repeats))
    for row in rows[:-1]:
        print(
            f"{row['images_per_second']:.0f} images/s, not "
            f"{row['reference_images_per_second']:.0f}: {row['times_as_many']:.2f} times as many"
        )
    print(f"{rows[-1]['sequences_per_second']:.0f} sequences/s on a core")
    return report(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
