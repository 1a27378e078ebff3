from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rrr_lightning.errors import InputError
from rrr_lightning.models.image_classifier import require_logits
from rrr_lightning.models.image_networks import (
    build_network,
    fill_head_bias,
    initialize_by_recipe,
)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "cifar_resnet8"])
def test_networks_by_name_have_the_classes_asked_for(name: str) -> None:
    network = build_network(name, 7).eval()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_a_network_with_auxiliary_heads_gives_one_tensor_while_it_trains() -> None:
    with torch.device("meta"):
        network = build_network("inception_v3", 7).train()
        assert network(torch.randn(2, 3, 96, 96)).shape == (2, 7)


def test_the_small_stem_keeps_the_size_of_the_image() -> None:
    small, large = (build_network("resnet18", 7, small_images=small) for small in (True, False))
    images = torch.randn(2, 3, 32, 32)
    stem = nn.Sequential(small.conv1, small.bn1, small.relu, small.maxpool)
    assert stem(images).shape == (2, 64, 32, 32)
    assert small(images).shape == large(images).shape


def test_class_paths_may_be_nested() -> None:
    layer = {
        "class_path": "torch.nn.TransformerEncoderLayer",
        "init_args": {"d_model": 4, "nhead": 2, "batch_first": True},
    }
    arguments = {"encoder_layer": layer, "num_layers": 2}
    network = build_network(
        {"class_path": "torch.nn.TransformerEncoder", "init_args": arguments}, 7
    )
    assert [type(part) for part in network.layers] == [nn.TransformerEncoderLayer] * 2


@torch.no_grad()
def test_the_recipe_draws_what_it_says() -> None:
    network = build_network("resnet18", 7)
    torch.manual_seed(0)
    initialize_by_recipe(network)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert 0 <= module.weight.min() < module.weight.max() < 1, name
            assert not module.bias.any(), name
    scales = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert float(scales.mean()) == pytest.approx(0.5, abs=0.02)
    fan_in = 3 * 3 * 256
    assert float(network.layer4[1].conv1.weight.std()) == pytest.approx((2 / 4608) ** 0.5, rel=0.01)
    assert float(network.layer4[0].conv1.weight.std()) == pytest.approx(
        (2 / fan_in) ** 0.5, rel=0.01
    )
    assert float(network.fc.weight.std()) == pytest.approx((2 / 512) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_the_head_bias_is_that_of_the_last_layer(name: str) -> None:
    network = build_network(name, 7)
    fill_head_bias(network, 7, -1.5)
    head = network.fc if name == "resnet18" else network.classifier[1]
    assert head.bias.tolist() == [-1.5] * 7


def test_a_head_without_bias_is_left_alone() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 7, bias=False))
    before = network[0].bias.tolist()
    fill_head_bias(network, 7, -1.5)
    assert network[0].bias.tolist() == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet51", r"network: unknown name; did you mean 'resnet5\d?\w*'\?.*found 'resnet51'"),
        ("cifar_resnet_20", r"did you mean 'cifar_resnet20'\?"),
        ("cifar_resnet9", r"no such depth"),
        (None, r"network: is missing: the checkpoint's network was given as an object"),
        ({"class_path": "torch.nn.Nothing"}, r"network.class_path: cannot be imported.*Nothing"),
        ({"class_path": "no_such.Thing"}, r"network.class_path: cannot be imported.*no_such"),
        ({"class_path": "Thing"}, r"network.class_path: cannot be imported"),
        ({"class_path": "torch.nn.Linear"}, r"network.init_args: does not fit torch.nn.Linear"),
        (
            {"class_path": "fractions.Fraction"},
            r"network.class_path: is no torch.nn.Module; found 'fractions.Fraction'",
        ),
        ({"model": "torch.nn.Linear"}, r"network: is no description of a class"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(spec, 7)


def test_a_small_stem_needs_a_resnet() -> None:
    with pytest.raises(InputError, match=r"small_images: .*; found 'squeezenet1_1'"):
        build_network("squeezenet1_1", 7, small_images=True)


def test_logits_may_come_in_a_mapping() -> None:
    logits = torch.zeros(2, 7)
    assert require_logits({"logits": logits}, 2, 7) is logits


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.zeros(2, 5), r"\(2, 5\)"),
        (torch.zeros(2, 7, 1), r"\(2, 7, 1\)"),
        ((torch.zeros(2, 7),), "'tuple'"),
        ({"out": torch.zeros(2, 7)}, "'NoneType'"),
    ],
)
def test_anything_but_one_row_per_image_is_refused(output: Any, found: str) -> None:
    with pytest.raises(InputError, match=rf"network: .*; found {found}; accepted: shape \(2, 7\)"):
        require_logits(output, 2, 7)
