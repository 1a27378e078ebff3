"""Image classification networks by name or class path, and small residual networks for 32 pixels.

Suffixes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from rrr_lightning.errors import InputError, check, did_you_mean


class CifarResNet(nn.Module):
    """The residual network for 32-pixel images: three stages of n basic blocks, 6n + 2 layers.

    Args:
        depth: 6n + 2: 8, 14, 20, 26, 32, 44, 56, 110.
        num_classes: The number of columns of the logits.
        width: Channels of the first stage; the second has twice, the third four times as many.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2, with its
    shortcuts without parameters.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise InputError(
                "no such depth",
                key="network",
                found=f"cifar_resnet{depth}",
                accepted="8, 14, 20, … (6n+2)",
            )
        blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_Block(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns logits [B, K]."""
        hidden_BCHW = self.blocks(F.relu(self.norm(self.conv(images_BCHW))))
        logits: Tensor = self.head(hidden_BCHW.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut that subsamples and pads with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = hidden_BCHW
        if self.stride > 1 or self.extra:
            before = self.extra // 2
            subsampled = hidden_BCHW[:, :, :: self.stride, :: self.stride]
            shortcut_BCHW = F.pad(subsampled, (0, 0, 0, 0, before, self.extra - before))
        hidden_BCHW = F.relu(self.norm1(self.conv1(hidden_BCHW)))
        return F.relu(self.norm2(self.conv2(hidden_BCHW)) + shortcut_BCHW)


# ----------------------------------------------------------------------
# Image classification networks: by name, or by class path, with the recipe's initialisation.


_CIFAR = re.compile(r"cifar_resnet(\d{1,5})")
_ACCEPTED = (
    "a torchvision classification model, cifar_resnet8, cifar_resnet14, cifar_resnet20, … (6n+2), "
    "or {class_path, init_args}"
)
# Where the classes are that a file may name. `rrr_lightning.models` also has some that load files.
_ARCHITECTURES = (
    "rrr_lightning.models.image_networks.",
    "timm.layers.",
    "timm.models.",
    "torch.nn.",
    "torchvision.models.",
    "torchvision.ops.",
    "transformers.models.",
)
# Without these, both return a tuple of main and auxiliary logits while they train.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build_network(
    spec: str | Mapping[str, Any],
    num_classes: int,
    small_images: bool = False,
    key: str = "network",
) -> nn.Module:
    """Builds a network with random weights."""
    if isinstance(spec, Mapping):
        network = build_from_class_path(spec, key)
    elif isinstance(spec, str):
        if match := _CIFAR.fullmatch(spec):
            return CifarResNet(int(match.group(1)), num_classes)
        network = _from_torchvision(spec, num_classes, key)
    else:
        raise InputError(
            "is missing: the checkpoint's network was given as an object, so give it again",
            key=key,
            accepted=_ACCEPTED + " or a torch.nn.Module",
        )
    if small_images:
        _use_small_stem(network, spec)
    return network


def _from_torchvision(name: str, num_classes: int, key: str) -> nn.Module:
    known = models.list_models(module=models)
    if name not in known:
        nearest = did_you_mean(name, [*known, *(f"cifar_resnet{6 * n + 2}" for n in range(1, 19))])
        raise InputError(f"unknown name{nearest}", key=key, found=name, accepted=_ACCEPTED)
    arguments = _ARGUMENTS.get(name, {})
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    return network


def build_from_class_path(spec: Mapping[str, Any], key: str) -> nn.Module:
    """Builds the network that a `{class_path, init_args}` mapping describes."""
    path = spec.get("class_path")
    if not isinstance(path, str) or not set(spec) <= {"class_path", "init_args"}:
        raise InputError(
            "is no description of a class", key=key, found=dict(spec), accepted=_ACCEPTED
        )
    target = network_class(path, f"{key}.class_path")
    given = spec.get("init_args") or {}
    check(isinstance(given, Mapping), f"{key}.init_args", type(given).__name__, "name: value")
    arguments = {
        argument: build_from_class_path(value, f"{key}.init_args.{argument}")
        if isinstance(value, Mapping) and "class_path" in value
        else value
        for argument, value in given.items()
    }
    try:
        return target(**arguments)
    except TypeError as error:
        raise InputError(f"does not fit {path} ({error})", key=f"{key}.init_args") from error


def network_class(path: str, key: str) -> type[nn.Module]:
    """Imports the class that a path names, and does nothing with it."""
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"cannot be imported ({error})", key=key, found=path) from error
    accepted = "a subclass of torch.nn.Module"
    check(
        isinstance(found, type) and issubclass(found, nn.Module),
        key,
        path,
        accepted,
        "is no torch.nn.Module",
    )
    return found  # type: ignore[no-any-return]


def is_architecture(path: str) -> bool:
    """Whether a class path from a file names a network that a file may name.

    Such a network belongs to torch, torchvision, timm, transformers or this library, and its
    constructor builds layers and nothing else. Nothing else is imported to find out.
    """
    if not path.startswith(_ARCHITECTURES):
        return False
    try:
        return network_class(path, "class_path").__module__.startswith(_ARCHITECTURES)
    except InputError:
        return False


def _use_small_stem(network: nn.Module, spec: object) -> None:
    if not isinstance(network, models.ResNet):
        raise InputError(
            "this network has no stem to replace",
            key="small_images",
            found=spec,
            accepted="true with a torchvision ResNet, false with any other network",
        )
    width = network.conv1.out_channels
    network.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()


def initialize_by_recipe(network: nn.Module) -> None:
    """Draws weights as the reference recipe does.

    Convolutions and linear layers: Kaiming-normal weights. Batch norm: scale uniform in [0, 1),
    bias 0. Everything else stays as its constructor drew it.

    Source: the ResNet-50 on ImageNet recipe of the MosaicML examples.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.zeros_(module.bias)


def fill_head_bias(network: nn.Module, num_classes: int, value: float) -> None:
    """Sets the bias of the last layer with one number per class, if there is one."""
    for module in reversed(list(network.modules())):
        bias = getattr(module, "bias", None)
        if (
            isinstance(module, nn.Linear | nn.Conv2d)
            and bias is not None
            and len(bias) == num_classes
        ):
            nn.init.constant_(bias, value)
            return
