"""Loads weights into a network: finds them in a checkpoint, and refuses what does not fit.

Wrappers leave marks on names (`module.` of data parallel, `_orig_mod.` of `torch.compile`,
`network.` of a LightningModule) and put state dicts into others (`state_dict`, `model`). Which
nest and which prefix is meant is found by trying torch's own loading on the meta device, so modules
may translate names as they load. Where a file holds several copies of the network, for example a
moving average of its weights, the user chooses.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rrr_lightning.errors import InputError

logger = logging.getLogger(__name__)

_COMPILED = "_orig_mod."
# Buffers that a network computes when it is built, so that a file may lack or keep them.
_DERIVED = (
    "attn_mask",
    "num_batches_tracked",
    "position_ids",
    "relative_coords_table",
    "relative_position_index",
)
_PROFILED = ("total_ops", "total_params")  # counters that profilers leave in state dicts
_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow|polyak|averaged?)([._]|\d|$)", re.IGNORECASE)
_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch.Size\(\[(.*?)\]\) from checkpoint, "
    r"the shape in current model is torch.Size\(\[(.*?)\]\)"
)
_MOST_TRIED = 8  # prefixes per nest


@dataclass
class _Copy:
    """Tensors in a checkpoint that may be the network's, and how they differ from them."""

    nest: str
    prefix: str
    state: OrderedDict[str, Any]
    hits: int
    differences: str = field(default="")

    def __str__(self) -> str:
        return f"nest={self.nest}&prefix={self.prefix}"


def load_weights(
    network: nn.Module,
    content: Mapping[str, Any],
    where: str,
    *,
    nest: str | None = None,
    prefix: str | None = None,
    rename: Callable[[str], str] | None = None,
    unused: tuple[str, ...] | None = None,
    source: str | os.PathLike[str] = "the file",
) -> None:
    """Loads a network's weights from what `read_checkpoint` read, or says how the two differ.

    Under the nest and the prefix every name has to match, by torch's own loading, except for tied
    names of a tensor that is there, buffers that the network computes itself, counters of profilers
    and values that are no tensors. What lies outside belongs to other parts of the checkpoint.
    """
    expected = network.state_dict(keep_vars=True)
    nests = {path: state for path, state in _state_dicts(content) if nest in (None, path)}
    if not nests:
        what = f"{source} holds no state dict" + ("" if nest is None else f" under {nest!r}")
        if "param_groups" in content:
            what = f"{source} holds the state of an optimizer and no weights"
        raise InputError(
            what,
            key=where,
            found=", ".join(map(str, list(content)[:6])),
            accepted="names to tensors, bare or in a mapping",
        )
    copies: list[_Copy] = []
    for path, state in nests.items():
        copies += _copies(path, state, expected, prefix, rename)
    copies = [copy for copy in copies if copy.hits] or copies
    for copy in copies:
        for name in [name for name in copy.state if unused and name.startswith(unused)]:
            if name not in expected:
                del copy.state[name]
        copy.differences = _differences(network, expected, copy.state)
    fitting = [copy for copy in copies if not copy.differences]
    if not fitting:
        _refuse_misfit(copies, nests, expected, where, prefix)
    if any(not _same(fitting[0].state, other.state) for other in fitting[1:]):
        raise InputError(
            f"{source} holds several copies of the network's weights; nest and prefix choose one",
            key=where,
            accepted=" or ".join(map(str, fitting[:8])) + (", …" if len(fitting) > 8 else ""),
        )
    chosen = fitting[0]
    if prefix is None:
        _warn_of_averages(content, chosen, where)
    network.load_state_dict(_wanted(network, chosen.state), strict=False)  # strictness: tried above


def load_strictly(network: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Loads a bare state dict into a network; see `load_weights`."""
    load_weights(network, state, where, nest="")


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


def _refuse_misfit(
    copies: list[_Copy],
    nests: Mapping[str, Any],
    expected: Mapping[str, Any],
    where: str,
    prefix: str | None,
) -> None:
    best = max(copies, key=lambda copy: copy.hits, default=None)
    if best is None:
        names = [str(name) for state in nests.values() for name in state]
        raise InputError(
            "no name in the file has this prefix", key=where, found=prefix, accepted=names[0]
        )
    closest = f"closest prefix {best.prefix!r}, with {best.hits} of {len(expected)} keys"
    if best.nest:
        closest += f", under {best.nest!r}"
    raise InputError(
        f"the weights do not fit the network: {best.differences}; "
        + (closest if best.hits else "none of the network's keys is in the file"),
        key=where,
    )


# ------------------------------------------------------------------------------ candidates


def _state_dicts(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The mappings in a checkpoint that hold tensors, by their dotted paths."""
    seen: set[int] = set()
    level: list[tuple[str, Mapping[str, Any]]] = [("", content)]
    for _ in range(4):
        deeper = []
        for path, mapping in level:
            if id(mapping) in seen:
                continue
            seen.add(id(mapping))
            if any(isinstance(name, str) and isinstance(mapping[name], Tensor) for name in mapping):
                yield path, mapping
            deeper += [
                (f"{path}.{name}".lstrip("."), inner)
                for name, inner in mapping.items()
                if isinstance(inner, Mapping) and isinstance(name, str)
            ]
        level = deeper


def _copies(
    nest: str,
    mapping: Mapping[str, Any],
    expected: Mapping[str, Any],
    prefix: str | None,
    rename: Callable[[str], str] | None,
) -> Iterator[_Copy]:
    """The parts of a state dict that may be the network's, those with most of its names first."""
    names = {name: name.replace(_COMPILED, "") for name in mapping if isinstance(name, str)}
    names = {name: name if clean in names else clean for name, clean in names.items()}
    if rename is not None:
        names = {name: rename(clean) for name, clean in names.items()}
    state = {clean: mapping[name] for name, clean in names.items()}
    versions = getattr(mapping, "_metadata", None)
    hits = _prefixes(state, expected)
    most = max(hits.values(), default=0)
    starts = sorted(hits, key=lambda start: (-hits[start], len(start)))[:_MOST_TRIED] or [""]
    others = [start for start in starts if hits[start] == most]
    if prefix is not None:
        starts = [f"{prefix.rstrip('.')}." if prefix else ""]
    for start in starts:
        elsewhere = tuple(other for other in others if len(other) > len(start))
        inside = OrderedDict(
            (name[len(start) :], value)
            for name, value in state.items()
            if name.startswith(start)
            and (name[len(start) :] in expected or not name.startswith(elsewhere))
        )
        if inside:
            inside._metadata = _versions(versions, start)  # type: ignore[attr-defined]
            yield _Copy(nest, start.rstrip("."), inside, hits[start])


def _prefixes(state: Iterable[str], expected: Mapping[str, Any]) -> Counter[str]:
    """The dotted prefixes under which names of the network lie, and how many."""
    hits: Counter[str] = Counter()
    longest = max(map(len, expected), default=0)
    for name in state:
        dots = (dot.end() for dot in re.finditer(r"\.", name[-longest - 1 :]))
        offset = max(0, len(name) - longest - 1)
        hits.update(
            name[:start]
            for start in (0, *(offset + dot for dot in dots))
            if name[start:] in expected
        )
    return hits


def _versions(versions: Any, prefix: str) -> dict[str, dict[str, int]] | None:
    """What a file says about the versions of the modules under a prefix."""
    if not isinstance(versions, Mapping):
        return None
    found: dict[str, dict[str, int]] = {}
    for name, stated in versions.items():
        name = f"{name}.".replace(_COMPILED, "").lstrip(".") if isinstance(name, str) else "?"
        version = stated.get("version") if isinstance(stated, Mapping) else None
        if name.startswith(prefix) and isinstance(version, int):
            found[name[len(prefix) :].rstrip(".")] = {"version": version}
    return found


# ------------------------------------------------------------------------------ fit


def _differences(network: nn.Module, expected: Mapping[str, Any], state: Any) -> str:
    """How a state dict differs from a network by torch's own loading, which nothing is left of."""
    state = _wanted(network, state)
    shapes: list[str] = []
    with _on_meta(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loading to the meta device keeps nothing, as intended
        try:
            try:
                outcome = network.load_state_dict(state, strict=False)
            except RuntimeError as error:
                found = _SHAPES.findall(str(error))
                if not found:
                    raise
                shapes = [
                    f"{n}: {_shape(a)} in the file, {_shape(b)} in the network" for n, a, b in found
                ]
                for name, *_ in found:
                    state.pop(name, None)
                outcome = network.load_state_dict(state, strict=False)
        except Exception as error:  # modules' own loading fails in its own ways
            return f"{type(error).__name__}: {error}"
    mismatched = {shape.partition(":")[0] for shape in shapes}
    tied = _tied(expected)
    missing = [
        name
        for name in outcome.missing_keys
        if name not in mismatched
        and name.rpartition(".")[2] not in _DERIVED
        and not any(other in state for other in tied.get(name, ()))
    ]
    unequal = [
        f"{name}, {other}"
        for name, others in tied.items()
        for other in others
        if name < other
        and name in state
        and other in state
        and not _equal(state[name], state[other])
    ]
    differences = describe_differences(missing, outcome.unexpected_keys, shapes)
    if unequal:
        which = f"{len(unequal)} of one tensor with different values ({'; '.join(unequal[:4])})"
        differences = f"{differences}; {which}" if differences else which
    return differences


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def _wanted(network: nn.Module, state: Any) -> OrderedDict[str, Any]:
    """A state dict without what no network takes from a file."""
    own = network.state_dict()
    wanted = OrderedDict(
        (name, value)
        for name, value in state.items()
        if name in own
        or (isinstance(value, Tensor) and name.rpartition(".")[2] not in (*_DERIVED, *_PROFILED))
    )
    versions = getattr(state, "_metadata", None)
    # A file without versions of modules, such as safetensors, counts as of today's.
    wanted._metadata = own._metadata if versions is None else versions  # type: ignore[attr-defined]
    return wanted


def tied_names(network: nn.Module) -> set[frozenset[str]]:
    """Returns the groups of names in a network's state dict that stand for one tensor each."""
    tied = _tied(network.state_dict(keep_vars=True))
    return {frozenset((name, *others)) for name, others in tied.items()}


def _tied(expected: Mapping[str, Any]) -> dict[str, list[str]]:
    """The other names of each tensor that has several."""
    names: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        names.setdefault(id(tensor), []).append(name)
    return {
        name: [other for other in group if other != name]
        for group in names.values()
        for name in group
        if len(group) > 1
    }


@contextmanager
def _on_meta(network: nn.Module) -> Iterator[None]:
    """Puts a network on the meta device, where loading takes no memory, and all back afterwards."""
    before = []
    stand_ins: dict[int, Any] = {}
    for module in list(network.modules()):
        kept = dict(module.__dict__)
        for name in ("_parameters", "_buffers", "_modules"):
            kept[name] = dict(kept[name])
        before.append((module, kept))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or nn.parameter.is_lazy(tensor):
                    continue
                if id(tensor) not in stand_ins:
                    empty: Tensor = torch.empty_like(tensor, device="meta", requires_grad=False)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    stand_ins[id(tensor)] = nn.Parameter(empty, False) if is_parameter else empty
                tensors[name] = stand_ins[id(tensor)]
    try:
        yield
    finally:
        for module, kept in before:
            module.__dict__.clear()
            module.__dict__.update(kept)


def _equal(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return first is second
    return first.shape == second.shape and torch.equal(first, second.to(first.dtype))


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    tensors = [{n: v for n, v in each.items() if isinstance(v, Tensor)} for each in (first, second)]
    return tensors[0].keys() == tensors[1].keys() and all(
        _equal(value, tensors[1][name]) for name, value in tensors[0].items()
    )


def _warn_of_averages(content: Mapping[str, Any], chosen: _Copy, where: str) -> None:
    """Says that a file holds a moving average, or its like, which is not loaded."""
    found: list[str] = []
    seen: set[int] = set()
    level: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    taken = f"{chosen.nest}.{chosen.prefix}.".lstrip(".").replace("..", ".")
    for _ in range(4):
        deeper = []
        for path, mapping in level:
            if id(mapping) in seen:
                continue
            seen.add(id(mapping))
            for name, value in mapping.items():
                full = f"{path}.{name}".lstrip(".")
                if path == chosen.nest and full.startswith(taken) and isinstance(value, Tensor):
                    continue
                if _AVERAGED.search(str(name)) and isinstance(value, Mapping | list | Tensor):
                    found.append(full)
                elif isinstance(value, Mapping):
                    deeper.append((full, value))
        level = deeper
    if found:
        logger.warning(
            "%s: the weights of nest %r, prefix %r are taken; the file also holds averaged ones, "
            "which are not used (%s)",
            where,
            chosen.nest,
            chosen.prefix,
            ", ".join(found[:3]),
        )
