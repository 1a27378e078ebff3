"""From the encoded bytes of an image to its pixels, or straight to a view of it.

JPEG files of the usual kinds go through libjpeg-turbo, and no more of them is decoded than the view
needs; everything else goes through Pillow.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from PIL import Image

from rrr_lightning.data.image_cuts import Cut
from rrr_lightning.data.jpeg import JpegFrame, Pixels, decode_jpeg, read_frame
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


class Decoder:
    """Makes views of images; the memory for the pixels is used again for the next image."""

    def __init__(self) -> None:
        self._memory: Pixels = np.empty(0, np.uint8)

    def view(
        self, encoded: bytes, name: Callable[[], str], cut: Callable[[int, int], Cut]
    ) -> torch.Tensor:
        """Returns the view of an image.

        Args:
            encoded: The file.
            name: Tells what to call the image in an error message.
            cut: Tells what the view is, from the width and the height of the image.

        Returns:
            uint8 of shape [height, width, 3].

        Raises:
            InputError: The image is corrupt or cut short.
        """
        frame = read_frame(encoded)
        if frame is not None and frame.width * frame.height <= (Image.MAX_IMAGE_PIXELS or 0):
            taken = cut(frame.width, frame.height)
            factor = taken.reduction() if frame.width * frame.height >= MANY_PIXELS else 1
            # Where this fails, Pillow decodes the file or says what is wrong with it.
            with suppress(ValueError):
                pixels = decode_jpeg(encoded, frame, taken.box[3], factor, self._room(frame))
                return taken.of(pixels, factor)
        image = decode(encoded, name())
        return cut(*image.size).of(np.array(image))

    def _room(self, frame: JpegFrame) -> Pixels:
        size = frame.width * frame.height * 3
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory
