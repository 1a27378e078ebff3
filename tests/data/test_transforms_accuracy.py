"""A network that was trained on the library's views judges them as it judges torchvision's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.images import ViewedImages
from rrr_lightning.data.transforms import EvaluationView, TrainingView, View

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # trains for three epochs
ACCURACY = 0.006  # three of 500 images
AGREEMENT = 0.99
REDUCED_ACCURACY, REDUCED_AGREEMENT = 0.03, 0.93  # of images of 224 pixels, decoded to 112


def views(folder: Path, view: View, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = FolderImages(folder)
    chosen = torch.arange(len(source.labels))
    return ViewedImages(source, chosen, view)[[(epoch, index) for index in chosen.tolist()]]


def trained(folder: Path) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers: list[nn.Module] = []
        for inner, outer in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for epoch in range(3):
            images, labels = views(folder, TrainingView(64, 0.3, seed=1), epoch)
            for part in torch.randperm(len(labels)).split(48):
                loss = nn.functional.cross_entropy(network(images[part] / 255), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval()


def test_accuracy_is_that_on_torchvisions_pixels(
    imagenet_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import transforms

    network, folder = trained(imagenet_like / "train"), imagenet_like / "val"
    steps = [transforms.Resize(72), transforms.CenterCrop(64), transforms.PILToTensor()]
    prepare, source = transforms.Compose(steps), FolderImages(folder)
    theirs = torch.stack(
        [prepare(Image.open(folder / path).convert("RGB")) for path in source.paths]
    )
    mine, labels = views(folder, EvaluationView(72, 64))
    monkeypatch.setattr("rrr_lightning.data.transforms.MANY_PIXELS", 0)
    reduced, _ = views(folder, EvaluationView(72, 64))
    with torch.no_grad():
        judged = [network(images / 255).argmax(1) for images in (theirs, mine, reduced)]
    right = [float((judgement == labels).double().mean()) for judgement in judged]
    agreement = [float((judged[0] == judgement).double().mean()) for judgement in judged]
    print(f"accuracy {right}, agreement {agreement}")
    assert right[0] > 0.3
    assert abs(right[1] - right[0]) <= ACCURACY
    assert agreement[1] >= AGREEMENT
    assert abs(right[2] - right[0]) <= REDUCED_ACCURACY
    assert agreement[2] >= REDUCED_AGREEMENT
