"""Class folders of images, made smaller and written as parquet files that `ImageDataModule` reads.

Rows keep the order of the folders, so an image keeps its index and with it its keyed views. A shard
gets its name when it is whole, and a list of the finished ones, with their checksums, lies beside
them: a preparation that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rrr_lightning.data.image_decoding import decode
from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.jpeg import read_frame
from rrr_lightning.errors import InputError

LIST = "prepared.json"
SAMPLES = 64  # images to predict the size from
SPARE = 1.05  # of the predicted size, for what a prediction from samples may miss


@dataclass(frozen=True)
class Resizing:
    """Makes images smaller and JPEG; JPEG files that are small enough stay as they are.

    Args:
        side: Length of the shorter side of what is larger.
        quality: Quality of the JPEG files that are written.
    """

    side: int = 400
    quality: int = 90

    def __call__(self, encoded: bytes, name: str) -> bytes:
        """Returns the encoded bytes of the smaller image.

        Raises:
            InputError: The image cannot be decoded; the message holds `name`.
        """
        image = decode(encoded, name)
        shorter = min(image.size)
        if shorter > self.side:
            width, height = (round(length * self.side / shorter) for length in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        elif read_frame(encoded) is not None:
            return encoded
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality)
        return file.getvalue()


@dataclass(frozen=True)
class Shard:
    """Some neighbouring images of a split, and the file that they are written to.

    Args:
        root: Folder of the split.
        classes: Names of the classes.
        paths: The images, relative to that folder.
        labels: Their labels.
        name: Name of the file.
    """

    root: Path
    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]
    name: str

    def smaller(self, place: int, resizing: Resizing) -> bytes:
        """Returns the encoded bytes of one image, made smaller."""
        path = self.root / self.paths[place]
        try:
            encoded = path.read_bytes()
        except OSError as error:
            line = f"{path} cannot be read ({error.strerror})"
            raise InputError(line, key="--source") from error
        return resizing(encoded, str(path))

    def write(self, folder: Path, resizing: Resizing) -> dict[str, Any]:
        """Writes the file and returns its number of rows, its size and its checksum."""
        from datasets import ClassLabel, Dataset, Features
        from datasets import Image as ImageFeature

        features = Features({"image": ImageFeature(), "label": ClassLabel(names=[*self.classes])})
        images = [
            {"bytes": self.smaller(place, resizing), "path": path}
            for place, path in enumerate(self.paths)
        ]
        table = Dataset.from_dict({"image": images, "label": self.labels}, features)
        part = folder / f".{self.name}.part"
        try:
            table.to_parquet(str(part))
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            size = part.stat().st_size
            entry = {"rows": len(images), "bytes": size, "sha256": _checksum(part)}
            os.replace(part, folder / self.name)
        except OSError as error:
            line = f"{part} cannot be written ({error.strerror or error})"
            raise InputError(line, key="--out") from error
        return entry


def cut_into_shards(source: Path, splits: list[str], per_shard: int) -> list[Shard]:
    """Returns the shards of all splits, each named after its split, its number and their number."""
    shards = []
    for split in splits:
        images = FolderImages(source / split)
        classes, labels = images.class_names or (), images.labels.tolist()
        number = -(-len(labels) // per_shard)
        for place in range(number):
            own = slice(place * len(labels) // number, (place + 1) * len(labels) // number)
            name = f"{split}-{place:05d}-of-{number:05d}.parquet"
            shards.append(Shard(images.root, classes, images.paths[own], labels[own], name))
    return shards


def predict_bytes(shards: list[Shard], resizing: Resizing) -> int:
    """Returns about how many bytes the shards will take, from an even sample of the images."""
    places = [(shard, place) for shard in shards for place in range(len(shard.paths))]
    sample = places[:: -(-len(places) // SAMPLES)]
    sizes = [
        len(shard.smaller(place, resizing)) + len(shard.paths[place]) for shard, place in sample
    ]
    return round(len(places) * sum(sizes) / len(sizes))


def check_room(folder: Path, needed: int) -> None:
    """Refuses to begin what the disk has no room for.

    Raises:
        InputError: The disk of the folder has less room than is needed, or a little more.
    """
    free = shutil.disk_usage(folder).free
    if free < needed * SPARE:
        raise InputError(
            f"needs about {needed * SPARE / 1e9:.1f} GB",
            key="--out",
            found=f"{free / 1e9:.1f} GB free at {folder}",
        )


def prepare_shards(
    shards: list[Shard], folder: Path, resizing: Resizing, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes the shards that are not finished, and yields the name and entry of each when it is.

    Raises:
        InputError: The folder holds shards of other images or settings, or an image is corrupt.
    """
    done = _finished(shards, folder, resizing)
    left = [shard for shard in shards if shard.name not in done["shards"]]
    for name, entry in _write(left, folder, resizing, workers):
        done["shards"][name] = entry
        _write_list(folder, done)
        yield name, entry


def _write(
    shards: list[Shard], folder: Path, resizing: Resizing, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    if workers == 1:
        yield from ((shard.name, shard.write(folder, resizing)) for shard in shards)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _end_with_the_parent) as pool:
        running = {pool.submit(shard.write, folder, resizing): shard.name for shard in shards}
        try:
            for ended in as_completed(running):
                yield running[ended], ended.result()
        finally:
            for future in running:
                future.cancel()


def _end_with_the_parent() -> None:
    """A worker of a process that was killed would go on, beside those of the next one."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def verify_shards(shards: list[Shard], folder: Path) -> int:
    """Reads all shards again and returns their number of images.

    Those that are not as they were written are taken off the list of the finished ones, so that
    `prepare_shards` writes them again.

    Raises:
        InputError: One is missing, is not as it was written, or has other images than the source.
    """
    known = _read_list(folder)
    entries = known.get("shards", {})
    for shard in shards:
        entry, path = entries.get(shard.name), folder / shard.name
        if entry is None or not path.is_file():
            raise InputError("is missing or not finished", key="--out", found=str(path))
        if entry["rows"] != len(shard.paths):
            raise InputError("has other images than the source", key="--out", found=str(path))
    names = [shard.name for shard in shards]
    damaged = [name for name in names if entries[name]["sha256"] != _checksum(folder / name)]
    if damaged:
        whole = {name: entry for name, entry in entries.items() if name not in damaged}
        _write_list(folder, {**known, "shards": whole})
        raise InputError(
            f"{len(damaged)} of {len(names)} files are not as they were written",
            key="--out",
            found=", ".join(damaged),
            accepted="the same command again, without --verify, which writes them anew",
        )
    return sum(len(shard.paths) for shard in shards)


def _finished(shards: list[Shard], folder: Path, resizing: Resizing) -> dict[str, Any]:
    """What is known of this preparation, without the shards that are not there as written."""
    asked = {"resizing": asdict(resizing), "images": _fingerprint(shards)}
    known = _read_list(folder)
    for key, value in asked.items():
        if known and known.get(key) != value:
            raise InputError(
                f"holds shards that were made from other {key}",
                key="--out",
                found=str(folder),
                accepted="an empty folder, or the settings and images that it was begun with",
            )
    entries = {
        name: entry
        for name, entry in known.get("shards", {}).items()
        if (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
    }
    return {**asked, "shards": entries}


def _fingerprint(shards: list[Shard]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        sizes = [f"{path} {os.stat(shard.root / path).st_size}" for path in shard.paths]
        lines = [shard.name, *shard.classes, *sizes]
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()


def _read_list(folder: Path) -> dict[str, Any]:
    path = folder / LIST
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text())
    except ValueError as error:
        raise InputError("cannot be read as JSON", key="--out", found=str(path)) from error
    return dict(known)


def _write_list(folder: Path, known: dict[str, Any]) -> None:
    part = folder / f".{LIST}.part"
    with open(part, "w") as file:
        file.write(json.dumps(known, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / LIST)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
