from __future__ import annotations

import torch
from torch import nn

from rrr_lightning.distillation.teacher import (
    cast_weights,
    cheapen,
    evaluate,
    remember,
    tensor_bytes,
    weight_dtype,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.norm = nn.LayerNorm(3)
        self.decode = nn.Linear(3, 7)
        self.decode.weight = self.embed.weight


def test_shared_tensors_count_once() -> None:
    assert tensor_bytes(Tied()) == 4 * (21 + 6 + 7)


def test_casting_keeps_ties_and_norms() -> None:
    network = Tied()
    cast_weights(network, torch.bfloat16)
    assert network.decode.weight is network.embed.weight
    assert network.decode.weight.dtype == network.decode.bias.dtype == torch.bfloat16
    assert network.norm.weight.dtype == torch.float32
    assert tensor_bytes(network) == 2 * 28 + 4 * 6


def test_weight_dtype_is_the_first_floating_one() -> None:
    assert weight_dtype(nn.ReLU()) is None
    assert weight_dtype(nn.Linear(1, 1).double()) == torch.float64


def test_put_back_undoes_everything() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    network[0].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    put_back = remember(network)
    network.requires_grad_(False).double().eval()
    cast_weights(network, torch.bfloat16)
    put_back()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    assert [part.training for part in network.modules()] == [True, True, False]
    assert [each.requires_grad for each in network.parameters()] == [True, False, True, True]


def test_evaluate_touches_only_flags_that_are_set() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    evaluate(list(network.modules()))
    assert not any(part.training for part in network.modules())


def test_only_weights_of_four_dimensions_change_their_layout() -> None:
    network = nn.ModuleList([nn.Conv1d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3)])
    before = [(conv.weight.clone(), conv.weight.stride()) for conv in network]
    cheapen(network, None)
    assert all(
        torch.equal(conv.weight, was) for conv, (was, _) in zip(network, before, strict=True)
    )
    line, plane, solid = network
    assert plane.weight.is_contiguous(memory_format=torch.channels_last)
    assert [line.weight.stride(), solid.weight.stride()] == [before[0][1], before[2][1]]
