"""Image files as inputs: what is done to each of them, and how none of them does any harm."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from pertbound.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""The only formats that are decoded: some others start programs."""
MOST_PIXELS = 2**26
"""A larger image (8192 x 8192) is refused before it is decoded."""
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names for what has 8 bits in each channel at most."""
_GREY = ("1", "L", "LA")
_BILINEAR = 2
"""Pillow's number for it."""

Size = int | tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class Images:
    """What is done to an image before it is an input, all of it outside of what perturbations may change.

    The order is: to grey or colour, resized, cropped, divided by 255.
    """

    resize: Size | None = None
    """The length that the shorter side gets, the other in proportion, or (height, width); bilinear, antialiased."""
    crop: Size | None = None
    """The side of the square, or the (height, width), that is cut out of the middle."""
    channels: int | None = None
    """1 for grey, 3 for colour; None: grey where all images are."""

    def __post_init__(self) -> None:
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            sides: tuple[Any, ...] = size if isinstance(size, tuple) else (size, size)
            if size is not None and (len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides)):
                raise InputError(f"{name} must be a length in pixels, or a height and a width, got {size}")
            if size is not None and math.prod(sides) > MOST_PIXELS:
                raise InputError(f"{name} to {size} gives more than {MOST_PIXELS} pixels")
        if self.channels not in (None, 1, 3):
            raise InputError(f"images have 1 channel (grey) or 3 (colour), got {self.channels}")

    def __str__(self) -> str:
        resize = f"resized to {_said(self.resize, 'the shorter side')}" if self.resize else ""
        return ", ".join(part for part in (resize, f"cropped to {_said(self.crop)}" if self.crop else "") if part)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """What (height, width) becomes. Raises `DataError` when that is too small to be cropped, or too large."""
        tall, wide = self._resized(height, width)
        if self.crop is None:
            return tall, wide
        wanted = _pair(self.crop)
        if wanted[0] > tall or wanted[1] > wide:
            raise DataError(
                f"{tall} x {wide} pixels are too few to crop them to {wanted[0]} x {wanted[1]}; resize the images first"
            )
        return wanted

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """The bytes of a decoded image, (channels, height, width)."""
        wanted = self.size_of(image.height, image.width)
        image = image.convert("L" if self.channels == 1 else "RGB")
        height, width = self._resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), _BILINEAR)
        if wanted != (height, width):
            top, left = round((height - wanted[0]) / 2), round((width - wanted[1]) / 2)
            image = image.crop((left, top, left + wanted[1], top + wanted[0]))
        array = np.asarray(image, np.uint8)
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return (height, width) if self.resize is None else self.resize
        short, long = min(height, width), max(height, width)
        other = int(self.resize * long / short)
        if self.resize * other > MOST_PIXELS:
            raise DataError(f"{height} x {width} pixels, resized to {self.resize}, are more than {MOST_PIXELS}")
        return (self.resize, other) if height <= width else (other, self.resize)


def decoded(source: Path | bytes, name: str, images: Images) -> NDArray[np.uint8]:
    """The bytes of one image file, (channels, height, width), after what `images` says.

    Raises `DataError` naming the file when it is absent, damaged, too large, or no image of `FORMATS`.
    """
    with _opened(source, name) as image:
        return images.apply(image)


def header(source: Path | bytes, name: str, images: Images) -> tuple[tuple[int, int], bool]:
    """The (height, width) that `decoded` will give, and whether the image is grey; only the header is read."""
    with _opened(source, name) as image:
        return images.size_of(image.height, image.width), image.mode in _GREY


@contextmanager
def _opened(source: Path | bytes, name: str) -> Generator[Image.Image, None, None]:
    from PIL import Image  # here, because only images need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about an image that can be read
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise DataError(
                        f"{name} has {image.height} x {image.width} pixels, and at most {MOST_PIXELS} are decoded"
                    )
                if image.mode not in _MODES:
                    raise DataError(
                        f"{name} holds {image.mode} pixels, and only 8 bits in each channel are read here; save the "
                        "images as a .npy file instead"
                    )
                yield image
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from error
    except Exception as error:  # decoders fail in many ways
        raise DataError(
            f"cannot read {name}: {_first_line(error)}; it is damaged, or no image in one of the formats "
            f"{', '.join(FORMATS)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _said(size: Size, alone: str = "") -> str:
    return f"{size} pixels ({alone})" if isinstance(size, int) and alone else " x ".join(map(str, _pair(size)))
