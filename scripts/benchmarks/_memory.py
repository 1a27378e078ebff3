"""Compares the peak memory of two ways to train, each measured in a process of its own.

What counts is what the steps need on top of what the process held before the first one: libraries,
networks and batches are needed either way. The bytes of whole processes are in the rows, too.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _timing import row_of
from torch import Tensor

Held = dict[str, float]


def most_bytes(device: str) -> float:
    """Returns the most bytes that this process has held so far, on a GPU its tensors'."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # ru_maxrss would count the parent: it outlives exec
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def allocated(device: str) -> float:
    """Returns the bytes of live tensors, those of a GPU as its allocator counts them."""
    gc.collect()
    if device == "cuda":
        return float(torch.cuda.memory_allocated())
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    storages = {each.untyped_storage()._cdata: each.untyped_storage() for each in tensors}
    return float(sum(storage.nbytes() for storage in storages.values()))


def print_memory(device: str, prepare: Callable[[], None], steps: Callable[[], None]) -> None:
    """Runs what both ways need, then the steps, and prints the bytes held after each."""
    prepare()
    before = most_bytes(device)
    steps()
    print(json.dumps({"before": before, "peak": most_bytes(device)}))


def memory_of(script: str, *arguments: str) -> Held:
    """Returns what `print_memory` printed in a new process that runs a script."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    held: Held = json.loads(done.stdout.splitlines()[-1])
    return held


def memory_row(
    name: str, arms: Sequence[Held], references: Sequence[Held], goal: float | None
) -> dict[str, Any]:
    """Returns the row of a result, as `Comparison.run` does for seconds."""
    needed = [[held["peak"] - held["before"] for held in arm] for arm in (arms, references)]
    ratios = [mine / other for mine, other in zip(*needed, strict=True)]
    return row_of(name, ratios, goal) | {
        "bytes": list(arms),
        "reference_bytes": list(references),
    }
