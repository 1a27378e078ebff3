"""Makes the images of a folder smaller and writes them as parquet files to train from.

    python scripts/prepare_imagenet.py --source /data/imagenet --out /data/imagenet400 --workers 16

The source has a folder per split and class (`train/<class>/*.JPEG`, `val/<class>/*.JPEG`); the
result is a `source` of `ImageDataModule`. Images keep their order, so their keyed crops stay where
they were; JPEG files that are small enough keep their bytes. A file gets its name when it is whole:
run the same command again after an interruption, and only what is missing is made.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.transforms import decode
from rrr_lightning.errors import InputError


def smaller(encoded: bytes, name: str, side: int, quality: int) -> bytes:
    """Returns a JPEG file whose shorter side is at most `side` pixels long."""
    image, format_ = decode(encoded, name), Image.open(io.BytesIO(encoded)).format
    shorter = min(image.size)
    if shorter <= side and format_ == "JPEG":
        return encoded
    if shorter > side:
        width, height = (round(length * side / shorter) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def prepare(split: str, arguments: argparse.Namespace) -> None:
    """Writes the files of a split that are not there yet."""
    images = FolderImages(arguments.source / split)
    features = Features(
        {"image": ImageFeature(decode=False), "label": ClassLabel(names=[*images.class_names])}
    )
    paths = [str(images.root / path) for path in images.paths]
    table = Dataset.from_dict({"image": paths, "label": images.labels.tolist()}, features)
    count = -(-len(paths) // arguments.per_shard)

    def make(row: dict[str, Any]) -> dict[str, Any]:
        path = row["image"]["path"]
        encoded = smaller(Path(path).read_bytes(), path, arguments.side, arguments.quality)
        return {"image": {"bytes": encoded, "path": path}}

    for number in range(count):
        file = arguments.out / f"{split}-{number:05d}-of-{count:05d}.parquet"
        if not file.exists():
            part = file.with_name(f".{file.name}.part")
            shard = table.shard(count, number, contiguous=True)
            shard.map(make, num_proc=arguments.workers).to_parquet(str(part))
            os.replace(part, file)


def main() -> int:
    """Runs the preparation; the exit status is 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of splits")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parquet files")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--side", type=int, default=400, help="shorter side in pixels")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG files")
    parser.add_argument("--per-shard", type=int, default=4000, help="most images in a file")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for split in arguments.splits:
            prepare(split, arguments)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
