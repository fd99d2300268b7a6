"""Image files: any of them as RGB, masks in VOC's colours, and what is said of a file that is not fit.

The colour map is that of Everingham et al., "The Pascal Visual Object Classes Challenge 2012".
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically

VOID = 255  # value of a mask that is never scored
REPLACE_IMAGE = "replace it with a whole JPEG or PNG"


def _voc_palette() -> np.ndarray:
    """VOC's colour map: bits 0, 1, 2 of a label are the highest bits of R, G, B; bits 3, 4, 5 the next ones; ..."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for level in range(3):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * level + channel)) & 1) << (7 - level)).astype(np.uint8)
    return palette


VOC_PALETTE = _voc_palette()  # (256, 3)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a devkit: in which file, what, and what to do about it."""

    file: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.wrong}; {self.remedy}"


class DevkitError(WorkbookError):
    """A `Problem` that stops whoever wanted to read the file."""

    def __init__(self, file: Path | str, wrong: str, remedy: str) -> None:
        super().__init__(file, wrong, remedy)  # all three, so that the error survives the way back from a worker
        self.problem = Problem(str(file), wrong, remedy)

    def __str__(self) -> str:
        return str(self.problem)


@contextmanager
def opened(path: Path, remedy: str) -> Iterator[Image.Image]:
    """Open an image file; whatever its decoder trips over becomes a `DevkitError`."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DevkitError(path, f"cannot be decoded ({reason})", remedy) from None


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB, (H, W, 3) uint8.

    Greyscale is repeated in all channels, an alpha channel is dropped, CMYK is converted. An EXIF orientation
    is ignored, as the masks of VOC know nothing of it.

    Raises:
        DevkitError: the file is not an image, or is cut short.
    """
    with opened(path, REPLACE_IMAGE) as image:
        return np.array(image.convert("RGB"))


def write_palette_png(path: Path, mask: np.ndarray) -> None:
    """Write a mask, (H, W) uint8, as a PNG with VOC's colour map, atomically.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    image = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    image.putpalette(VOC_PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
