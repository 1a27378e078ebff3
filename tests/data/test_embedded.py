from __future__ import annotations

import pytest
import torch

from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.errors import InputError


def test_digits_are_400_and_1397_whole_images_with_their_labels() -> None:
    train, validation = EmbeddedDigits(seed=1).sets
    assert (len(train), len(validation)) == (400, 1397)
    images, labels = train[[(0, index) for index in range(400)]]
    assert images.shape == (400, 3, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert int(images.max()) == 255
    assert torch.bincount(labels, minlength=10).min() > 25
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_split_does_not_depend_on_the_seed_and_is_disjoint() -> None:
    parts = [EmbeddedDigits(seed=seed).sets for seed in (1, 2)]
    keys = [(0, index) for index in range(400)]
    assert torch.equal(parts[0][0][keys][0], parts[1][0][keys][0])
    train, validation = parts[0]
    kept = {image.numpy().tobytes() for image in train.images}
    assert not kept & {image.numpy().tobytes() for image in validation.images}


def test_classes_are_the_digits() -> None:
    assert EmbeddedDigits.class_names[3] == "3"
    assert EmbeddedDigits.num_classes == 10


def test_digits_can_be_validated_alone() -> None:
    data = EmbeddedDigits()
    with pytest.raises(InputError, match=r"no test split with labels; .* or `validate`"):
        data.test_dataloader()
    with pytest.raises(InputError, match=r"predict has no meaning .*; found 'EmbeddedDigits'"):
        data.predict_dataloader()
