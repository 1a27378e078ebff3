from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rrr_lightning.distillation.weight_files import Foreign, add_checksum, read_checkpoint
from rrr_lightning.errors import InputError
from tests.distillation.test_state_dicts import FORMATS, write


class RunsCode:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("kind", ["new", "old"])
def test_code_in_a_file_is_never_run_and_does_not_hide_the_tensors(
    tmp_path: Path, kind: str
) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"state_dict": {"weight": torch.ones(1)}, "extra": RunsCode(sentinel)}
    read = read_checkpoint(write(path, content, kind))
    assert torch.equal(read["state_dict"]["weight"], torch.ones(1))
    assert isinstance(read["extra"], Foreign)
    assert not sentinel.exists()
    with pytest.raises(InputError, match=r"^here: \S+evil\.pt holds pickled objects \(\w+\.system"):
        read_checkpoint(path, "here", plain=True)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(RunsCode(sentinel), protocol))
    with pytest.raises(InputError, match=r"evil\.pt .*refused"):
        read_checkpoint(path)
    assert not sentinel.exists()


class Color(enum.Enum):
    RED = 1


class Attributes(dict[str, Any]):
    """As configurations of other projects: a dictionary of a class of their own."""


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize(
    "value",
    [
        Path("/data"),
        functools.partial(print, 1),
        nn.CrossEntropyLoss(torch.ones(2)),
        Color.RED,
        collections.defaultdict(list, a=[1]),
        datetime.datetime(2026, 1, 2),
        collections.deque([1, 2]),
        Attributes(lr=0.1),
        np.float64(0.5),
        np.arange(3),
        argparse.Namespace(lr=0.1),
        {1, 2},
        frozenset({3}),
        b"bytes",
        1 + 2j,
        bytearray(b"bytes"),
        torch.device("cpu"),
        torch.float16,
        slice(1, 2),
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_tensors_beside_any_object_can_be_read(tmp_path: Path, kind: str, value: Any) -> None:
    content = {"state_dict": {"weight": torch.arange(3)}, "hyper_parameters": {"value": value}}
    content["last"] = 7
    read = read_checkpoint(write(tmp_path / "a.ckpt", content, kind))
    assert torch.equal(read["state_dict"]["weight"], torch.arange(3))
    assert read["last"] == 7


@pytest.mark.parametrize("kind", ["new", "old"])
def test_tensors_come_out_as_torch_writes_them(tmp_path: Path, kind: str) -> None:
    base = torch.arange(12.0)
    content = {
        "transposed": base.view(3, 4).t(),
        "slice": base[2:5],
        "parameter": nn.Parameter(base.clone()),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "repeated": torch.ones(1, 3).expand(4, 3),
        **{
            str(dtype): torch.ones(3).to(dtype)
            for dtype in (torch.bfloat16, torch.bool, torch.int8, torch.complex64, torch.float64)
        },
    }
    if kind == "new":
        content["float8"] = torch.ones(3).to(torch.float8_e4m3fn)
        content["unsigned"] = torch.ones(3).to(torch.uint16)
    read = read_checkpoint(write(tmp_path / "a.pt", content, kind))
    for name, tensor in content.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].to(torch.complex64), tensor.to(torch.complex64)), name
    read["slice"][0] = -1
    assert read["transposed"][2, 0] == -1  # one storage, as in the file


def test_what_torch_cannot_share_is_left_a_foreign_object(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    read = read_checkpoint(write(tmp_path / "a.pt", {"sparse": sparse, "weight": torch.ones(1)}))
    assert isinstance(read["sparse"], Foreign)


def test_a_whole_pickled_network_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pickled objects \(torch\.nn\.modules\.linear\.Linear\)"):
        read_checkpoint(write(tmp_path / "a.pt", nn.Linear(1, 1)))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = write(tmp_path / "a.pt", {"weight": torch.randn(500)}, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    what = "truncated, damaged or no weight file" if kept else "is empty"
    with pytest.raises(InputError, match=what):
        read_checkpoint(path)


def test_what_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such weight file.*missing\.pt"):
        read_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="a directory where a weight file is needed"):
        read_checkpoint(tmp_path)
    text = tmp_path / "page.pt"
    for content in ("<html>not found</html>", "plain text\n", "{}"):
        text.write_text(content)
        with pytest.raises(InputError, match="no weight file"):
            read_checkpoint(text)


def repack(path: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> Path:
    """Writes the records of a zip file again, some of them changed."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, record in records.items():
            archive.writestr(name, changed.get(name.rpartition("/")[2].replace(".", "_"), record))
    return path


def zip_of(path: Path, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), record)
    return path


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LFS, "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"<html>", "a web page"),
        (b"<?xml version='1.0'?><Error>", "a web page"),
        (b"plain text\n", "but text"),
        (b"\x1f\x8b\x08\x00abc", "a gzip archive"),
        (b"BZh91AY", "a compressed archive"),
        (b"\x00" * 257 + b"ustar  ", "a tar archive"),
        (b"\x93NUMPY\x01", "a NumPy array"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"GGUF\x03", "a GGUF file"),
        (b'{"version": "1.0", "added_tokens": [], "model": {}}', "a tokenizer"),
        (b'{"architecture": "resnet18", "num_classes": 10}', "the configuration of a network"),
        (b'{"model_type": "bert"}', "the configuration of a network"),
        (b"[1, 2]", "JSON text"),
        (b"{}", "JSON text"),
        (b"\0" * 300, "truncated, damaged or no weight file"),
        (b"[" * 1000, "truncated, damaged or no weight file"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_kind_of_file_is_named(
    tmp_path: Path, suffix: str, content: bytes, what: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_archives_of_other_things_are_named(tmp_path: Path) -> None:
    torch_script = io.BytesIO()
    with zipfile.ZipFile(torch_script, "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/code/__torch__.py", b"")
        archive.writestr("net/constants.pkl", b"")
    (tmp_path / "a.pt").write_bytes(torch_script.getvalue())
    np.savez(tmp_path / "b.npz", weight=np.ones(2))
    zip_of(tmp_path / "c.keras", config_json=b"{}", model__weights=b"")
    for name, what in {"a.pt": "TorchScript", "b.npz": "NumPy", "c.keras": "config.json"}.items():
        with pytest.raises(InputError, match=f"{name} is no weight file but .*{what}"):
            read_checkpoint(tmp_path / name)


def test_a_path_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="no regular file"):
            read_checkpoint(path)
    for path in ("a" * 5000, "a\0b", ""):
        with pytest.raises(InputError):
            read_checkpoint(path)
    write(tmp_path / "model.bin", {"weight": torch.ones(1)})
    with pytest.raises(InputError, match=r"directory .*accepted: .*model\.bin"):
        read_checkpoint(tmp_path)


def test_a_compressed_record_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"weight": torch.zeros(1 << 20)})
    repack(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(InputError, match="compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize("stated", [4, 60000])
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path, stated: int) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.zeros(4)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    huge = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    assert pickled.count(b"K\x04t") == pickled.count(b"K\x04\x85") == 1
    pickled = pickled.replace(b"K\x04t", b"M" + struct.pack("<H", stated) + b"t")
    repack(path, data_pkl=pickled.replace(b"K\x04\x85", huge + b"\x85"))
    with pytest.raises(InputError, match="in a storage of 16 bytes" if stated == 4 else "shorter"):
        read_checkpoint(path)


def test_an_old_file_that_states_a_huge_storage_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.zeros(5)}, "old")
    content = path.read_bytes()
    assert content.count(b"K\x05N") == 1
    path.write_bytes(content.replace(b"K\x05N", b"\x8a\x05\0\0\0\0\x10N"))
    with pytest.raises(InputError, match="larger than the file"):
        read_checkpoint(path)


def test_a_safetensors_header_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.zeros(5)}, "safetensors")
    content = path.read_bytes()
    for length in (len(content), 1 << 40, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        with pytest.raises(InputError, match=f"header states {length} bytes"):
            read_checkpoint(path)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {"w": torch.full((1000,), 7.0)})
    content = bytearray(path.read_bytes())
    start = content.index(struct.pack("<f", 7) * 1000)
    for place in (start, start + 1777, start + 3999):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"Bad CRC-32.*data/0"):
            read_checkpoint(path)


def test_a_flipped_bit_in_safetensors_of_ours_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(1000), "v": torch.ones(3)}, path, metadata={"format": "pt"})
    add_checksum(path)
    assert torch.equal(read_checkpoint(path)["v"], torch.ones(3))
    content = path.read_bytes()
    for place in (content.index(b'"w"') + 1, len(content) - 1, len(content) - 3000):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="checksum"):
            read_checkpoint(path)


def shards(folder: Path, kind: str = "safetensors") -> Path:
    suffix = "safetensors" if kind == "safetensors" else "bin"
    weight_map = {}
    for number, name in enumerate(("a", "b")):
        file = write(folder / f"model-{number}.{suffix}", {name: torch.full((2,), number)}, kind)
        weight_map[name] = file.name
    index = folder / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("kind", ["new", "old", "safetensors"])
def test_shards_are_read_by_their_index(tmp_path: Path, kind: str) -> None:
    read = read_checkpoint(shards(tmp_path, kind))
    assert {name: int(tensor[0]) for name, tensor in read.items()} == {"a": 0, "b": 1}


def test_an_index_of_the_hubs_cache_links_to_its_files(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    index = shards(tmp_path / "blobs")
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    assert set(read_checkpoint(tmp_path / "snapshot" / index.name)) == {"a", "b"}


def test_an_index_leads_nowhere_but_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    outside = write(tmp_path / "b.pt", {"b": torch.ones(1)})
    index = shards(tmp_path / "home")
    (index.parent / "link.pt").symlink_to(outside)
    for name, what in {
        "../b.pt": "outside its folder",
        str(outside): "outside its folder",
        "link.pt": "outside its folder",
        "missing.pt": "no such weight file",
        "model-0.safetensors": "lacks",
        index.name: "no weight file but text",
    }.items():
        index.write_text(json.dumps({"weight_map": {"b": name}}))
        with pytest.raises(InputError, match=what):
            read_checkpoint(index)


def mutations(content: bytes, count: int) -> list[bytes]:
    draw = random.Random(7)
    made = []
    for number in range(count):
        damaged = bytearray(content)
        where = [draw.randrange(len(content)) for _ in range(1 + number % 3)]
        if number % 4 == 3:
            del damaged[where[0] : where[0] + draw.randrange(1, 60)]
        for place in where if number % 4 < 3 else ():
            damaged[place] = (
                damaged[place] ^ (1 << draw.randrange(8)) if number % 2 else draw.randrange(256)
            )
        made.append(bytes(damaged))
    return made


@pytest.mark.parametrize("kind", ["new", "old", "safetensors"])
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    content = {"layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}
    whole: Any = (
        content if kind == "safetensors" else {"state_dict": content, "epoch": 3, "o": Path()}
    )
    source = write(path, whole, kind)
    if kind == "safetensors":
        add_checksum(source)
    right = refused = 0
    for mutation in mutations(source.read_bytes(), 500):
        path.write_bytes(mutation)
        try:
            read_checkpoint(path)
            right += 1
        except InputError as error:
            refused += len(str(error).splitlines()) == 1
    assert right + refused == 500
    assert refused > 100


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",  # bytes of an exabyte
        b"\x80\x02\x82\x01.",  # a class by its extension code
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"Pstorage\n.",
        b"\x80\x02c__builtin__\nset\n(]X\x01\0\0\0ae\x85R.",
    ],
)
def test_odd_pickles_are_refused_and_run_nothing(
    tmp_path: Path, pickled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = repack(write(tmp_path / "a.pt", {"w": torch.zeros(4)}), data_pkl=pickled)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()
