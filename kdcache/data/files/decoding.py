"""Decodes one image file: upright, RGB, 8 bits a channel. No other module imports Pillow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from kdcache.errors import DataError

_TURNED = (5, 6, 7, 8)  # the orientations of EXIF that swap width and height
_LONG = 64  # how many times the wanted pixels the whole resized image may have


def read_image(path: Path, shape: tuple[int, int]) -> Tensor:
    """Read one image as a dataset whose images have `shape` (height, width) would.

    Returns uint8 `(3, height, width)`. Raises DataError where it cannot be read.
    """
    return torch.from_numpy(decode(path, shape))


def decode(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of an image file, uint8 `(3, height, width)`, turned upright as its EXIF says.

    They are taken as they are where the image has `shape` (height, width), else resized to cover it
    and cropped to its centre. Raises DataError where the file cannot be read.
    """
    with _open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        pixels = _eight_bits(image)
        if (pixels.height, pixels.width) != shape:
            pixels = _resize_and_crop(pixels, *shape)
        return np.array(pixels).transpose(2, 0, 1)


def upright_shape(path: Path) -> tuple[int, int]:
    """Height and width of an image, upright, for which the file's header is enough."""
    with _open(path) as image:
        # not PNG's own method, which decodes the pixels to see what comes behind them
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in _TURNED
        if turned and image.format != "TIFF":  # whose size Pillow has swapped already
            return image.width, image.height
        return image.height, image.width


def image_suffixes() -> set[str]:
    """Those of the formats that Pillow reads, such as '.png'."""
    Image.init()
    formats = Image.registered_extensions()
    return {suffix for suffix, kind in formats.items() if kind in Image.OPEN}


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Whatever goes wrong in the block becomes a DataError that names the image file."""
    try:
        yield
    except Exception as error:  # a damaged file's decoder raises nearly anything, even RuntimeError
        raise DataError(
            "an image that Pillow reads", f"{path} ({error})", "replace or remove the file"
        ) from error


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    with naming_file(path), Image.open(path) as image:
        yield image


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB. Of 16 bits the upper 8 are taken, as Pillow does where it reads colours of 16 bits."""
    # grey PNG and PPM of 16 bits are I for older versions of Pillow, and PPM for all
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and nobody knows which of them is white")
    return image.convert("RGB")


def _resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The smallest size that covers `height` x `width`, then the centre."""
    scale = max(width / image.width, height / image.height)
    wide = max(width, round(image.width * scale))
    tall = max(height, round(image.height * scale))
    left = (wide - width) // 2
    top = (tall - height) // 2
    if wide * tall > _LONG * width * height:  # resize only what stays, which may round otherwise
        across, down = image.width / wide, image.height / tall
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), Image.Resampling.BILINEAR, box)
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + width, top + height))
