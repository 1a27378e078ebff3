"""Counts the floating-point operations of a stretch of a run, with PyTorch's own counter."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

_SKIPS = "skip_unsupported" in inspect.signature(FlopCounterMode).parameters


class Counter(ABC):
    """Counts what runs between `start` and `stop`; may do so several times."""

    @abstractmethod
    def start(self) -> None:
        """Goes on counting."""

    @abstractmethod
    def stop(self) -> None:
        """Interrupts the counting."""

    @abstractmethod
    def flops(self) -> float | None:
        """Returns the operations of all that ran, None where they cannot be known."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts within."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count within."""
        self.stop()
        try:
            yield
        finally:
            self.start()


class EagerCounter(Counter):
    """Counts what runs eagerly, as it runs."""

    def __init__(self) -> None:
        self._mode: Any = None
        self._sum = 0.0
        self._all_known = True

    def start(self) -> None:
        # Without the flag, kernels that the mode has no formula for would be counted, and not run.
        known: dict[str, Any] = {"skip_unsupported": True} if _SKIPS else {}
        mode: Any = FlopCounterMode(display=False, **known)
        mode.mod_tracker = _NoModules()
        mode.__enter__()
        self._mode = mode

    def stop(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)
            self._sum += mode.get_total_flops()
            self._all_known &= not (_SKIPS and mode.get_unsupported_ops())

    def flops(self) -> float | None:
        return self._sum if self._all_known else None


class _NoModules:
    """In the place of the mode's hooks on all modules, as the sum alone is wanted."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
