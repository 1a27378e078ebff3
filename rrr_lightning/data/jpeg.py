"""JPEG files through libjpeg-turbo: what their header says, and no more pixels than are needed.

Pillow decodes whole files. Here a file is decoded down to the last row that is asked for, and to a
half, a quarter or an eighth of its size where that is enough. Unscaled pixels are those of Pillow,
which uses the same library, to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]

FACTORS = (8, 4, 2)  # the reductions that libjpeg-turbo has vector code for
START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; Huffman codes all of them
SCAN = 0xDA
TAIL = 64  # bytes at the end of a file in which its end marker is looked for
LEFT_OVER = "extraneous bytes"  # what is said where the height was made smaller
CONTEXT = 4  # rows below a row that may have a part in its colours


@dataclass(frozen=True)
class JpegFrame:
    """What the header of a file says.

    Args:
        width: In pixels.
        height: In pixels.
        block_height: Rows of the units that the file is made of.
        height_at: Where in the file the height stands.
        one_scan: The file can be decoded from top to bottom and no further than is needed.
    """

    width: int
    height: int
    block_height: int
    height_at: int
    one_scan: bool


def read_frame(encoded: bytes) -> JpegFrame | None:
    """Returns what the header says, or None for a file that is better left to Pillow.

    That is any file that is not a JPEG file, is not complete, or has other colours than 8 bits of
    grey or of three components.
    """
    if not encoded.startswith(START) or encoded.rfind(END, -TAIL) < 0:
        return None
    frame, place = None, 2
    while place + 18 < len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        length = int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker in FRAMES:
            frame = place
        elif marker == SCAN:
            return None if frame is None else _frame(encoded, frame, encoded[place + 4])
        elif 0xC0 <= marker < 0xE0 and marker not in (0xC4, 0xDB, 0xDD):
            return None  # lossless, arithmetic or hierarchical coding, or no header at all
        place += 1 if marker == 0xFF else 2 + length
    return None


def _frame(encoded: bytes, place: int, scanned: int) -> JpegFrame | None:
    """The frame whose segment begins at a place, in a file whose first scan has some components."""
    bits, components = encoded[place + 4], encoded[place + 9]
    height = int.from_bytes(encoded[place + 5 : place + 7], "big")
    width = int.from_bytes(encoded[place + 7 : place + 9], "big")
    if bits != 8 or components not in (1, 3) or 0 in (width, height):
        return None
    sampling = encoded[place + 11 : place + 11 + 3 * components : 3]
    block_height = 8 * max(factors & 15 for factors in sampling)
    if block_height == 0:
        return None
    one_scan = encoded[place + 1] != FRAMES[2] and scanned == components
    return JpegFrame(width, height, block_height, place + 5, one_scan)


def decode_jpeg(
    encoded: bytes, frame: JpegFrame, rows: int, factor: int = 1, memory: Pixels | None = None
) -> Pixels:
    """Returns the pixels of a file from the top down to a row, or some more of them.

    Args:
        encoded: The file.
        frame: What its header says.
        rows: The rows that are needed, from the top, unscaled.
        factor: 1, or a reduction out of `FACTORS`; sides are rounded up.
        memory: Where the pixels are stored, if there is room.

    Returns:
        uint8 of shape [at least rows / factor, width / factor, 3].

    Raises:
        ValueError: The file is corrupt, or strange; what is below the rows is not looked at.
    """
    height, width, whole = frame.height, frame.width, True
    if frame.one_scan and rows + CONTEXT < height:
        height = min(height, -(-(rows + CONTEXT) // frame.block_height) * frame.block_height)
        whole, at = height == frame.height, frame.height_at
        encoded = encoded[:at] + height.to_bytes(2, "big") + encoded[at + 2 :]
    shape = (-(-height // factor), -(-width // factor), 3)
    size = math.prod(shape)
    if memory is None or memory.size < size:
        memory = np.empty(size, np.uint8)
    try:
        simplejpeg.decode_jpeg(
            encoded, min_height=shape[0], min_width=shape[1], min_factor=factor, buffer=memory
        )
    except ValueError as error:
        if whole or LEFT_OVER not in str(error):
            raise
    return memory[:size].reshape(shape)
