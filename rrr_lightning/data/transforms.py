"""From the encoded bytes of an image to a keyed random crop, or to the fixed crop for evaluation.

A crop is drawn from the size of the image alone, before anything is decoded: a box of the image,
the size to which it is resized, and perhaps a window of that and a flip. Boxes are resized as by
torchvision on tensors of bytes, to the last bit: bilinear, with antialiasing. Pillow's pixels
differ from these by 2 of 255 levels at most.
"""

from __future__ import annotations

import io
import logging
import math
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate

from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import key_seed, keyed_generator

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
FACTORS = (8, 4, 2)  # the reductions that libjpeg-turbo has vector code for


@dataclass(frozen=True)
class Cut:
    """A part of an image and the view to make of it.

    Args:
        box: (left, upper, right, lower) of the part, in pixels of the image.
        size: (width, height) that the part is brought to.
        window: What is left of that in the end; by default all.
        flip: The view is turned left to right.
    """

    box: Box
    size: tuple[int, int]
    window: Box | None = None
    flip: bool = False

    def reduction(self) -> int:
        """Returns by how much an image may be reduced and still not be enlarged by this cut."""
        left, upper, right, lower = self.box
        width, height = self.size
        enough = min((right - left) / width, (lower - upper) / height)
        return next((factor for factor in FACTORS if factor <= enough), 1)

    def of(self, pixels: Pixels, factor: int = 1) -> torch.Tensor:
        """Returns the view of an image."""
        if factor == 1:
            views = _resized(pixels, self.box, self.size)
        else:
            box = tuple(edge / factor for edge in self.box)
            views = _resized_between(pixels, box, self.size)
        if self.window is not None:
            left, upper, right, lower = self.window
            views = views[..., upper:lower, left:right]
        if self.flip:
            views = views.flip(3)
        return views[0].permute(1, 2, 0)


def _resized(pixels: Pixels, box: Box, size: tuple[int, int]) -> torch.Tensor:
    left, upper, right, lower = box
    # With the batch in front before the channels come to theirs, torch sees channels-last memory.
    part = torch.from_numpy(pixels[upper:lower, left:right])[None].permute(0, 3, 1, 2)
    return interpolate(part, size[::-1], mode="bilinear", antialias=True)


def _resized_between(pixels: Pixels, box: tuple[float, ...], size: tuple[int, int]) -> torch.Tensor:
    """The same for a box with edges between two pixels; Pillow sees no pixels outside of it."""
    left, upper = math.floor(box[0]), math.floor(box[1])
    right, lower = math.ceil(box[2]), math.ceil(box[3])
    part = Image.fromarray(pixels[upper:lower, left:right])
    inner = (box[0] - left, box[1] - upper, box[2] - left, box[3] - upper)
    view = part.resize(size, Image.Resampling.BILINEAR, box=inner)
    return torch.from_numpy(np.array(view))[None].permute(0, 3, 1, 2)


# ----------------------------------------------------------------------
# From the encoded bytes of an image to its pixels, or straight to a view of it.


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


# ----------------------------------------------------------------------
# The views of an image: keyed random crops for training, one fixed crop for evaluation.


RATIOS = (3 / 4, 4 / 3)


class View(Protocol):
    """Says what to take of an image of any size; the results are of one size."""

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels."""


def random_box(width: int, height: int, min_scale: float, chance: random.Random) -> Box:
    """Draws (left, upper, right, lower) of a random resized crop.

    Source:
        torchvision `RandomResizedCrop.get_params`: ten attempts, then the largest central box.
    """
    for _ in range(10):
        area = width * height * (min_scale + (1 - min_scale) * chance.random())
        low, high = (math.log(ratio) for ratio in RATIOS)
        ratio = math.exp(low + (high - low) * chance.random())
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(chance.random() * (width - wide + 1))
            upper = int(chance.random() * (height - tall + 1))
            return left, upper, left + wide, upper + tall
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - wide) // 2, (height - tall) // 2
    return left, upper, left + wide, upper + tall


@dataclass(frozen=True)
class TrainingView:
    """A random resized crop and a flip, keyed by (seed, epoch, index).

    Args:
        crop_size: Side of the result in pixels.
        min_scale: Least share of the image's area in a crop.
        seed: Seed of all views.
    """

    crop_size: int
    min_scale: float
    seed: int

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels."""
        chance = random.Random(key_seed(self.seed, "view", epoch, index))
        box = random_box(width, height, self.min_scale, chance)
        return Cut(box, (self.crop_size, self.crop_size), flip=chance.random() < 0.5)


@dataclass(frozen=True)
class EvaluationView:
    """The shorter side resized, then the centre.

    Args:
        resize_size: Length of the shorter side after resizing.
        crop_size: Side of the result in pixels.
    """

    resize_size: int
    crop_size: int

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels; the key has no effect."""
        shorter, crop = min(width, height), self.crop_size
        wide, tall = (int(self.resize_size * side / shorter) for side in (width, height))
        left, upper = round((wide - crop) / 2), round((tall - crop) / 2)
        window = (left, upper, left + crop, upper + crop)
        return Cut((0, 0, width, height), (wide, tall), window)


class ShiftedViews:
    """Small images, a batch at a time: a shift by up to four pixels over black, and a flip.

    Args:
        length: Number of images.
        seed: Seed of all views.
    """

    border = 4

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._drawn: tuple[int, torch.Tensor] | None = None

    def draws(self, epoch: int) -> torch.Tensor:
        """Returns (down, right, flip) of every image in an epoch, int64 of shape [length, 3]."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = keyed_generator(self.seed, "view", epoch)
            span = 2 * self.border + 1
            draws = torch.randint(2 * span * span, (self.length,), generator=generator)
            parts = (draws // 2 // span, draws // 2 % span, draws % 2)
            self._drawn = (epoch, torch.stack(parts, dim=1))
        return self._drawn[1]

    def __call__(
        self, images: torch.Tensor, epochs: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Returns the views of a batch."""
        batch, height, width, _ = images.shape
        draws = torch.empty(batch, 3, dtype=torch.int64)
        for epoch in set(epochs.tolist()):
            chosen = epochs == epoch
            draws[chosen] = self.draws(epoch)[indices[chosen]]
        down, right, flip = draws.numpy().T
        edge = self.border
        padded = np.pad(images.numpy(), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        views = np.moveaxis(windows, 3, 5)[np.arange(batch), down, right]
        views[flip == 1] = views[flip == 1, :, ::-1]
        return torch.from_numpy(views)
