"""Tokenizes documents once, on all cores, into memory-mapped Arrow files.

A part holds the samples of a fixed number of documents, so an interrupted preparation goes on with
the first part that is not there. Threads do the work: the tokenizer library leaves Python's lock,
and threads, unlike processes, need no copies and no care about what was running before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrr_lightning.data.documents import Documents
from rrr_lightning.data.tokenization import SUMMARY, Encoder, describe_part, write_part
from rrr_lightning.errors import InputError

# ----------------------------------------------------------------------
# Where prepared data are kept, and how they get there: as a whole or not at all.


UNFINISHED = ".writing"


def cache_root(cache_dir: str | None) -> Path:
    """Returns the folder of prepared data: `cache_dir`, or `RRR_CACHE`, or the user's cache."""
    if cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache_dir = os.environ.get("RRR_CACHE") or f"{home}/rrr_lightning"
    return Path(cache_dir).expanduser()


def fingerprint(parts: Any) -> str:
    """Returns 20 hexadecimal digits that stand for plain values.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def build_once(target: Path, build: Callable[[Path], None]) -> None:
    """Makes a folder, unless it is there."""
    from filelock import FileLock

    with writing(target.parent):
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{target}.lock")
        lock.acquire()
    try:
        if not target.exists():
            partial = Path(f"{target}.partial")
            with writing(target.parent):
                partial.mkdir(exist_ok=True)
                for left in partial.glob(f"*{UNFINISHED}"):
                    left.unlink()
            build(partial)
            with writing(target.parent):
                os.replace(partial, target)
    finally:
        lock.release()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and gives it its own when it is on the disk."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    with writing(path.parent.parent):
        write(unfinished)
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the system says about a folder that cannot be written into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            key="data.cache_dir",
            found=str(folder),
            accepted="a folder with write permission and space (or set RRR_CACHE)",
        ) from error


logger = logging.getLogger(__name__)

FORMAT = 1  # to be raised when the files come to look otherwise
CHUNK_DOCUMENTS = 256
PART_CHUNKS = 128


@dataclass(frozen=True)
class Chunk:
    """What a thread returns: the ids of some samples one after the other, and their lengths."""

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    documents: int
    short: int


def prepare(documents: Documents, encoder: Encoder, tokenizer_json: str, cache: Path) -> Path:
    """Returns the folder of the tokenized documents, made now if it is not there."""
    recipe = {
        "format": [FORMAT, CHUNK_DOCUMENTS, PART_CHUNKS],
        "documents": documents.fingerprint(),
        "tokenizer": fingerprint(tokenizer_json),
        "mode": encoder.mode,
        "length": encoder.length,
    }
    target = cache / f"tokens-{fingerprint(recipe)}"
    build_once(target, lambda folder: _build(folder, documents, encoder, recipe))
    return target


def _build(folder: Path, documents: Documents, encoder: Encoder, recipe: dict[str, Any]) -> None:
    parts = [describe_part(path) for path in _write_parts(documents, encoder, folder)]
    total = {name: sum(part[name] for part in parts) for name in ("samples", "documents", "short")}
    if not total["samples"]:
        shutil.rmtree(folder)
        raise InputError(
            f"gives no sample: of {total['documents']} documents {total['short']} have fewer than "
            "two tokens",
            key="data.source",
            found=documents.name,
        )
    if total["short"]:
        logger.warning(
            "%s: %d of %d documents have fewer than two tokens and are left out.",
            documents.name,
            total["short"],
            total["documents"],
        )
    summary = json.dumps({**recipe, **total, "parts": parts}, indent=1)
    write_file(folder / SUMMARY, lambda path: path.write_text(summary))


def _write_parts(documents: Documents, encoder: Encoder, folder: Path) -> list[Path]:
    """Writes the parts that are not there; returns the paths of all."""
    from tqdm.auto import tqdm

    paths: list[Path] = []
    chunks: list[Chunk] = []

    def finish() -> None:
        if chunks:
            _finish_part(paths[-1], chunks, encoder)
            chunks.clear()

    with tqdm(desc=f"Tokenizing {documents.name}", unit=" documents", disable=None) as progress:
        for number, count, chunk in _encoded(documents, encoder, folder):
            if number == len(paths):
                finish()
                paths.append(_part(folder, number))
            if chunk is not None:
                chunks.append(chunk)
            progress.update(count)
        finish()
    return paths


def _encoded(
    documents: Iterable[str], encoder: Encoder, folder: Path
) -> Iterator[tuple[int, int, Chunk | None]]:
    """Yields (part, documents, chunk) in order; no chunk where the part is there already."""
    cores = available_cores()
    window: deque[tuple[int, int, Future[Chunk] | None]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        for number, texts in enumerate(_chunks(documents)):
            part = number // PART_CHUNKS
            exists = _part(folder, part).exists()
            future = None if exists else pool.submit(_encode, encoder, texts)
            window.append((part, len(texts), future))
            if len(window) > 4 * cores:
                yield _result(*window.popleft())
        while window:
            yield _result(*window.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(part: int, count: int, future: Future[Chunk] | None) -> tuple[int, int, Chunk | None]:
    return part, count, None if future is None else future.result()


def _encode(encoder: Encoder, texts: list[str]) -> Chunk:
    encoded = encoder(texts)
    kept = [ids for ids in encoded if not encoder.is_short(ids)]
    lengths = np.array([len(ids) for ids in kept], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(kept), encoder.dtype, count=int(lengths.sum()))
    return Chunk(ids, lengths, len(encoded), len(encoded) - len(kept))


def _finish_part(path: Path, chunks: list[Chunk], encoder: Encoder) -> None:
    ids = np.concatenate([chunk.ids for chunk in chunks])
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    if encoder.mode == "pack":
        samples = encoder.pack(ids)
        ids, lengths = samples.ravel(), np.full(len(samples), encoder.length)
    counts = {name: sum(getattr(c, name) for c in chunks) for name in ("documents", "short")}
    write_file(path, lambda path: write_part(path, ids, lengths, counts))


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.arrow"


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(documents)
    while texts := list(islice(remaining, CHUNK_DOCUMENTS)):
        yield texts


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
