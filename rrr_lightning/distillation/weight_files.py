"""Reads weight files: safetensors, torch's zip and old formats, and index files of shards.

A file is data. Nothing that it names is imported and nothing in it runs: tensors and plain
containers are rebuilt, any other object is replaced by an empty `Foreign`. Sizes that a file states
are compared with its own size before memory is taken, and checksums are verified.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor

from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file

# ----------------------------------------------------------------------
# Checksums in safetensors files of this library, which have none of their own.


MOST_JSON = 16 << 20  # bytes of a safetensors header or an index, for 100,000 tensors or more
_DIGEST = "rrr_lightning.sha256"


class Damaged(Exception):
    """A file that contradicts itself; the text is for the message."""


def add_checksum(path: Path, name: str = "") -> None:
    """Writes the SHA-256 of a safetensors file's tensors into its metadata, for later readers."""
    with open(path, "rb") as file:
        _, header = _header(file, path)
        metadata, start = dict(header.pop("__metadata__", None) or {}), file.tell()
        metadata[_DIGEST] = _digest(file, header, name)
        text = json.dumps({"__metadata__": metadata, **header}).encode()
        text += b" " * (-len(text) % 8)
        file.seek(start)
        with atomic_file(path) as target:
            target.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(file, target, 1 << 20)


def check_checksum(path: Path, name: str = "") -> None:
    """Refuses a safetensors file that is not as it was written, as far as it has a checksum."""
    with open(path, "rb") as file:
        try:
            _, header = _header(file, path)
            stated = dict(header.pop("__metadata__", None) or {}).get(_DIGEST)
        except (ValueError, TypeError, struct.error, RecursionError) as error:
            raise Damaged("it has no header of safetensors") from error
        if (stated is not None or name) and stated != _digest(file, header, name):
            raise Damaged("its checksum is wrong" + " for a file of this name" * bool(name))


def _header(file: BinaryIO, path: Path) -> tuple[int, dict[str, Any]]:
    """The length of a safetensors header and what it says."""
    length = struct.unpack("<Q", file.read(8))[0]
    if length > min(path.stat().st_size - 8, MOST_JSON):
        raise Damaged(f"its header states {length} bytes")
    return length, dict(json.loads(file.read(length)))


def _digest(file: BinaryIO, header: Mapping[str, Any], name: str) -> str:
    digest = hashlib.sha256(name.encode() + json.dumps(header, sort_keys=True).encode())
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


_ACCEPTED = (
    "safetensors, the index file of shards, or a file saved with "
    "torch.save(network.state_dict(), path)"
)
_SHARED = 64 << 20  # bytes that a tensor may have beyond its storage, by repeating rows
# Foreign objects that stand for plain values: they do no harm in a checkpoint of a run.
_PLAIN = ("torch.device", "_codecs.encode", "builtins.bytearray", "builtins.complex")
_MAGIC, _FORMAT = 0x1950A86A20F9469CFC6C, 1001  # of torch's old format
_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"(?i)\s*<(!doctype|html|\?xml|head|body)", "a web page (HTML or XML)"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "a compressed archive: unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive: unpack it first"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes"),
    (rb"GGUF", "a GGUF file, as llama.cpp reads"),
)


class Foreign(dict[Any, Any]):
    """Stands for an object whose class a file names; it keeps dictionary items and nothing else."""

    name: ClassVar[str] = ""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]

    def append(self, _: Any) -> None:
        """Takes what a list or a set in a file would take."""

    extend = add = append


def read_checkpoint(
    path: str | Path, key: str | None = None, plain: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """Returns all that a checkpoint file holds, on the CPU, without running any code from it."""
    path = Path(path)
    foreign: list[str] = []  # names of the classes that the file wants
    content = _content(path, key, foreign, device)
    named = content.name if isinstance(content, Foreign) and not content else None
    if plain and not named:
        named = next((name for name in foreign if name not in _PLAIN), None)
    if named:
        _refuse(path, key, f"holds pickled objects ({named}); opening them would run code")
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds no state dict",
            key=key,
            found=type(content).__name__,
            accepted="a dictionary from names to tensors",
        )
    return content  # type: ignore[return-value]


def _content(
    path: Path, key: str | None, foreign: list[str], device: str, is_shard: bool = False
) -> Any:
    size, head = _open(path, key)
    try:
        if head[8:9] == b"{" and head[:2] != b"PK":
            return _read_safetensors(path)
        if head.lstrip()[:1] in (b"{", b"[") and not is_shard:
            return _read_index(path, size, key, foreign)
        _refuse_other_kinds(path, head, key)
        if head[:2] == b"PK":
            return _read_zip(path, size, foreign, key, device)
        return _read_old(path, size, foreign, key)
    except InputError:
        raise
    except Exception as error:  # damaged bytes surface as errors of many kinds
        reason = f" ({_first_line(error)})" if isinstance(error, Damaged) else ""
        _refuse(path, key, f"cannot be read: it is truncated, damaged or no weight file{reason}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _refuse(path: Path, key: str | None, what: str) -> NoReturn:
    raise InputError(f"{path} {what}", key=key, accepted=_ACCEPTED)


def _open(path: Path, key: str | None) -> tuple[int, bytes]:
    """The size and the first bytes of a file, if it is a regular one."""
    try:
        if path.is_dir():
            inside = sorted(each.name for each in path.iterdir())
            weights = [
                name
                for name in inside
                if re.search(r"\.(safetensors|bin|ckpt|pt|pth|index\.json)$", name)
            ]
            raise InputError(
                "a directory where a weight file is needed",
                key=key,
                found=str(path),
                accepted=", ".join(str(path / name) for name in weights[:6]) or _ACCEPTED,
            )
        if not path.exists():
            raise InputError("no such weight file", key=key, found=str(path))
        if not path.is_file():  # reading a pipe or a device could wait for ever
            raise InputError("is no regular file", key=key, found=str(path), accepted=_ACCEPTED)
        with open(path, "rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise InputError(f"cannot be opened ({reason})", key=key, found=str(path)) from error
    if not size:
        _refuse(path, key, "is empty")
    return size, head


def _refuse_other_kinds(path: Path, head: bytes, key: str | None) -> None:
    for pattern, kind in _KINDS:
        if re.match(pattern, head):
            _refuse(path, key, f"is no weight file but {kind}")
    if head[:2] != b"PK" and not re.search(rb"[^\t\n\r\x20-\x7e]", head):
        _refuse(path, key, "is no weight file but text")


def _read_safetensors(path: Path) -> dict[str, Any]:
    check_checksum(path)
    return dict(load_file(path, device="cpu"))


def _read_index(path: Path, size: int, key: str | None, foreign: list[str]) -> dict[str, Any]:
    """The tensors of all shards that an index names; a JSON file of another kind is refused."""
    content = json.loads(path.read_bytes()) if size <= MOST_JSON else None
    if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
        names, kind = set(content or ()), "JSON text"
        if "added_tokens" in names:
            kind = "a tokenizer"
        elif names & {"model_type", "architectures", "architecture"}:
            kind = "the configuration of a network"
        _refuse(path, key, f"is no weight file but {kind}")
    state: dict[str, Any] = {}
    shards = content["weight_map"]
    homes = {path.parent.resolve(), path.resolve().parent}  # the hub's cache links each file
    for name in sorted(set(map(str, shards.values()))):
        shard = path.parent / name
        if os.path.basename(name) != name or shard.resolve().parent not in homes:
            _refuse(path, key, f"names a shard outside its folder ({name!r})")
        inside = _content(shard, key, foreign, "cpu", is_shard=True)
        for tensor in (tensor for tensor, home in shards.items() if home == name):
            if not isinstance(inside, Mapping) or tensor not in inside:
                _refuse(path, key, f"names a tensor that {name} lacks ({tensor!r})")
            state[tensor] = inside[tensor]
    return state


class _Storage(NamedTuple):
    data: torch.UntypedStorage
    dtype: torch.dtype


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: Any = None
) -> Tensor:
    """A tensor on a storage, if it lies inside: torch's own function makes the storage longer."""
    dtype = dtype or storage.dtype
    if len(_) > 2 and _[2]:
        raise Damaged("a tensor with a conjugate or negative bit")
    if not all(map(_is_count, (offset, *size, *stride))) or len(size) != len(stride):
        raise Damaged("a tensor of an impossible shape")
    count, held = math.prod(size) * dtype.itemsize, storage.data.nbytes()
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (end * dtype.itemsize > held or count > held + _SHARED):
        raise Damaged(f"a tensor of shape {tuple(size)} in a storage of {held} bytes")
    return torch.empty(0, dtype=dtype, device=storage.data.device).set_(
        storage.data, offset, tuple(size), tuple(stride)
    )


def _tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    return _tensor(storage, offset, size, stride, *rest[:2], *rest[3:], dtype=rest[2])


def _first(value: Any, *_: Any) -> Any:
    return value


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """A Counter or a defaultdict as what it holds; its factory is not called."""
    return dict(arguments[0]) if arguments and isinstance(arguments[0], Mapping) else {}


def _of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    return function(*arguments)


_REBUILT: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _dictionary,
    "collections.Counter": _dictionary,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
_TYPES = (
    "Double=float64 Float=float32 Half=float16 BFloat16=bfloat16 Long=int64 Int=int32 Short=int16 "
    "Char=int8 Byte=uint8 Bool=bool ComplexDouble=complex128 ComplexFloat=complex64 Untyped=uint8"
)
_STORAGES = {f"{n}Storage": getattr(torch, d) for n, d in re.findall(r"(\w+)=(\w+)", _TYPES)}


class _Unpickler(pickle._Unpickler):  # the one in C takes whatever memory a file asks for
    """Rebuilds tensors and plain containers; every other class becomes a `Foreign`."""

    def __init__(
        self, file: Any, foreign: list[str], storage: Callable[..., _Storage] | None = None
    ) -> None:
        super().__init__(file)
        self._foreign, self._storage = foreign, storage
        self._classes: dict[str, type[Foreign]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global of the file; nothing is imported."""
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if path in _REBUILT:
            return _REBUILT[path]
        if path not in self._classes:
            self._classes[path] = type("Foreign", (Foreign,), {"name": path})
            self._foreign.append(path)
        return self._classes[path]

    def get_extension(self, code: int) -> None:
        """Extension codes stand for classes of this process, which a file may not choose."""
        raise Damaged(f"an extension code ({code})")

    def persistent_load(self, saved: Any) -> Any:
        """The storage of a tensor, or a class that an old file brings with its source."""
        if saved[0] == "module":
            return saved[1]
        kind, dtype, name, _, count = tuple(saved)[:5]
        if self._storage is None or kind != "storage" or not _is_count(count):
            raise Damaged("a storage of an impossible size")
        return self._storage(dtype, str(name), count, *saved[5:])

    def load_build(self) -> None:
        """Sets the attributes of an object: of a state dict, the versions of its modules."""
        state, built = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if type(built) is OrderedDict and isinstance(state, dict):
            built._metadata = state.get("_metadata")  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _read_zip(path: Path, size: int, foreign: list[str], key: str | None, device: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {each.filename: each for each in archive.infolist()}
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if not pickles:
            npz = all(name.endswith(".npy") for name in records)
            kind = "NumPy arrays (.npz)" if npz else f"a zip archive of {', '.join(records)[:80]}"
            _refuse(path, key, f"is no weight file but {kind}")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in records or any(
            name.startswith(f"{root}code/") for name in records
        ):
            _refuse(path, key, "is no weight file but a TorchScript archive, which holds a program")
        if any(each.compress_type != zipfile.ZIP_STORED for each in records.values()):
            raise Damaged("its records are compressed, which torch.save never does")
        if (
            len(records) != len(archive.infolist())
            or sum(e.file_size for e in records.values()) > size
        ):
            raise Damaged("its records are larger than the file")
        order = f"{root}byteorder"
        if order in records and archive.read(order) != b"little":
            raise Damaged("its numbers are big-endian")
        storages: dict[str, _Storage] = {}

        def storage(dtype: torch.dtype, name: str, count: int, *_: Any) -> _Storage:
            if name not in storages:
                record = records[f"{root}data/{name}"]
                if record.file_size < count * dtype.itemsize:
                    raise Damaged(f"storage {name} is shorter than stated")
                held = torch.empty(record.file_size, dtype=torch.uint8, device=device)
                with archive.open(record) as file:
                    _fill(file, held)
                storages[name] = _Storage(held.untyped_storage(), dtype)
            return storages[name]._replace(dtype=dtype)

        try:
            with archive.open(pickles[0]) as file:
                content = _Unpickler(file, foreign, storage).load()
                file.read()  # to the end, where the checksum is verified
        except zipfile.BadZipFile as error:
            raise Damaged(_first_line(error)) from error
    return content


def _fill(file: Any, held: Tensor) -> None:
    if held.is_meta:
        return
    view, done = memoryview(held.numpy()), 0  # type: ignore[arg-type]
    while count := file.readinto(view[done : done + (1 << 22)]):
        done += count
    if done < len(view) or file.read(1):  # at its end the checksum of a record is verified
        raise Damaged("a record is not as long as stated")


def _read_old(path: Path, size: int, foreign: list[str], key: str | None) -> Any:
    """The format of torch before 1.6: pickles one after the other, then the storages."""
    storages: dict[str, tuple[Tensor, int]] = {}

    def storage(dtype: torch.dtype, name: str, count: int, *view: Any) -> _Storage:
        if view and view[0] is not None:
            raise Damaged("a view of a storage")
        if name not in storages:
            taken = sum(held.nbytes for held, _ in storages.values())
            if taken + count * dtype.itemsize > size:
                raise Damaged(f"storage {name} is larger than the file")
            held = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
            storages[name] = held, dtype.itemsize
        return _Storage(storages[name][0].untyped_storage(), dtype)

    with open(path, "rb") as file:
        first = _Unpickler(file, foreign).load()
        if first != _MAGIC:
            named = f" ({foreign[0]})" if foreign else ""
            what = f"is a pickle that torch.save did not write{named}; it could run code"
            _refuse(path, key, f"{what}, and is refused")
        if _Unpickler(file, foreign).load() != _FORMAT:
            raise Damaged("an unknown version of torch's format")
        if not dict(_Unpickler(file, foreign).load()).get("little_endian", True):
            raise Damaged("its numbers are big-endian")
        content = _Unpickler(file, foreign, storage).load()
        for name in _Unpickler(file, foreign).load():
            held, item = storages[str(name)]
            if struct.unpack("<q", file.read(8))[0] * item != held.nbytes:
                raise Damaged(f"storage {name} is not as long as stated")
            view = memoryview(held.numpy())  # type: ignore[arg-type]
            if file.readinto(view) != len(view):
                raise Damaged("it ends too early")
            storages.pop(str(name))
    if storages:
        raise Damaged("a storage is missing")
    return content
