"""Pictures made up in memory, and files decoded by Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from rrr_lightning.data.image_cuts import Pixels


def saved(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def pillow(encoded: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def waves(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / a + columns / b) for a, b in ((7, 9), (5, -8), (3, 20))]
    return Image.fromarray((127 + 120 * np.stack(channels, axis=2)).astype(np.uint8))
