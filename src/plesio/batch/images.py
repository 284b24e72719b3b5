"""The bytes of an image as an array: H x W x 3, uint8, the way up it is meant to be seen. Nothing about files or folders.

All images are RGB, as torchvision has them, so that they can be stacked: grey is three equal channels, what is transparent
has the colour behind its transparency, 16 bits of grey are its upper 8, and of an animation it is the first frame.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from plesio.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # Pillow knows more, and runs a program for some of them
WIDE = ("I", "F")  # modes of pixels of which nobody says what is white


def need() -> None:
    """Raises UserError where images cannot be decoded."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UserError("images need Pillow, which is not installed: pip install 'plesio[data]'") from error


def decode(data: bytes) -> Any:
    """Its pixels: uint8, (height, width, 3), writable. Raises ValueError for what is broken, no image, or too large.

    Too large: more pixels than PIL.Image.MAX_IMAGE_PIXELS, which a program may set; it is not decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if most is None or pixels <= most:
                return _rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(FORMATS)}, or its head is broken") from error
    except Exception as error:  # a process edge: whatever the decoders of a dozen formats raise for broken bytes
        raise ValueError(f"it cannot be decoded: {error or type(error).__name__}") from error
    raise ValueError(f"it has {pixels:,} pixels, and PIL.Image.MAX_IMAGE_PIXELS allows {most:,}")


def _rgb(image: Image.Image) -> Any:
    import numpy
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in WIDE:
        raise ValueError(f"its pixels are of mode {upright.mode}, of which nobody says what is white")
    if upright.mode.startswith("I;16"):  # Pillow would make everything above 255 white
        upright = Image.fromarray((numpy.asarray(upright) >> 8).astype(numpy.uint8))
    upright.info.pop("transparency", None)
    return numpy.array(upright.convert("RGB"))
