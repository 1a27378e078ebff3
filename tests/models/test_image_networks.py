from __future__ import annotations

import pytest
import torch

from rrr_lightning.errors import InputError
from rrr_lightning.models.image_networks import CifarResNet


@pytest.mark.parametrize(("depth", "thousands"), [(20, 270), (32, 464), (56, 853)])
def test_parameters_are_those_of_the_paper(depth: int, thousands: int) -> None:
    count = sum(parameter.numel() for parameter in CifarResNet(depth).parameters())
    assert round(count / 1000) in range(thousands, thousands + 4)


@pytest.mark.parametrize("size", [8, 9, 32])
def test_any_image_size_gives_one_row_per_image(size: int) -> None:
    assert CifarResNet(8, num_classes=7, width=4)(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("depth", [2, 7, 18])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(InputError, match=rf"network: no such depth; found 'cifar_resnet{depth}'"):
        CifarResNet(depth)
