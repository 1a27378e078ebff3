from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

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


# ------------------------------------------------------------------------------ what is loaded


def copies(*seeds: int) -> list[dict[str, Tensor]]:
    made = []
    for seed in seeds:
        network = small_network()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(seed)
        made.append(network.state_dict())
    return made


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


FIRST, SECOND = copies(1, 2)


@pytest.mark.parametrize(
    ("content", "accepted"),
    [
        ({**under("student", FIRST), **under("teacher", SECOND)}, "prefix=student or .*=teacher"),
        ({**under("model", FIRST), **under("ema_model", SECOND)}, "prefix=model or .*=ema_model"),
        ({**FIRST, **under("backup.net", SECOND)}, "nest=&prefix= or nest=&prefix=backup.net"),
        ({"state_dict": FIRST, "state_dict_ema": SECOND}, "nest=state_dict&.*nest=state_dict_ema&"),
        ({"model": FIRST, "model_ema": under("module", SECOND)}, "nest=model_ema&prefix=module"),
        ({"state_dict": FIRST, "current_model_state": SECOND}, "nest=current_model_state"),
        ({**FIRST, **under("_orig_mod", SECOND)}, "nest=&prefix= or nest=&prefix=_orig_mod"),
        ({"a": {"b": {"c": FIRST}}, "net": SECOND}, "nest=a.b.c&prefix="),
        ({"generator": {"net": FIRST, "ema": SECOND}}, "nest=generator.ema"),
    ],
    ids=lambda value: ",".join(list(value)[:2]) if isinstance(value, dict) else "",
)
def test_several_copies_are_the_users_choice(content: dict[str, Any], accepted: str) -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=f"^here: .*several copies.*{accepted}") as caught:
        load_weights(network, content, "here")
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    for choice in str(caught.value).partition("accepted: ")[2].split(" or "):
        nest, prefix = (part.partition("=")[2] for part in choice.split("&"))
        load_weights(network, content, "here", nest=nest, prefix=prefix)
        assert any(
            torch.equal(network.state_dict()["0.weight"], each["0.weight"])
            for each in (FIRST, SECOND)
        )


def test_equal_copies_are_one() -> None:
    load_weights(small_network(), {"state_dict": FIRST, "state_dict_ema": copies(1)[0]}, "here")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"net": FIRST, "ema": {"shadow_params": [torch.ones(2)]}}, "ema"),
        ({"net": FIRST, "callbacks": {"EMA": {"weights": [torch.ones(2)]}}}, "callbacks.EMA"),
        (FIRST | {"model_ema.0weight": torch.ones(3)}, None),
        (under("net", FIRST) | {"net_ema.0weight": torch.ones(3)}, "net_ema.0weight"),
        ({"net": FIRST, "averaged_model": {"n_averaged": torch.ones(1)}}, "averaged_model"),
    ],
)
def test_an_average_that_does_not_fit_is_named_in_the_log(
    content: dict[str, Any], name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if name is None:
        with pytest.raises(InputError, match="1 unexpected"):
            load_weights(small_network(), content, "here")
        return
    load_weights(small_network(), content, "here")
    assert f"averaged ones, which are not used ({name})" in caplog.text


@pytest.mark.parametrize("nest", ["net", "network", "model_state", "params", "a.weights.net"])
def test_a_nest_of_any_name_is_found(nest: str) -> None:
    content: Any = FIRST
    for name in reversed(nest.split(".")):
        content = {name: content, "epoch": 3, "optimizer": {"state": {0: {"exp": torch.ones(1)}}}}
    network = small_network()
    load_weights(network, content, "here")
    assert torch.equal(network.state_dict()["0.weight"], FIRST["0.weight"])


@pytest.mark.parametrize(
    "extra",
    [
        {"epoch": 3},
        {"_extra_state": b"bytes"},
        {"0._extra_state": None},
        {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
        {"0.relative_position_index": torch.zeros(4, dtype=torch.long)},
        {"1.attn_mask": torch.zeros(2, 2), "embeddings.position_ids": torch.arange(3)},
        {"hyper": {"lr": 0.1}, "name": "resnet"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_harmless_extras_are_tolerated(extra: dict[str, Any]) -> None:
    for content in ({**FIRST, **extra}, {"state_dict": under("module", {**FIRST, **extra})}):
        network = small_network()
        load_weights(network, content, "here")
        assert torch.equal(network.state_dict()["0.weight"], FIRST["0.weight"])


def test_what_could_matter_is_no_harmless_extra() -> None:
    for name in ("0.scale", "head.weight", "1.running_max"):
        with pytest.raises(InputError, match=rf"1 unexpected \({name}\)"):
            load_weights(small_network(), {**FIRST, name: torch.ones(2)}, "here")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 2)
        self.decode = nn.Linear(2, 5, bias=False)
        self.decode.weight = self.embed.weight


def test_tied_names_with_different_values_are_refused() -> None:
    state = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
    load_strictly(Tied(), state, "here")
    state["decode.weight"][3, 1] += 0.1
    network = Tied()
    before = network.embed.weight.clone()
    with pytest.raises(InputError, match=r"different values \(decode.weight, embed.weight\)"):
        load_strictly(network, state, "here")
    assert torch.equal(network.embed.weight, before)


class Renamed(nn.Linear):
    """As a layer whose weights had other names in former versions."""

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for new, old in (("weight", "kernel"), ("bias", "offset")):
            if f"{prefix}{old}" in state:
                state[f"{prefix}{new}"] = state.pop(f"{prefix}{old}")
        super()._load_from_state_dict(state, prefix, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_modules_may_translate_names_as_they_load(prefix: str) -> None:
    network = nn.Sequential(Renamed(2, 3), nn.Linear(3, 2))
    state = {prefix + name: torch.ones_like(t) for name, t in network.state_dict().items()}
    state[f"{prefix}0.kernel"] = state.pop(f"{prefix}0.weight")
    state[f"{prefix}0.offset"] = state.pop(f"{prefix}0.bias")
    load_strictly(network, state, "here")
    assert all(torch.equal(each, torch.ones_like(each)) for each in network.state_dict().values())


def test_former_weight_norm_loads_into_todays() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4, bias=False)))
    state = {"0.weight_g": torch.rand(4, 1), "0.weight_v": torch.rand(4, 3)}
    load_strictly(network, state, "here")
    assert torch.equal(
        network.state_dict()["0.parametrizations.weight.original0"], state["0.weight_g"]
    )


@pytest.mark.parametrize("with_version", [True, False])
def test_mnasnet_loads_with_and_without_the_version_in_a_file(
    tmp_path: Path, with_version: bool
) -> None:
    network, source = (models.mnasnet0_5(num_classes=3) for _ in range(2))
    kind = "new" if with_version else "safetensors"
    load_weights(
        network, read_checkpoint(write(tmp_path / "a.pt", source.state_dict(), kind)), "here"
    )
    assert torch.equal(network.classifier[1].weight, source.classifier[1].weight)


def test_published_vision_transformers_have_names_of_an_older_version(tmp_path: Path) -> None:
    """pytorch/vision#6053: torchvision's own files name `mlp.linear_1`, and a hook translates."""
    network, source = (models.VisionTransformer(32, 16, 1, 2, 8, 16) for _ in range(2))
    state = source.state_dict()
    for name in list(state):
        for new, old in ((".mlp.0.", ".mlp.linear_1."), (".mlp.3.", ".mlp.linear_2.")):
            if new in name:
                state[name.replace(new, old)] = state.pop(name)
    for name, version in state._metadata.items():  # type: ignore[attr-defined]
        if name.endswith("mlp"):
            version["version"] = 1
    load_weights(network, read_checkpoint(write(tmp_path / "a.pth", state)), "here")
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_a_failed_try_leaves_structure_and_state_of_modules(tmp_path: Path) -> None:
    """MNASNet replaces layers while it loads a file of its first version."""
    network = models.mnasnet0_5(num_classes=3)
    layers, state = list(network.layers), network.state_dict()
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="of another shape"):
        load_weights(network, state, "here")
    assert list(network.layers) == layers
    assert network._version == 2


def test_an_optimizers_state_is_named() -> None:
    network = small_network()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    for content in (optimizer.state_dict(), {"optimizer": optimizer.state_dict()}):
        with pytest.raises(InputError, match=r"state of an optimizer|holds no state dict"):
            load_weights(network, content, "here")


def test_a_list_of_many_copies_is_short() -> None:
    content = {f"n{seed}": {"weight": torch.full((1, 1), seed)} for seed in range(200)}
    with pytest.raises(InputError, match=r"nest=n0&prefix= or .*, …$"):
        load_weights(nn.Linear(1, 1, bias=False), content, "here")


def test_nests_in_nests_without_end_are_searched_in_bounded_time() -> None:
    content: dict[str, Any] = {}
    content["itself"] = content
    for _ in range(60):
        content = {"one": content, "other": content}
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights(nn.Linear(1, 1), content, "here")
