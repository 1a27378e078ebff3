"""Counts the floating-point operations of a stretch of a run, with PyTorch's own counter."""

from __future__ import annotations

import inspect
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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


# ----------------------------------------------------------------------
# How many floating-point operations the steps of a run take, counted on a few of them.


_FREE_COUNTS, STEPS_PER_COUNT = 8, 64  # counts of a run: at most 8, and one per 64 steps

Shape = tuple[tuple[int, ...], ...]


@dataclass
class _Count:
    size: int
    seen: int = 0
    counted: int = 0
    total: float = 0.0
    varies: bool = False

    @property
    def mean(self) -> float:
        return self.total / self.counted


class FlopTable:
    """The counts of one network, or of one kind of step, by the shapes of its batches."""

    def __init__(self) -> None:
        self._counts: dict[Shape, _Count] = {}
        self._seen = self._times_counted = 0
        self._unknown = False

    def see(self, shape: Shape) -> bool:
        """Notes one more step, and returns whether it should be counted."""
        known = self._counts.get(shape)
        if known is None:
            known = self._counts[shape] = _Count(_size(shape))
        known.seen += 1
        self._seen += 1
        spent = self._times_counted >= _FREE_COUNTS + self._seen // STEPS_PER_COUNT
        if self._unknown or spent:
            return False
        again = (known.counted == 1 or known.varies) and known.seen == 4**known.counted
        return known.counted == 0 or again

    def add(self, shape: Shape, flops: float | None) -> None:
        """Adds the count of a step; None says that it cannot be counted."""
        if flops is None:
            self._unknown = True
            return
        known = self._counts[shape]
        known.varies |= known.counted > 0 and flops != known.mean
        known.counted += 1
        known.total += flops
        self._times_counted += 1

    def total(self) -> float | None:
        """Returns the operations of all steps seen, None where they cannot be known."""
        if self._unknown or (self._seen and not self._times_counted):
            return None
        counted = sorted((each.size, each.mean) for each in self._counts.values() if each.counted)
        return sum(
            each.seen * (each.mean if each.counted else _like_nearest(counted, each.size))
            for each in self._counts.values()
        )


class FlopMeter:
    """Counts the student's steps, and the teachers' forwards within them.

    Attributes:
        counting: Whether the latest step was counted, and so was slower than others.
    """

    def __init__(self) -> None:
        self.counting = False
        self._student = FlopTable()
        self._teachers: dict[int, FlopTable] = {}
        self._counter: FlopCounter | None = None

    def step(self, run: Callable[[], Any], batch: Any, module: nn.Module) -> Any:
        """Runs a step, forward and backward, and returns what it returns."""
        shape = shapes_of(batch)
        self.counting = self._student.see(shape)
        if self.counting and is_compiled(module):
            self._student.add(shape, None)
            self.counting = False
        if not self.counting:
            return run()
        self._counter = counter = FlopCounter()
        try:
            with counter.running():
                result = run()
        finally:
            self._counter = None
        self._student.add(shape, counter.flops())
        return result

    def teacher(self, number: int, run: Callable[[], Any], batch: Any, network: nn.Module) -> Any:
        """Runs the forward of a teacher, and returns what it returns."""
        shape = shapes_of(batch)
        table = self._teachers.setdefault(number, FlopTable())
        wanted = table.see(shape)
        if wanted and is_compiled(network):
            table.add(shape, None)
            wanted = False
        self.counting |= wanted
        with self._counter.paused() if self._counter is not None else nullcontext():
            if not wanted:
                return run()
            counter = FlopCounter()
            with counter.running():
                result = run()
            table.add(shape, counter.flops())
            return result

    def student_flops(self) -> float | None:
        """Returns the operations of all steps, those of the teachers not among them."""
        return self._student.total()

    def teacher_flops(self) -> float | None:
        """Returns the operations of all forwards of all teachers."""
        totals = [table.total() for table in self._teachers.values()]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) else None


def shapes_of(batch: Any) -> Shape:
    """Returns the shapes of the tensors in a batch."""
    return tuple(_shapes(batch))


def _shapes(batch: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(batch, Tensor):
        yield tuple(batch.shape)
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _shapes(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _shapes(value)


def _like_nearest(counted: Sequence[tuple[int, float]], size: int) -> float:
    """Returns the operations of a shape from those of counted ones, in the order of their sizes."""
    place = bisect_left(counted, (size, 0.0))
    near = counted[max(0, place - 1) : place + 1]
    nearest, flops = min(near, key=lambda each: abs(each[0] - size))
    return flops * size / max(1, nearest)


def _size(shape: Shape) -> int:
    return max((math.prod(each) for each in shape), default=0)
