"""Reading images and masks: always through Pillow, always as 8-bit RGB or boolean arrays."""

from __future__ import annotations

import mimetypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clflow.errors import DataError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""File name extensions of images, in lower case."""

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, some through outside programs, which bytes from strangers must not start."""

_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


def is_named_like_an_image(path: Path) -> bool:
    """Whether a person would call a file of that name an image, though it may be of a kind that is not read."""
    return (mimetypes.guess_type(path)[0] or "").startswith("image/")


def open_rgb(source: Path | BinaryIO) -> Image.Image:
    """Decode a whole image, from a path or an open file, as 8-bit RGB, upright.

    Grey and palette images become RGB, 16-bit grey is scaled (not clipped), transparency is laid on black.

    Raises:
        DataError: the file is missing, damaged, or of a pixel type without a known range (32-bit, float).
    """
    with _decoding(source), Image.open(source, formats=FORMATS) as image:
        image.load()
        return _as_rgb(ImageOps.exif_transpose(image))


def pixel_count(source: Path | BinaryIO) -> int:
    """Number of pixels of an image, from its header alone; nothing is decoded.

    Raises:
        DataError: the file is missing or its header is that of no image.
    """
    with _decoding(source), Image.open(source, formats=FORMATS) as image:
        return image.width * image.height


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """Read an image as RGB, uint8 (H, W, 3); ``size`` resizes it to a square, see `resize_to_square`.

    Raises:
        DataError: see `open_rgb`.
    """
    image = open_rgb(path)
    return np.array(image) if size is None else resize_to_square(image, size)


def resize_to_square(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image as a detector sees it: uint8 (size, size, 3), never cropped, bilinear and antialiased."""
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR))


def read_mask(path: Path, size: int, threshold: float) -> np.ndarray:
    """Read a ground-truth mask as bool (size, size).

    A pixel is True where at least the share ``threshold`` of the area it covers is non-zero in the file.

    Raises:
        DataError: see `open_rgb`.
    """
    defective = np.asarray(open_rgb(path)).any(axis=2).astype(np.float32)
    share = Image.fromarray(defective).resize((size, size), Image.Resampling.BOX)
    # The filter's weights sum to one only up to rounding; an exact tie must not depend on that.
    return np.asarray(share) >= threshold - 1e-6


@contextmanager
def _decoding(source: Path | BinaryIO) -> Iterator[None]:
    """Say in one sentence what is wrong with an image."""
    name = f"Image {source}" if isinstance(source, Path) else "The image"
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name} does not exist; fetch the dataset again.") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} cannot be decoded (not {', '.join(FORMATS)}); replace the damaged file.") from None
    # The decoders let all of these out, depending on where a file is damaged.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be decoded ({error}); replace the damaged file.") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) * (255 / 65535)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit and floating point pixels have no defined white; save it with 8 or 16 bits")
    if image.mode in _ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")
