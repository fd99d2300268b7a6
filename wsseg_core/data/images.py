"""Image files: any of them as RGB, masks in VOC's colours, and what is said of a file that is not fit.

The colour map is that of Everingham et al., "The Pascal Visual Object Classes Challenge 2012".
"""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically

VOID = 255  # value of a mask that is never scored
REPLACE_IMAGE = "replace it with a whole JPEG or PNG"
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


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


def gathered(problems: Iterable[Problem], many: int = 10) -> list[Problem]:
    """The problems, each once; of many files in one folder with the same one, a line with their number and examples."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        texts = (re.sub(r"\d+", "0", text) for text in (problem.wrong, problem.remedy))  # sizes, labels, ids
        groups.setdefault((str(Path(problem.file).parent), *texts), []).append(problem)
    return [line for group in groups.values() for line in (group if len(group) < many else [_together(group)])]


def _together(group: Sequence[Problem]) -> Problem:
    first, files = group[0], list(dict.fromkeys(Path(problem.file) for problem in group))
    if len(files) == 1:  # a list, of which many lines are wrong
        return Problem(first.file, f"{first.wrong}, and {len(group) - 1} more of the kind", first.remedy)
    names = ", ".join(path.name for path in files[:3])
    return Problem(str(files[0].parent), f"{len(group)} files, for instance {names}: {first.wrong}", first.remedy)


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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        wrong = f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise DevkitError(path, wrong, "scale the image down, or cut it into several") from None
    except FileNotFoundError:
        raise DevkitError(path, "no such file", "give the path of an image") from None
    except IsADirectoryError:
        raise DevkitError(path, "is a folder", "name the images in it") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DevkitError(path, f"cannot be decoded ({reason})", remedy) from None


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB, (H, W, 3) uint8, turned as a person sees it (EXIF orientation).

    Greyscale is repeated in all channels, transparency is dropped, CMYK is converted. Of 16 bits the upper 8 are
    kept, so that 65,535 becomes 255; numbers of 32 bits have no such range and are refused.

    Raises:
        DevkitError: the file is not an image, is cut short, has 32 bits a channel, or too many pixels.
    """
    with opened(path, REPLACE_IMAGE) as image:
        if image.mode in ("I", "F"):
            raise DevkitError(path, f"has 32 bits a channel (mode {image.mode})", "save it with 8 or 16 bits")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return np.array(upright.convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of what `read_image` gives, from the header alone; errors are those of `read_image`."""
    with opened(path, REPLACE_IMAGE) as image:
        width, height = image.size
        return (width, height) if orientation(image) in SIDEWAYS else (height, width)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


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
