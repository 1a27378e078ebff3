"""Chance as a function: every random number of this library is computed from a key.

A key is a tuple of integers and words, such as `(seed, "order", epoch)`. The same key gives the
same numbers in any process, worker and rank, before and after a resume, so no generator state has
to be saved and two runs can be paired sample by sample. torch's CPU generator keeps the lower 32
bits of a seed, so among many thousands of keys a few share their numbers.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rrr_lightning.errors import check

Part = int | str


def key_seed(*parts: Part) -> int:
    """Returns a seed in [0, 2**63) for a key; equal keys give equal seeds, on every platform.

    >>> key_seed(17, "order", 0) == key_seed(17, "order", 0) != key_seed(17, "order", 1)
    True
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def keyed_generator(*parts: Part) -> torch.Generator:
    """Returns a new CPU generator at the start of the stream of a key."""
    return torch.Generator().manual_seed(key_seed(*parts))


def keyed_permutation(length: int, *parts: Part) -> torch.Tensor:
    """Returns a permutation of `range(length)`, int64 of shape [length]."""
    return torch.randperm(length, generator=keyed_generator(*parts))


def rekey(*parts: Part) -> None:
    """Moves torch's default generators (CPU and the current CUDA device) to the stream of a key.

    Called at every step, so it goes to these generators alone: `torch.manual_seed` seeds
    every device.
    """
    seed = key_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)


@contextmanager
def keyed_randomness(*parts: Part) -> Iterator[None]:
    """Runs the body with torch's CPU generator on the stream of a key, then puts it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key_seed(*parts))
        yield


def check_seed(seed: int | None, key: str) -> None:
    """Refuses a seed that is not in [0, 2**64)."""
    check(seed is None or 0 <= seed < 2**64, key, seed, "a whole number in [0, 2**64), or null")


def global_seed(seed: int | None) -> int:
    """Returns `seed`, or Lightning's global seed where it is None, or 0 where there is none.

    `lightning.seed_everything` (and the command line's `--seed_everything`) leaves its seed in the
    environment variable `PL_GLOBAL_SEED`, which worker and rank processes inherit.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
