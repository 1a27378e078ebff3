"""Keyed damage to files: bytes, trees of plain values, archives and tensor files."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml

Mutate = Callable[[Random, bytes], bytes]
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30),
    *("", "x", "..", "../x", "/etc/passwd", "a\nb", "\0", "x" * 5000, "os.system", "\ud800"),
    *([], {}, [[]], [1, 2], {"x": 1}, ["a"], {"class_path": "os.system"}),
)
TENSORS = (
    lambda t: t.reshape(-1)[:1],
    lambda t: t.reshape(-1),
    lambda t: t.half(),
    lambda t: t.long(),
    lambda t: t.to(torch.complex64),
    lambda t: torch.full_like(t, 100),
    lambda t: t[None],
    lambda t: torch.zeros(0),
    lambda t: t.t() if t.dim() == 2 else t.clone(),
)


def damaged(random: Random, data: bytes) -> bytes:
    """Bits flipped, the file cut short, a piece removed, repeated, or written over."""
    content = bytearray(data)
    kind = random.randrange(6)
    at = random.randrange(max(1, len(content)))
    length = random.choice((1, 2, 8, 64, 1000))
    if kind <= 1:
        for _ in range(random.choice((1, 1, 1, 8))):
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        del content[at : at + length]
    elif kind == 4:
        content[at:at] = content[at : at + length]
    else:
        filler = random.choice((b"\0", b"\xff", random.randbytes(1), b"9"))
        content[at : at + length] = filler * len(content[at : at + length])
    return bytes(content)


def _parts(tree: Any) -> list[tuple[Any, Any]]:
    """All containers and keys in them, at every depth."""
    found: list[tuple[Any, Any]] = []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if _is_list(tree) else ()
    for key in keys:
        found.append((tree, key))
        found += _parts(tree[key])
    return found


def _is_list(tree: Any) -> bool:
    return isinstance(tree, list)


def changed(random: Random, tree: Any) -> Any:
    """A copy of a tree with one or two values, keys or items swapped, renamed, repeated or gone."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 2))):
        parts = _parts(tree)
        if not parts or random.random() < 0.01:
            return copy.deepcopy(random.choice(ODD))
        depths = [len(_parts(container)) for container, _ in parts]
        # Deep places are many; half of the time a shallow one is taken.
        weights = [depth if random.random() < 0.5 else 1 for depth in depths]
        container, key = random.choices(parts, weights)[0]
        value, kind = container[key], random.randrange(7)
        if isinstance(value, torch.Tensor) and kind < 4:
            container[key] = random.choice(TENSORS)(value)
        elif kind <= 2:
            container[key] = copy.deepcopy(random.choice(ODD))
        elif kind == 3:
            del container[key]
        elif kind == 4 and isinstance(container, dict):
            container[random.choice((f"{key}x", "x", "class_path", "num_classes"))] = value
            del container[key]
        elif kind == 5 and _is_list(container):
            container.extend([copy.deepcopy(value)] * random.choice((1, 2, 1000)))
        else:
            other, place = random.choice(parts)
            container[key] = copy.deepcopy(other[place])
    return tree


def changed_json(random: Random, data: bytes) -> bytes:
    """JSON with another content, sometimes with a key twice."""
    text = json.dumps(changed(random, json.loads(data)))
    if random.random() < 0.05 and text[:2] == '{"':
        text = f"{{{text[1 : text.index(':')]}: 0, {text[1:]}"
    return text.encode()


def changed_yaml(random: Random, data: bytes) -> bytes:
    """YAML with another content."""
    tree = changed(random, yaml.safe_load(data))
    return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


def changed_checkpoint(random: Random, data: bytes) -> bytes:
    """A checkpoint with other content, saved anew, so that all checksums are right."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    file = io.BytesIO()
    new_format = random.random() < 0.8
    torch.save(changed(random, content), file, _use_new_zipfile_serialization=new_format)
    return (
        damaged(random, file.getvalue())
        if random.random() < 0.3 and new_format
        else (file.getvalue())
    )


def rezipped(random: Random, data: bytes) -> bytes:
    """A zip archive of which one record is damaged, renamed, doubled or gone, with right CRCs."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        compression = archive.infolist()[0].compress_type
        records = [(each.filename, archive.read(each)) for each in archive.infolist()]
    at, kind = random.randrange(len(records)), random.randrange(6)
    if random.random() < 0.5:  # the one that says what the others are
        at = next((n for n, (name, _) in enumerate(records) if name.endswith("data.pkl")), at)
    name, content = records[at]
    if kind <= 2 and content:
        records[at] = name, damaged(random, content)
    elif kind == 3:
        records[at] = random.choice((f"{name}x", f"../{name}", "data.pkl", "x.npy")), content
    elif kind == 4:
        del records[at]
    else:
        records.append((name, content))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return file.getvalue()


def changed_safetensors(random: Random, data: bytes) -> bytes:
    """A safetensors file with another header, of right length."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if random.random() < 0.5:
        header.pop("__metadata__", None)
    text = json.dumps(changed(random, header)).encode()
    text += b" " * (-len(text) % 8)
    size = random.choice((len(text),) * 8 + (len(text) + 8, 2**40, 2**63))
    return struct.pack("<Q", size) + text + data[8 + length :]


def changed_arrays(random: Random, data: bytes) -> bytes:
    """An .npz with arrays of other types, shapes and values."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = random.choice(list(arrays))
    array = arrays[name]
    arrays[name] = random.choice(
        (
            lambda: array[:1],
            lambda: array[:0],
            lambda: array.astype("U8"),
            lambda: array.astype(np.complex64),
            lambda: np.full_like(array, 1000),
            lambda: np.full(array.shape, np.nan),
            lambda: array[None],
            lambda: np.zeros((), array.dtype),
            lambda: np.concatenate([array, array]),
            lambda: array.astype("datetime64[s]") if array.dtype.kind == "i" else array[::-1],
        )
    )()
    if random.random() < 0.2:
        arrays[f"{name}x"] = arrays.pop(name)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def mutate(random: Random, folder: Path, kinds: dict[str, tuple[Mutate, ...]]) -> bool:
    """Changes one file of a folder; True where its checksums, if it has any, are wrong then.

    Args:
        random: The key.
        folder: A copy that may be changed.
        kinds: For each pattern of names how such files are changed beside damage to their bytes.
    """
    pattern = random.choice(list(kinds))
    path = random.choice(sorted(folder.glob(pattern)))
    how = random.choice((damaged, *kinds[pattern]))
    path.write_bytes(how(random, path.read_bytes()))
    return how is damaged
