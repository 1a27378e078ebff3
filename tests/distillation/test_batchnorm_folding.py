from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from rrr_lightning.distillation.batchnorm_folding import fold_batch_norms
from rrr_lightning.models.image_networks import build_network


def worn(network: nn.Module) -> nn.Module:
    """Gives every batch norm statistics, scales and shifts of its own, as after training."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(part.bias, 0, 0.3, generator=generator)
    return network.eval().requires_grad_(False)


def same_rows(network: nn.Module, folded: nn.Module, batch: int) -> None:
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    spread = expected.std().item()
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-4 * spread)


@pytest.mark.parametrize(
    ("name", "norms"), [("resnet18", 20), ("mobilenet_v3_small", 34), ("cifar_resnet8", 7)]
)
def test_all_norms_of_a_network_are_folded_and_the_rows_stay(name: str, norms: int) -> None:
    network = worn(build_network(name, 10))
    folded = copy.deepcopy(network)
    assert fold_batch_norms(folded) == norms
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    same_rows(network, folded, batch=2)


def test_norms_before_convolutions_stay() -> None:
    network = worn(torchvision.models.densenet121(num_classes=10))
    folded = copy.deepcopy(network)
    count = fold_batch_norms(folded)
    left = sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert 0 < count < count + left == 121
    same_rows(network, folded, batch=1)


class Foreign(nn.Module):
    """A network in which a convolution's output is used twice, and one convolution too."""

    def __init__(self, branches: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.branches = branches

    def forward(self, images: Tensor) -> Tensor:
        if self.branches and images.mean() > 100:
            return images
        features = self.first(images)
        features = self.norm(features) + features
        rows: Tensor = self.twice(self.other(self.twice(features))).mean((2, 3))
        return rows


@pytest.mark.parametrize("branches", [False, True])
def test_what_is_used_elsewhere_or_cannot_be_traced_stays(branches: bool) -> None:
    network = worn(Foreign(branches))
    before = copy.deepcopy(network.state_dict())
    assert fold_batch_norms(network) == 0
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_hooked_or_batch_statistics_stay() -> None:
    hooked = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    hooked[0].register_forward_hook(lambda *given: None)
    assert fold_batch_norms(hooked) == 0
    batch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert fold_batch_norms(batch) == 0
    training = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    assert fold_batch_norms(training) == 0


class Shared(nn.Module):
    """Two parts, one convolution; the whole cannot be traced, its parts can."""

    def __init__(self) -> None:
        super().__init__()
        one, self.free = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.left = nn.Sequential(one, nn.BatchNorm2d(3))
        self.right = nn.Sequential(one, nn.BatchNorm2d(3))

    def forward(self, images: Tensor) -> Tensor:
        if images.mean() > 100:
            return images
        return (self.free(self.left(images)) * self.right(images)).mean((2, 3))


class Borrowed(nn.Module):
    """Uses the weight of a convolution apart from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        borrowed = nn.functional.conv2d(images, self.conv.weight)
        return (self.norm(self.conv(images)) + borrowed).mean((2, 3))


@pytest.mark.parametrize(("kind", "norms"), [(Shared, 1), (Borrowed, 0)])
def test_what_two_parts_share_stays(kind: type[nn.Module], norms: int) -> None:
    network = worn(kind())
    folded = copy.deepcopy(network)
    assert fold_batch_norms(folded) == norms
    same_rows(network, folded, batch=2)
