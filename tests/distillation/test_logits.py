from __future__ import annotations

import pytest
import torch

from rrr_lightning.distillation.logits import Normalization, Renormalization
from rrr_lightning.errors import InputError

HALF = Normalization((0.5,), (0.5,))
OTHER = Normalization((0.25,), (0.125,))


def test_floats_and_pixels_reach_the_same_input() -> None:
    pixels = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16)
    renormalise = Renormalization(OTHER, HALF)
    expected = (pixels / 255 - 0.25) / 0.125
    torch.testing.assert_close(renormalise(pixels), expected)
    torch.testing.assert_close(renormalise((pixels / 255 - 0.5) / 0.5), expected)


def test_what_needs_no_change_is_the_same_object() -> None:
    images, tokens = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, dtype=torch.int64)
    for teacher, student in ((None, HALF), (HALF, None), (HALF, Normalization([0.5], [0.5]))):
        assert Renormalization(teacher, student)(images) is images
    assert Renormalization(HALF, OTHER)(tokens) is tokens


def test_memory_format_survives() -> None:
    images = torch.zeros(2, 1, 4, 4).expand(2, 1, 4, 4).to(memory_format=torch.channels_last)
    out = Renormalization(HALF, OTHER)(images)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((), ()), ((0.5,), (0.0,))])
def test_impossible_statistics_are_refused(mean: tuple[float], std: tuple[float]) -> None:
    with pytest.raises(InputError):
        Normalization(mean, std)


def test_other_shapes_than_the_statistics_are_refused() -> None:
    with pytest.raises(InputError, match="channels"):
        Renormalization(HALF, Normalization((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InputError, match=r"found \(1, 3, 2, 2\)"):
        Renormalization(HALF, OTHER)(torch.zeros(1, 3, 2, 2))
