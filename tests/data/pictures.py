"""Pictures made up in memory, and files decoded by Pillow."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from rrr_lightning.data.transforms import Pixels


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


def tiff(side: int, bits: int, photometric: int, pixels: bytes) -> bytes:
    """A square grey TIFF of one strip; photometric 0 for white is zero, 1 for black is zero."""
    tags = {256: side, 257: side, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: side}
    tags[279] = len(pixels)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    return head.ljust(122, b"\0") + pixels
