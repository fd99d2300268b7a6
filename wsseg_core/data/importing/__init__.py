"""Data sets of other forms, written as a devkit: a reader a form, and one writer (`writer`).

A reader is a function from a path, and names of classes, to `dataset.ImportedData`; a form is one file and one line in
`FORMS`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from wsseg_core.data.images import DevkitError
from wsseg_core.data.importing import coco, coloured, folders, labelme, table
from wsseg_core.data.importing.dataset import ImportedData, is_image


class Form(NamedTuple):
    """A form of data sets.

    Attributes:
        words: what it is called in sentences.
        recognises: whether a path looks like it.
        read: reads it; see the modules.
    """

    words: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Sequence[str]], ImportedData]


FORMS = {
    "folders": Form("folders by class", folders.recognises, folders.read),
    "cyclegan": Form("CycleGAN's trainA and trainB", folders.recognises_domains, folders.read_domains),
    "table": Form("a table of labels (CSV, TSV, JSON)", table.recognises, table.read),
    "cvat": Form("CVAT's segmentation masks 1.1", coloured.recognises_cvat, coloured.read_cvat),
    "labelme": Form("labelme's JSON files", labelme.recognises, labelme.read),
    "labelme-voc": Form("labelme's VOC conversion", coloured.recognises_labelme, coloured.read_labelme),
    "coco": Form("COCO's JSON", coco.recognises, coco.read),
}


EXAMPLES = ("horse/1.jpg and zebra/2.jpg", "one folder with a table labels.csv")  # of the forms of most people


def read_dataset(path: Path, kind: str = "", names: Sequence[str] = ()) -> tuple[str, ImportedData]:
    """Read a data set, whose form is found out where it is not named.

    Args:
        path: a folder or a file.
        kind: a key of `FORMS`; empty to find out.
        names: of the classes, see the readers.

    Returns:
        The kind, and what was read.

    Raises:
        DevkitError: nothing at the path, a form that is not known or not clear, or whatever is wrong with the files.
    """
    known = ", ".join(FORMS)
    if not path.exists():
        raise DevkitError(path, "nothing is there", "give the folder or the file of a data set")
    if kind and kind not in FORMS:
        raise DevkitError(path, f"no kind {kind!r} of data sets", f"use one of {known}")
    if not kind:
        found = [name for name, form in FORMS.items() if form.recognises(path)]
        if len(found) != 1 and (path / "JPEGImages").is_dir() and (path / "ImageSets").is_dir():
            raise DevkitError(path, "is a devkit already", f"look at it with `wsseg data check {path}`")
        if not found and path.is_dir() and not any(map(is_image, path.rglob("*"))):
            raise DevkitError(path, "holds no images", f"put them there, as {', or as '.join(EXAMPLES)}")
        if not found:
            raise DevkitError(path, "is a data set of no form that is known", f"name one with --kind: {known}")
        if len(found) > 1:
            raise DevkitError(path, f"may be {' or '.join(found)}", "say which with --kind")
        (kind,) = found
    if path.is_file() and kind in ("folders", "cyclegan"):
        raise DevkitError(path, f"is a file, and {FORMS[kind].words} are folders", "give the folder that holds them")
    data = FORMS[kind].read(path, names)
    if not data.images or not data.classes:
        raise DevkitError(path, f"as {kind}, it has no {'classes' if data.images else 'images'}", "name another --kind")
    return kind, data
