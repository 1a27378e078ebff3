"""Makes the images of a folder smaller and writes them as parquet files to train from.

    python scripts/prepare_imagenet.py --source /data/imagenet --out /data/imagenet400 --workers 16

The source has a folder per split and class (`train/<class>/*.JPEG`, `val/<class>/*.JPEG`); the
result is a `source` of `ImageDataModule`. Images keep their order, so their keyed crops stay where
they were. Says first how much room it takes. Whatever was finished before it was killed is kept:
run the same command again. It ends with reading all that it wrote and comparing checksums, which
`--verify` does alone. Anything wrong is one line and exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rrr_lightning.data.image_shards import (
    Resizing,
    check_room,
    cut_into_shards,
    predict_bytes,
    prepare_shards,
    verify_shards,
)
from rrr_lightning.data.loader import automatic_workers
from rrr_lightning.errors import InputError


def prepare(arguments: argparse.Namespace) -> None:
    """Writes and verifies the shards."""
    for name, most in (
        ("side", 100_000),
        ("quality", 100),
        ("per_shard", 10**9),
        ("workers", 1000),
    ):
        if not 1 <= getattr(arguments, name) <= most:
            key = f"--{name.replace('_', '-')}"
            found = getattr(arguments, name)
            raise InputError("out of range", key=key, found=found, accepted=f"1 to {most}")
    shards = cut_into_shards(arguments.source, arguments.splits, arguments.per_shard)
    if not arguments.verify:
        resizing, folder = Resizing(arguments.side, arguments.quality), arguments.out
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made ({error.strerror})", key="--out") from error
        needed = predict_bytes(shards, resizing)
        count = sum(len(shard.paths) for shard in shards)
        print(f"{count} images, about {needed / 1e9:.3f} GB in {len(shards)} files", flush=True)
        check_room(folder, needed - sum(path.stat().st_size for path in folder.glob("*.parquet")))
        for name, entry in prepare_shards(shards, folder, resizing, arguments.workers):
            print(f"{name}: {entry['rows']} images, {entry['bytes'] / 1e6:.1f} MB", flush=True)
    print(
        f"{verify_shards(shards, arguments.out)} images, {len(shards)} files as they were written"
    )


def main() -> int:
    """Runs the preparation; the exit status is 2 where the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of splits")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parquet files")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--side", type=int, default=400, help="shorter side in pixels")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG files")
    parser.add_argument("--per-shard", type=int, default=4000, help="most images in a file")
    parser.add_argument("--workers", type=int, default=1 + automatic_workers(1))
    parser.add_argument("--verify", action="store_true", help="only read and compare")
    try:
        prepare(parser.parse_args())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
