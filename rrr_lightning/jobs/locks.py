"""Locks on folders that end with the processes that hold them, however those end.

An advisory lock of the operating system on a file: a SIGKILL releases it, so none is ever stale. A
process that inherits the open file holds the lock as well, so a command whose starter was killed
still keeps others out of its folder.
"""

from __future__ import annotations

import json
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
