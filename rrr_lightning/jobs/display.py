"""One progress display over all jobs: a line for each event, and on a terminal a line that moves.

The time left is the expected seconds of what is not finished, corrected by how long the finished
jobs took against what was expected of them, over the places that work at once.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH = 20
REFRESH_SECONDS = 1.0
FINISHED = "finished"


class Display:
    """Prints how far the jobs are.

    Args:
        expected: Expected seconds of every job of this run, by name.
        known: Jobs that had finished before.
        places: Jobs that run at once.
        stream: Where to; the standard output by default.
    """

    def __init__(
        self, expected: dict[str, float], known: int, places: int, stream: TextIO | None = None
    ) -> None:
        self.expected = expected
        self.known = known
        self.places = places
        self.stream = sys.stdout if stream is None else stream
        self.moving = self.stream.isatty()
        self._running: dict[str, float] = {}
        self._ended: set[str] = set()
        self._finished: dict[str, float] = {}
        self._drawn = 0.0

    def started(self, name: str) -> None:
        """A job starts, or starts again."""
        self._running[name] = time.monotonic()
        if self.moving:
            self.tick(force=True)
        else:
            self.say(f"{self._count()} {name} started")

    def ended(self, name: str, how: str) -> None:
        """A job has ended; `how` says in what way: `finished` or otherwise."""
        seconds = time.monotonic() - self._running.pop(name)
        self._ended.add(name)
        if how == FINISHED:
            self._finished[name] = seconds
        self.say(f"{self._count()} {name} {how} in {duration(seconds)}{self._left()}")

    def again(self, name: str, why: str) -> None:
        """A job has crashed and will be tried once more."""
        del self._running[name]
        self.say(f"{name} crashed and will be tried once more: {why}")

    def skipped(self, name: str, why: str) -> None:
        """A job will not run."""
        self._ended.add(name)
        self.say(f"{self._count()} {name} {why}")

    def say(self, line: str) -> None:
        """Prints a line."""
        self.stream.write(("\r\x1b[K" if self.moving else "") + line + "\n")
        self.stream.flush()
        self.tick(force=True)

    def tick(self, force: bool = False) -> None:
        """Draws the moving line again, on a terminal, once a second."""
        if not self.moving or not (force or time.monotonic() - self._drawn > REFRESH_SECONDS):
            return
        self._drawn = time.monotonic()
        done = len(self._ended) + self.known
        full = WIDTH * done // max(1, len(self.expected) + self.known)
        bar = "█" * full + "░" * (WIDTH - full)
        running = " " + ", ".join(self._running) if self._running else ""
        text = f"{bar} {self._count()}{running[:40]}{self._left()}"
        self.stream.write(f"\r\x1b[K{text}")
        self.stream.flush()

    def close(self) -> None:
        """Removes the moving line."""
        if self.moving:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def seconds_left(self) -> float:
        """Returns the expected seconds until the last job ends."""
        hoped = sum(self.expected[name] for name in self._finished)
        factor = sum(self._finished.values()) / hoped if hoped else 1.0
        now = time.monotonic()
        left = {
            name: max(0.0, factor * seconds - (now - self._running.get(name, now)))
            for name, seconds in self.expected.items()
            if name not in self._ended
        }
        return max(sum(left.values()) / self.places, max(left.values(), default=0.0))

    def _count(self) -> str:
        return f"[{len(self._ended) + self.known}/{len(self.expected) + self.known}]"

    def _left(self) -> str:
        if len(self._ended) == len(self.expected):
            return ""
        return f"; about {duration(self.seconds_left())} left"


def duration(seconds: float) -> str:
    """Returns seconds in words.

    >>> duration(4.2), duration(200), duration(9000)
    ('4 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
