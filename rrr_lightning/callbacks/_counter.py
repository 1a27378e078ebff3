"""Counts the floating-point operations of a stretch of a run, with PyTorch's own counter."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_SKIPS = "skip_unsupported" in inspect.signature(FlopCounterMode).parameters


def is_compiled(module: nn.Module) -> bool:
    """Whether a module or a part of it is compiled.

    Under PyTorch's counter it would run eagerly, with other rounding, so it is not counted.
    """
    return any(
        each._compiled_call_impl is not None
        or isinstance(each, torch._dynamo.OptimizedModule)
        or getattr(each, "_compiler_ctx", None) is not None
        for each in module.modules()
    )


class FlopCounter:
    """Counts what runs between `start` and `stop`, which may be called several times."""

    def __init__(self) -> None:
        self._mode: Any = None
        self._sum = 0.0
        self._all_known = True

    def start(self) -> None:
        """Starts to count."""
        # Without the flag, kernels that the mode has no formula for would be counted, and not run.
        known: dict[str, Any] = {"skip_unsupported": True} if _SKIPS else {}
        mode: Any = FlopCounterMode(display=False, **known)
        mode.mod_tracker = _NoModules()
        mode.__enter__()
        self._mode = mode

    def stop(self) -> None:
        """Stops counting."""
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.__exit__(None, None, None)
            self._sum += mode.get_total_flops()
            self._all_known &= not (_SKIPS and mode.get_unsupported_ops())

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

    def flops(self) -> float | None:
        """Returns the operations of all that ran, None where they cannot be known."""
        return self._sum if self._all_known else None


class _NoModules:
    """In the place of the mode's hooks on all modules, as the sum alone is wanted."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
