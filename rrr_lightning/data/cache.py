"""Where prepared data are kept, and how they get there: as a whole or not at all.

What is made goes into a folder `NAME.partial` beside its target, which gets its name when it is
complete; what an interrupted run left there is found and continued. A lock, which ends with its
process however that ends, lets one process build while others wait for the result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError

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
