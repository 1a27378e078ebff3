"""A small network with dropout, so that a resumed run must draw the same masks."""

from __future__ import annotations

from torch import Tensor, nn

from rrr_lightning.models.cifar_resnet import CifarResNet


class Dropping(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.body = CifarResNet(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.body(self.dropout(images))
        return output
