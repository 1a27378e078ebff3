"""From the encoded bytes of an image to its pixels, or straight to a view of it.

JPEG files of the usual kinds go through libjpeg-turbo, large ones reduced to a half, a quarter or
an eighth where the view needs no more; everything else goes through Pillow.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

from rrr_lightning.data.image_cuts import Cut, Pixels
from rrr_lightning.errors import InputError

logger = logging.getLogger(__name__)
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

# They start another program, or hold no pixels of their own.
REFUSED_FORMATS = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF")
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF and EXIF
FIRST_BYTES = 4096  # of a file, where its EXIF data begins
TURNED = "images with an EXIF orientation: it is not applied, as in torchvision's ImageFolder"
MANY_PIXELS = 2_000_000  # of an image that is worth decoding reduced


def decode(encoded: bytes, name: str) -> Image.Image:
    """Returns an RGB image of 8 bits, as torchvision's `ImageFolder` does.

    Grey, palette and CMYK images are converted; of images with an alpha channel the colours are
    taken as they are stored; 16-bit grey is scaled to 8 bits.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded), formats=_formats())
        image.load()
        _say_once(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _scaled(image).convert("RGB")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")
    except UnidentifiedImageError as error:
        why = "no image of a known format" if encoded else "the file is empty"
        raise InputError(f"{name} cannot be decoded ({why})", key="data.source") from error
    except UNREADABLE as error:
        raise InputError(f"{name} cannot be decoded ({error})", key="data.source") from error


@cache
def _formats() -> list[str]:
    Image.init()
    return [each for each in Image.OPEN if each not in REFUSED_FORMATS]


def _scaled(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits as one of 8 bits; its range must be known."""
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS_PER_SAMPLE, (16,)))
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"its pixels are of mode {image.mode!r}, 32 bits, whose range is not known; "
            "accepted: images of 8 or 16 bits"
        )
    pixels = np.asarray(image).astype(np.float64) * (255 / (2**bits - 1))
    if tags.get(PHOTOMETRIC) == 0:  # white is zero
        pixels = 255 - pixels
    return Image.fromarray(np.round(pixels).clip(0, 255).astype(np.uint8))


def _say_once(image: Image.Image) -> None:
    """Names in the log what is not used of an image, for the first of its kind."""
    if image.has_transparency_data:
        _say("images with an alpha channel: their colours are used as stored, alpha is not")
    if image.format != "JPEG" and image.getexif().get(ORIENTATION, 1) != 1:
        _say(TURNED)


@cache
def _say(line: str) -> None:
    logger.info("%s", line)


def _is_turned(encoded: bytes) -> bool:
    """Returns whether the EXIF data of a JPEG file has another orientation than 1."""
    start = encoded.find(b"Exif\0\0", 0, FIRST_BYTES) + 6
    if start < 6:
        return False
    order = "<" if encoded[start : start + 2] == b"II" else ">"
    with suppress(struct.error):
        (offset,) = struct.unpack_from(f"{order}I", encoded, start + 4)
        (count,) = struct.unpack_from(f"{order}H", encoded, start + offset)
        for place in range(start + offset + 2, start + offset + 2 + 12 * min(count, 64), 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", encoded, place)
            if tag == ORIENTATION:
                return bool(value != 1)
    return False


def decoded_view(
    encoded: bytes, name: Callable[[], str], cut: Callable[[int, int], Cut]
) -> torch.Tensor:
    """Returns the view of an image, uint8 of shape [height, width, 3]."""
    if _is_turned(encoded):
        _say(TURNED)
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
