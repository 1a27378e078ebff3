"""The small residual networks that were made for 32-pixel images.

Suffixes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rrr_lightning.errors import InputError


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
