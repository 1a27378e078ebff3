"""Locks on folders that end with the processes that hold them, however those end.

An advisory lock of the operating system on a file: a SIGKILL releases it, so none is ever stale. A
process that inherits the open file holds the lock as well, so a command whose starter was killed
still keeps others out of its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rrr_lightning.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.2


class Lock:
    """A lock on one file, which also holds a note about who has it.

    Args:
        path: The file; made with its folder when the lock is taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self, note: dict[str, str | int]) -> bool:
        """Takes the lock without waiting; False if another process has it."""
        if fcntl is None:
            raise InputError("folders cannot be locked on this system", accepted="Linux, macOS")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        self.write(note)
        return True

    def write(self, note: dict[str, str | int]) -> None:
        """Replaces the note."""
        assert self._file is not None
        self._file.truncate(0)
        self._file.write(json.dumps(note))
        self._file.flush()

    def fileno(self) -> int:
        """The open file, for a child that shall hold the lock too."""
        assert self._file is not None
        return self._file.fileno()

    def release(self) -> None:
        """Lets go, unless a child still holds it; nothing happens where the lock is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None


def holder(path: Path) -> dict[str, str | int] | None:
    """Returns the note of the process that holds the lock on a file, None where it is free."""
    if fcntl is None:
        return None
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                note = json.loads(file.read(1 << 20))
                return note if isinstance(note, dict) else {}
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # held, and its note is being written, or is none
        return {}
    return None


# ----------------------------------------------------------------------
# One runner at a time in a folder: its holder alone may write what the jobs there are told.


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
