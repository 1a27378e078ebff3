"""Arms can be told apart without colour."""

from __future__ import annotations

import itertools

from matplotlib.colors import to_rgb

from rrr_lightning.study.style import COLORS, look


def lightness(color: str) -> float:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_the_first_arms_differ_in_lightness() -> None:
    for first, second in itertools.combinations(COLORS[:4], 2):
        assert abs(lightness(first) - lightness(second)) >= 0.1


def test_every_arm_has_a_look_of_its_own() -> None:
    looks = [look(number) for number in range(2 * len(COLORS))]
    assert len({(each.marker, each.fill == "white") for each in looks}) == len(looks)
