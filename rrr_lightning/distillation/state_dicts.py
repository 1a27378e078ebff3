"""Reads weights from foreign checkpoint files, safely and strictly.

Files are inputs: they are opened as safetensors or with torch's `weights_only=True`, and there is
no switch to unpickle. Wrappers leave marks on key names (`module.` of data parallel, `_orig_mod.`
of `torch.compile`, `network.` or `model.` of a LightningModule); which prefix to remove is decided
by what the network at hand expects, and then every key must match.
"""

from __future__ import annotations

import argparse
import datetime
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rrr_lightning.errors import InputError

# Plain data that training scripts leave beside the weights; building them runs no foreign code.
_REBUILDERS: tuple[Any, Any] = (np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0])
_PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    datetime.timedelta,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for function in _REBUILDERS
        for module in ("numpy.core", "numpy._core")
    ),
]
_NESTS = (("state_dict",), ("model_state_dict",), ("model",), ("state", "model"))
_COMPILED = "_orig_mod."


def read_checkpoint(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """Returns all that a checkpoint file holds, on the CPU, without running any code from it.

    Args:
        path: A safetensors file, or one written by `torch.save`, in the old format or the new.
        key: The config key that names the file, for messages.

    Raises:
        InputError: No such file, a directory, a damaged file, one that holds pickled objects, or
            one that holds no dictionary.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("a directory where a weight file is needed", key=key, found=str(path))
    if not path.is_file():
        raise InputError("no such weight file", key=key, found=str(path))
    with open(path, "rb") as file:
        head = file.read(9)
    try:
        if path.suffix == ".safetensors" or (head[8:] == b"{" and head[:2] != b"PK"):
            return dict(load_file(path, device="cpu"))
        with torch.serialization.safe_globals(_PLAIN_DATA), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to unpickle regardless
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes surface as errors of many kinds
        raise _unreadable(path, error, head, key) from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds no state dict",
            key=key,
            found=type(content).__name__,
            accepted="a dictionary from names to tensors",
        )
    return dict(content)


def read_state_dict(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Returns the state dict in a checkpoint file, bare or nested, its keys as they are stored.

    `load_strictly` removes what wrappers have put in front of the keys.

    Args:
        path: The file; nestings are `state_dict`, `model_state_dict`, `model` and `state.model`.
        key: The config key that names the file, for messages.

    Raises:
        InputError: As `read_checkpoint`, or no state dict is found.
    """
    return state_dict_in(read_checkpoint(path, key), path, key)


def state_dict_in(
    content: Mapping[str, Any], path: str | Path, key: str | None = None
) -> dict[str, Tensor]:
    """Returns the state dict in what `read_checkpoint` read from a path; see `read_state_dict`."""
    for nest in ((), *_NESTS):
        inner: Any = content
        for name in nest:
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        if _is_state_dict(inner):
            return dict(inner)
    raise InputError(
        f"{path} holds no state dict",
        key=key,
        found=", ".join(map(str, list(content)[:6])),
        accepted="names to tensors, bare or under " + ", ".join(".".join(nest) for nest in _NESTS),
    )


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads a state dict into a network, or says how the two differ.

    Of all prefixes in the state dict, the one under which most keys of the network lie is removed;
    keys outside it belong to other parts of the checkpoint. Under it every key has to match.

    Args:
        network: The network to fill.
        state: As `read_state_dict` gives it.
        where: The config key or file for the message.

    Raises:
        InputError: Missing or unexpected keys, or tensors of another shape.
    """
    expected = network.state_dict(keep_vars=True)
    cleaned = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    prefix, hits = _closest_prefix(cleaned, expected)
    given = {name[len(prefix) :]: each for name, each in cleaned.items() if name.startswith(prefix)}
    shapes = [
        f"{name}: {tuple(given[name].shape)} in the file, {tuple(wanted.shape)} in the network"
        for name, wanted in expected.items()
        if name in given and wanted.shape != given[name].shape
    ]
    unexpected = [name for name in given if name not in expected]
    missing = _missing(expected, given)
    differences = describe_differences(missing, unexpected, shapes)
    if differences:
        closest = f"closest prefix {prefix!r}, with {hits} of {len(expected)} keys"
        raise InputError(
            f"the weights do not fit the network: {differences}; "
            + (closest if hits else "none of the network's keys is in the file"),
            key=where,
        )
    network.load_state_dict(given, strict=False)  # what strict would add has been checked


def describe_differences(
    missing: Collection[str], unexpected: Collection[str], shapes: Collection[str]
) -> str:
    """Returns how weights and network differ, a few names of each kind; empty if they do not.

    Names are sorted, as some libraries give them as sets.

    >>> describe_differences(["fc.weight", "fc.bias"], [], [])
    '2 missing (fc.bias, fc.weight)'
    """
    differences = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(
        f"{len(names)} {what} ({', '.join(sorted(names)[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in differences.items()
        if names
    )


def _missing(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Keys that must be given: not a tied name of a given one, not a counter old files lack."""
    filled = {id(tensor) for name, tensor in expected.items() if name in given}
    return [
        name
        for name, tensor in expected.items()
        if name not in given
        and id(tensor) not in filled
        and not name.endswith("num_batches_tracked")
    ]


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) for name in content)
        and all(isinstance(tensor, Tensor) for tensor in content.values())
    )


def _closest_prefix(state: Iterable[str], expected: Mapping[str, Any]) -> tuple[str, int]:
    """The dotted prefix under which most expected keys lie, the shortest such, and how many."""
    hits: Counter[str] = Counter()
    for name in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        hits.update(name[:start] for start in starts if name[start:] in expected)
    best = max(hits.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))
    return best[0], best[1]


def _unreadable(path: Path, error: Exception, head: bytes, key: str | None) -> InputError:
    accepted = "safetensors, or a file saved with torch.save(network.state_dict(), path)"
    if isinstance(error, pickle.UnpicklingError):
        culprit = re.search(r"(?:GLOBAL|function) (\w+(?:\.\w+)+)", str(error))
        if culprit or (head[:1] == b"\x80" and "Unsupported operand" in str(error)):
            named = f" ({culprit.group(1)})" if culprit else ""
            return InputError(
                f"{path} holds pickled objects{named}; opening them can run code, so it is refused",
                key=key,
                accepted=accepted,
            )
    return InputError(
        f"{path} cannot be read: it is truncated, damaged or no weight file",
        key=key,
        accepted=accepted,
    )
