"""Freezing, moving, casting and folding a network, and putting it back to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.folding import fold_batch_norms

# Autocast runs these in low precision and never caches the cast of a frozen weight: three forwards
# cost three casts. Norms are not among them.
_CAST_ONCE = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.modules.conv._ConvNd,
)


def tensor_bytes(module: nn.Module) -> int:
    """Returns the bytes of a module's parameters and buffers, shared tensors counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights of matrix products, convolutions and embeddings in place."""
    for part in module.modules():
        if isinstance(part, _CAST_ONCE):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def remember(module: nn.Module) -> Callable[[], None]:
    """Returns a function that puts a module back as it is now.

    It restores the mode of every sub-module, its own sub-modules, and `requires_grad`, device and
    precision of every parameter and buffer. The tensors themselves are kept, so that a cast loses
    no bit.
    """
    modes = [(part, part.training) for part in module.modules()]
    members: list[tuple[Any, dict[str, Any]]] = [
        (held, dict(held))
        for part in module.modules()
        for held in (part._modules, part._parameters)
    ]
    parameters = [(each, each.data, each.requires_grad) for each in module.parameters()]
    buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
        (part._buffers, name, buffer)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    device = parameters[0][1].device if parameters else None

    def put_back() -> None:
        for held, before in members:
            held.clear()
            held.update(before)
        if device is not None and device != parameters[0][0].device:
            module.to(device)  # for modules that note down where they are, as Lightning's do
        for parameter, data, requires_grad in parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)
        for holder, name, buffer in buffers:
            holder[name] = buffer
        for part, training in modes:
            part.training = training

    return put_back


def cheapen(module: nn.Module, dtype: torch.dtype | None) -> int:
    """Makes the forward of a placed, frozen network cheaper, in place.

    Batch norms are folded, convolutions over images get the memory layout that they are fastest in,
    and matrix weights are cast to `dtype`, if given.
    """
    folded = fold_batch_norms(module)
    for parameter in module.parameters():
        if parameter.ndim == 4:  # the layout is of four dimensions; torch refuses it for five
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if dtype is not None:
        cast_weights(module, dtype)
    return folded


def called_parts(network: nn.Module) -> list[nn.Module]:
    """Returns what can be compiled: the modules that are called with tensors, or with batches.

    That is the network itself or, where it is asked for its `rows`, the parts of it that hold
    parameters.
    """
    is_called = not isinstance(network, nn.ModuleList | nn.ModuleDict)
    if is_called and not callable(getattr(network, "rows", None)):
        return [network]
    held = [child for child in network.children() if next(child.parameters(), None) is not None]
    return [part for child in held for part in called_parts(child)]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bf16 faster than of float32, as its makers say."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        cpu: Any = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return False


def evaluate(parts: list[nn.Module]) -> None:
    """Sets evaluation mode where something has changed it; costs a flag per sub-module."""
    for part in parts:
        if part.training:
            part.training = False


def weight_dtype(module: nn.Module) -> torch.dtype | None:
    """Returns the floating type of the first parameter, or None without one."""
    kinds: Any = (each.dtype for each in module.parameters() if each.is_floating_point())
    return next(kinds, None)
