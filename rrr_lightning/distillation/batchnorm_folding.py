"""Folding batch norms into the convolutions before them: the same rows by fewer memory passes.

In evaluation mode a batch norm is an affine map per channel with constants, which a convolution
takes into its weight and bias. The network's graph is traced with `torch.fx` to learn where the
output of a convolution goes to one batch norm and nowhere else; the network itself keeps its own
Python forward. Where a network cannot be traced its parts are, each for itself; whatever is called
twice, or has two names, stays as it was.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(network: nn.Module) -> int:
    """Folds every batch norm that directly follows a convolution, in place."""
    names = Counter(id(part) for _, part in network.named_modules(remove_duplicate=False))
    return _fold_within(network, {part for part, count in names.items() if count > 1})


def _fold_within(network: nn.Module, shared: set[int]) -> int:
    if not any(isinstance(part, _NORMS) for part in network.modules()):
        return 0
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # tracing runs the network's own code, which may raise anything
        return sum(_fold_within(part, shared) for part in network.children())
    pairs = _pairs(network, graph, shared)
    for convolution, norm in pairs:
        _fold(network.get_submodule(convolution), network.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
    return len(pairs)


def _pairs(network: nn.Module, graph: fx.Graph, shared: set[int]) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where one feeds the other alone."""
    named = dict(network.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = Counter(id(named[str(node.target)]) for node in calls)
    for node in graph.nodes:
        if node.op == "get_attr":  # a weight that is used apart from its module
            uses[id(named[str(node.target).rpartition(".")[0]])] += 1
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, convolution = named[str(node.target)], named[str(before.target)]
        if type(norm) not in _NORMS or type(convolution) not in _CONVOLUTIONS:
            continue
        alone = uses[id(norm)] == uses[id(convolution)] == 1
        if (
            alone
            and shared.isdisjoint((id(norm), id(convolution)))
            and _can_fold(convolution, norm)
        ):
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _can_fold(convolution: nn.Module, norm: nn.Module) -> bool:
    """Whether the norm's statistics are constants, and no hook looks at what lies between."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in (convolution, norm))
    return isinstance(norm.running_mean, Tensor) and not norm.training and not hooked


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> None:
    dtype, bias = convolution.weight.dtype, convolution.bias
    weight, shift = fuse_conv_bn_weights(
        convolution.weight.float(),
        None if bias is None else bias.float(),
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(dtype), requires_grad=False)
