"""One image file to pixels. Runs where nothing can be imported later (`worker/stages/sandbox.py`)."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import (  # those that Pillow would import when it first meets such a file
    Image,
    ImagePalette,  # noqa: F401
    MpoImagePlugin,  # noqa: F401  a JPEG with more pictures behind it, as phones make them
    TiffImagePlugin,  # noqa: F401  what a JPEG's metadata are written in
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

Image.preinit()

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits or fewer per value


class Undecodable(Exception):
    """Not an image that is taken, and why."""


def decode(content: bytes, *, size: tuple[int, int], channels: str, max_pixels: int) -> NDArray[np.uint8]:
    """uint8 (C, H, W) of `size` (height, width), from a PNG, JPEG or WebP file.

    An image of another size is resized bilinearly with antialiasing. Gray becomes colour and colour gray as `channels`
    ("RGB" or "L") asks; transparency is dropped, as torchvision's image folder does. Raises `Undecodable`.
    """
    height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise Undecodable(f"{image.width}×{image.height} pixels, at most {max_pixels} are decoded")
        if image.mode not in MODES:
            raise Undecodable(f"pixels in the format {image.mode}; 8 bits per value are expected")
        image = image.convert(channels)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise Undecodable("not a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(f"more than {max_pixels} pixels") from error
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error) as error:
        raise Undecodable(str(error) or type(error).__name__) from error
    return np.ascontiguousarray(np.array(image).reshape(height, width, -1).transpose(2, 0, 1))
