from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rrr_lightning.distillation.state_dicts import (
    describe_differences,
    load_strictly,
    load_weights,
)
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError

FORMATS = ["new", "old", "safetensors", "safetensors called .bin"]
PREFIXES = ["", "module.", "_orig_mod.", "net.", "network.", "model.", "model.module._orig_mod."]


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    )


def write(path: Path, content: Any, kind: str = "new") -> Path:
    if kind.startswith("safetensors"):
        path = path.with_suffix(".bin" if kind.endswith(".bin") else ".safetensors")
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "new")
    return path


def assert_loads(content: dict[str, Any], network: nn.Module) -> None:
    other = small_network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    load_weights(other, content, "here")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_in_every_format(tmp_path: Path, kind: str, prefix: str) -> None:
    network = small_network()
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    assert_loads(read_checkpoint(write(tmp_path / "a.pt", state, kind)), network)


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nest", ["", "state_dict", "model_state_dict", "model", "state.model"])
def test_every_nesting(tmp_path: Path, kind: str, prefix: str, nest: str) -> None:
    network = small_network()
    content: Any = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    for name in reversed(nest.split(".") if nest else []):
        content = {name: content, "epoch": 3, "optimizer": {"lr": 0.1}, "best": [0.5]}
    assert_loads(read_checkpoint(write(tmp_path / "a.th", content, kind)), network)


def test_plain_data_beside_the_weights_is_no_obstacle(tmp_path: Path) -> None:
    network = small_network()
    content = {
        "model": network.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "took": datetime.timedelta(seconds=3),
        "best": np.float64(0.5),
        "rng": np.arange(3, dtype=np.uint32),
    }
    assert_loads(read_checkpoint(write(tmp_path / "a.pt", content)), network)


def test_other_parts_of_a_checkpoint_are_left_out(tmp_path: Path) -> None:
    network = small_network()
    state = {f"network._orig_mod.{name}": each for name, each in network.state_dict().items()}
    state |= {"metric.total": torch.zeros(1), "mean": torch.zeros(3)}
    path = write(tmp_path / "a.ckpt", {"state_dict": state, "global_step": 5})
    assert_loads(read_checkpoint(path), network)
    assert read_checkpoint(path)["global_step"] == 5


@pytest.mark.parametrize("kind", ["new", "old"])
def test_tensors_saved_on_a_gpu_open_without_one(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
        path = write(tmp_path / "a.th", {"weight": torch.ones(2)}, kind)
    assert b"cuda:0" in path.read_bytes()
    assert read_checkpoint(path)["weight"].device.type == "cpu"


def test_tied_names_and_old_batch_norm_counters_may_be_absent() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 2)
            self.norm = nn.BatchNorm1d(2)
            self.decode = nn.Linear(2, 5, bias=False)
            self.decode.weight = self.embed.weight

    state = Tied().state_dict()
    del state["decode.weight"], state["norm.num_batches_tracked"]
    network = Tied()
    load_strictly(network, state, "here")
    assert torch.equal(network.decode.weight, state["embed.weight"])


def test_a_misfit_says_what_differs_and_leaves_the_network_alone() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = {f"module.{name}": tensor + 1 for name, tensor in before.items()}
    del state["module.2.1.bias"]
    state["module.head.scale"] = torch.zeros(1)
    state["module.2.1.weight"] = torch.zeros(7, 4)
    with pytest.raises(InputError) as caught:
        load_strictly(network, state, "distillation.teachers[0]")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "distillation.teachers[0]: the weights do not fit the network",
        "1 missing (2.1.bias)",
        "1 unexpected (head.scale)",
        "1 of another shape (2.1.weight: (7, 4) in the file, (2, 4) in the network)",
        "closest prefix 'module', with 8 of 9 keys",
    ):
        assert part in message
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_another_architecture_has_no_key_in_common() -> None:
    with pytest.raises(InputError, match="none of the network's keys is in the file"):
        load_strictly(small_network(), {"embed.weight": torch.zeros(2)}, "here")


def test_differences_read_the_same_whatever_the_order() -> None:
    names = [f"layer.{index}" for index in range(6)]
    told = describe_differences(names, set(names), names[::-1])
    assert told == "; ".join(
        f"6 {what} (layer.0, layer.1, layer.2, layer.3, …)"
        for what in ("missing", "unexpected", "of another shape")
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(2), "found 'Tensor'"),
        ([torch.zeros(2)], "found 'list'"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, "found 'epoch, optimizer'"),
        ({"state_dict": {"weight": "text"}}, "found 'state_dict'"),
        ({}, "found ''"),
    ],
)
def test_what_holds_no_state_dict_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    with pytest.raises(InputError, match=f"holds no state dict; {found}"):
        load_weights(small_network(), read_checkpoint(write(tmp_path / "a.pt", content)), "here")
