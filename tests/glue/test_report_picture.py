"""The picture is drawn for one result and for two, and tells them apart without colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rrr_lightning.glue.report import draw
from tests.glue.made import evaluation


def test_grey_alone(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", ("rte", "cola"), 0.4).results(tmp_path / "a")
    second = evaluation(tmp_path / "b", ("rte", "cola"), 0.9).results(tmp_path / "b")
    for results in ([first], [first, second]):
        draw(results, tmp_path / "picture.png")
        pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"), np.int16)
        assert np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max() <= 1
        assert pixels.std() > 10
