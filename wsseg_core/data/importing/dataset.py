"""What every reader returns, and what readers share: files of images, names of splits, JSON.

Nothing here knows a form. An image has a path, the names of its classes, and a mask where its form draws one.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wsseg_core.data.images import VOID, DevkitError
from wsseg_core.data.voc import NO_CLASS, SUFFIXES

RECORD = "import.json"  # in a devkit that was imported: from where, and which files
CONVERTED = (".webp", ".bmp")  # written as PNG, as a devkit has none
OTHER_PICTURES = (".heic", ".heif", ".avif", ".gif", ".raw", ".dng", ".cr2", ".nef", ".psd", ".svg", ".jp2")
SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "train2014", "train2017"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "val2014", "val2017"), "val"),
    **dict.fromkeys(("test", "testing", "test2014", "test2017"), "test"),
}

Mask = Callable[[], np.ndarray]


@dataclass(frozen=True)
class ImportedImage:
    """One image of a data set.

    Attributes:
        path: its file.
        labels: names of the classes in it; none at all for an image of background.
        split: "train", "val" or "test"; empty where the form gives none.
        mask: gives its mask, uint8 (H, W): 0 background, i + 1 for `ImportedData.classes[i]`, 255 void; None where
            nothing was drawn.
    """

    path: Path
    labels: frozenset[str]
    split: str = ""
    mask: Mask | None = None


@dataclass(frozen=True)
class ImportedData:
    """What a reader found.

    Attributes:
        source: what was read.
        classes: names, in the order of the values in the masks.
        images: in the order of the form.
        notes: what a person should know before anything is written: what was left out, what was guessed.
    """

    source: Path
    classes: tuple[str, ...]
    images: tuple[ImportedImage, ...]
    notes: tuple[str, ...] = ()


def split_name(text: str) -> str:
    """ "train", "val" or "test" for what folders and lists call them; empty for any other word."""
    return SPLITS.get(text.strip().lower(), "")


def source_files(folder: Path, below: bool = True) -> list[Path]:
    """The files in a folder that may belong to a data set, sorted.

    Hidden files, what archives of a Mac bring along, and what an import into a folder below wrote do not count.

    Args:
        folder: where to look.
        below: and in its folders.
    """
    imports = {record.parent for record in folder.rglob(RECORD) if record.parent != folder and is_import(record.parent)}
    return [
        path
        for path in sorted(folder.rglob("*") if below else folder.iterdir())
        if path.is_file() and not _is_hidden(path, folder) and imports.isdisjoint(path.parents)
    ]


def image_files(folder: Path, below: bool = True) -> list[Path]:
    """The images among `source_files`.

    Raises:
        DevkitError: a picture of a kind that is not read, such as HEIC.
    """
    files = source_files(folder, below)
    for path in files:
        if path.suffix.lower() in OTHER_PICTURES:
            raise DevkitError(path, f"a {path.suffix} picture, which is not read", "save it as JPEG or PNG, or move it")
    return [path for path in files if is_image(path)]


def is_import(folder: Path) -> bool:
    """Whether a folder is a devkit that `writer` made of a data set."""
    try:
        return {"kind", "source", "files"} <= json.loads((folder / RECORD).read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def is_image(path: Path) -> bool:
    """Whether a name ends as those of the images that are read."""
    return path.suffix.lower() in (*SUFFIXES, *CONVERTED)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


class ImageFinder:
    """Finds the files that a table or an annotation names, below a folder.

    Args:
        root: the folder.
        without: names of folders in it that hold masks and other pictures.
    """

    def __init__(self, root: Path, without: Sequence[str] = ()) -> None:
        self.root = root
        inside = [path for path in image_files(root) if not set(path.relative_to(root).parts[:-1]) & set(without)]
        self.files = inside
        self._named: dict[str, list[Path]] = defaultdict(list)
        for path in inside:
            for name in {path.name, path.stem}:
                self._named[name].append(path)

    def find(self, name: str, prefer: str = "") -> Path | None:
        """The file of an image, by its path from anywhere, its name, or its name without extension; None if missing.

        Args:
            name: as the form has it.
            prefer: a word, such as a split, that is in the path of the right one of several.

        Raises:
            DevkitError: several files have that name.
        """
        wanted = Path(name.strip().replace("\\", "/"))
        found = self._named.get(wanted.name, [])
        for length in range(len(wanted.parts), 0, -1):  # the more of the path agrees, the better
            tail = wanted.parts[-length:-1]
            agreeing = [path for path in found if path.parts[len(path.parts) - length : -1] == tail]
            agreeing = [path for path in agreeing if path.name == wanted.name] or agreeing
            agreeing = [path for path in agreeing if prefer in path.parts] or agreeing
            if len(agreeing) > 1:
                wrong = f"{name!r} may also be {agreeing[1]}"
                raise DevkitError(agreeing[0], wrong, "give the folder with the name, or rename one of them")
            if agreeing:
                return agreeing[0]
        return None


def left_out(finder: ImageFinder, images: Iterable[ImportedImage], which: str) -> tuple[str, ...]:
    """The note of the images below the folder that a form does not name, where there are any."""
    count = len(set(finder.files) - {image.path for image in images})
    return (f"{count} images {which} are left out",) if count else ()


def check_class(name: str, source: Path, remedy: str) -> str:
    """A name of a class, without spaces around it.

    Raises:
        DevkitError: it is empty, of several lines, or a word for what is no object, such as background.
    """
    name = name.strip()
    if not name or "\n" in name:
        raise DevkitError(source, f"{name!r} is no name of a class", remedy)
    if is_no_class(name):
        raise DevkitError(source, f"{name!r} is no class, as what no class covers is background without a name", remedy)
    return name


def is_no_class(name: str) -> bool:
    """Whether a name means background or void."""
    return name.strip("_ ").lower() in NO_CLASS


def value_of_no_class(name: str) -> int:
    """The value of a mask for a name that is no class: 0 for background, 255 for all others."""
    return 0 if name.strip("_ ").lower() == "background" else VOID


def sorted_names(names: set[str] | frozenset[str]) -> tuple[str, ...]:
    """Names in the order in which a person looks for them: `part 2` before `part 10`, capitals beside small letters."""

    def key(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name.casefold())]

    return tuple(sorted(names, key=lambda name: (key(name), name)))


@lru_cache(maxsize=64)
def _parsed(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))


def read_json(path: Path) -> Any:
    """What a JSON file holds; not to be changed, as it is kept for whoever asks next.

    Raises:
        DevkitError: it is no JSON.
    """
    try:
        return _parsed(path)
    except (ValueError, OSError, RecursionError) as error:
        raise DevkitError(path, f"is not valid JSON ({error})", "export it again") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        DevkitError: another encoding, or a file that cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DevkitError(path, f"cannot be read as text ({error})", "save it as UTF-8") from None


@contextmanager
def shaped_like(form: str, path: Path) -> Iterator[None]:
    """Turn whatever trips over a value that is missing or of another type into one line that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DevkitError(path, f"is not laid out as {form} ({reason})", "export it again") from None
