"""From the encoded bytes of an image to its pixels, or straight to a view of it.

JPEG files of the usual kinds go through libjpeg-turbo, large ones reduced to a half, a quarter or
an eighth where the view needs no more; everything else goes through Pillow.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from PIL import Image

from rrr_lightning.data.image_cuts import Cut, Pixels
from rrr_lightning.errors import InputError

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

MANY_PIXELS = 2_000_000  # of an image that is worth decoding reduced


def decode(encoded: bytes, name: str) -> Image.Image:
    """Returns an RGB image; grey, palette and CMYK images are converted.

    Raises:
        InputError: The image is corrupt or cut short; the message holds `name`.
    """
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"{name} cannot be decoded ({error})", key="data.source") from error


def decoded_view(
    encoded: bytes, name: Callable[[], str], cut: Callable[[int, int], Cut]
) -> torch.Tensor:
    """Returns the view of an image, uint8 of shape [height, width, 3].

    Args:
        encoded: The file.
        name: Returns the name of the image for an error message.
        cut: Returns the cut for a width and a height.

    Raises:
        InputError: The image is corrupt or cut short.
    """
    # Where simplejpeg fails, Pillow decodes the file or says what is wrong with it.
    with suppress(ValueError):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        pixels = height * width
        if colours not in ("CMYK", "YCCK") and pixels <= (Image.MAX_IMAGE_PIXELS or 0):
            taken = cut(width, height)
            factor = taken.reduction() if pixels >= MANY_PIXELS else 1
            return taken.of(decode_jpeg(encoded, height, width, factor), factor)
    image = decode(encoded, name())
    return cut(*image.size).of(np.array(image))


def decode_jpeg(encoded: bytes, height: int, width: int, factor: int = 1) -> Pixels:
    """Returns the pixels of a JPEG file, both sides reduced by a factor and rounded up.

    Unscaled pixels are those of Pillow, which uses the same library, to the last bit.
    """
    least = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)
    pixels: Pixels = simplejpeg.decode_jpeg(
        encoded, min_height=least[0], min_width=least[1], min_factor=factor
    )
    return pixels
