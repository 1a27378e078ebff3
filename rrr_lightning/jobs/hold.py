"""One runner at a time in a folder: its holder alone may write what the jobs there are told."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rrr_lightning.errors import InputError
from rrr_lightning.jobs.locks import POLL_SECONDS, Lock, holder

RUNNER_LOCK = ".runner"


@dataclass(frozen=True)
class Held:
    """A folder that this process alone runs jobs in.

    Attributes:
        lock: The lock; local jobs end soon after it is released.
        name: The name under which it was taken.
    """

    lock: Lock
    name: str


@contextlib.contextmanager
def hold(folder: str | Path) -> Iterator[Held]:
    """Makes this process the only runner in a folder, which is made where it is not there."""
    held = Held(Lock(Path(folder).absolute() / RUNNER_LOCK), uuid.uuid4().hex)
    try:
        _take(held)
    except OSError as error:
        raise InputError(
            f"cannot be written to ({error.strerror})",
            key="--out",
            found=str(folder),
            accepted="a folder of one's own",
        ) from error
    try:
        yield held
    finally:
        held.lock.release()


def _take(held: Held) -> None:
    """Takes the lock.

    Processes of an earlier runner look at the lock for an instant now and then, hence the patience.
    """
    lock = held.lock
    note: dict[str, str | int] = {
        "name": held.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    end = time.monotonic() + 10 * POLL_SECONDS
    while not lock.take(note):
        if time.monotonic() > end:
            other = holder(lock.path) or {}
            raise InputError(
                f"process {other.get('pid')} on {other.get('host')} is running the jobs of "
                "this folder already",
                key="--out",
                found=str(lock.path.parent),
            )
        time.sleep(POLL_SECONDS / 4)
