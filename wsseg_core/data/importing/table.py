"""A table of image-level labels: CSV, TSV or JSON, in any of its usual shapes.

    horse_1.jpg,horse            a line an image or an object; comma, semicolon or tab; with a header or without
    a.jpg,"cat, dog"             several labels in one cell, between commas, semicolons or bars
    image,cat,dog / a.jpg,1,0    a column a class
    {"a.jpg": ["cat", "dog"]}    JSON: a dictionary, or a list of records with the columns above

Several lines of an image are united. Columns that are called `split` or `set` give the split.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from wsseg_core.data.images import DevkitError
from wsseg_core.data.importing.dataset import (
    ImageFinder,
    ImportedData,
    ImportedImage,
    check_class,
    is_image,
    left_out,
    read_json,
    read_text,
    sorted_names,
    split_name,
)

SUFFIXES = (".csv", ".tsv", ".json")
DELIMITERS = ",;\t"
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_name", "category", "categories"),
    *("tag", "tags", "object", "objects", "species", "name"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
YES, NO = ("1", "1.0", "true", "yes", "x"), ("0", "0.0", "-1", "false", "no", "")
MEND = "correct the name, add the image, or take the line out"


class Table(NamedTuple):
    """Rows of cells, each a text or a list of texts; `header` is empty where there is none."""

    header: tuple[str, ...]
    rows: list[list[Any]]


def recognises(path: Path) -> bool:
    """Whether this is a table, or a folder with just one table and images."""
    table = _table_file(path)
    return table is not None and not _is_other_json(table)


def read(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """The images that a table names, found below its folder.

    Args:
        path: the table, or the folder that holds it.
        names: the classes that are wanted, if not all.

    Raises:
        DevkitError: a table that cannot be understood, or an image that is missing.
    """
    if (file := _table_file(path)) is None:
        raise DevkitError(path, "no table of labels here, or several", "name the file itself")
    finder = ImageFinder(file.parent, ("masks", "SegmentationClass", "annotations"))
    table = _read_json_table(file) if file.suffix.lower() == ".json" else _read_csv_table(file, finder)
    column = _image_column(table, finder, file)
    table = _with_header(table, column, finder)
    if not table.rows:
        raise DevkitError(file, "has no line with an image", "write a line an image")
    splits = [i for i, name in enumerate(table.header) if name.lower() in SPLIT_COLUMNS]
    others = [i for i in range(_width(table)) if i != column and i not in splits]
    labels = _labels_of_rows(table, others, file)
    images: dict[Path, ImportedImage] = {}
    for row, found in zip(table.rows, labels, strict=True):
        split = next((split_name(str(_cell(row, i))) for i in splits), "")
        image = finder.find(str(_cell(row, column)), prefer=split)
        if image is None:
            raise DevkitError(file, f"names the image {_cell(row, column)!r}, which is not below {file.parent}", MEND)
        before = images.get(image, ImportedImage(image, frozenset(), split))
        if before.split != split:
            raise DevkitError(file, f"has {row[column]!r} in {before.split} and in {split}", "keep one of the lines")
        images[image] = ImportedImage(image, before.labels | found, split)
    shown = frozenset[str]().union(*labels)
    for name in shown:
        check_class(name, file, "leave its cell empty: an image without labels shows none of the classes")
    if unknown := [name for name in names if name not in shown]:
        raise DevkitError(file, f"names no class {unknown[0]!r}", f"use --names of {', '.join(sorted(shown))}")
    if names:
        images = {path: replace(image, labels=image.labels & set(names)) for path, image in images.items()}
    notes = left_out(finder, images.values(), "that the table does not name")
    return ImportedData(file, tuple(names) or sorted_names(shown), tuple(images.values()), notes)


def _table_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    inside = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
    return inside[0] if len(inside) == 1 else None


def _is_other_json(file: Path) -> bool:
    """Whether this is the JSON of COCO or labelme."""
    if file.suffix.lower() != ".json":
        return False
    value = read_json(file)
    return isinstance(value, dict) and ("annotations" in value or "shapes" in value)


def _read_csv_table(file: Path, finder: ImageFinder) -> Table:
    """Cells by the delimiter under which most lines name an image."""
    text = read_text(file)

    def split(delimiter: str) -> list[list[Any]]:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]

    def images(rows: list[list[Any]]) -> tuple[int, bool]:
        known = sum(any(_names_image(cell, finder) for cell in row) for row in rows)
        return known, any(len(row) > 1 for row in rows)

    try:
        return Table((), max(map(split, DELIMITERS), key=images))
    except csv.Error as error:
        raise DevkitError(file, f"is no table ({error})", "save it as CSV again") from None


def _read_json_table(file: Path) -> Table:
    value = read_json(file)
    if isinstance(value, dict) and value:
        if len(value) == 1 and isinstance(inner := next(iter(value.values())), list) and _are_records(inner):
            value = inner  # {"images": [...]}
        elif all(isinstance(labels, dict) for labels in value.values()):
            value = [{"image": image} | labels for image, labels in value.items()]
        else:
            return Table((), [[image, labels] for image, labels in value.items()])
    if not isinstance(value, list) or not _are_records(value):
        wrong = "holds no labels: neither {image: [labels]} nor [{image: ..., labels: [...]}]"
        raise DevkitError(file, wrong, "write it in one of these forms")
    header = tuple(dict.fromkeys(key for record in value for key in record))
    return Table(header, [[record.get(key, "") for key in header] for record in value])


def _are_records(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(record, dict) for record in value)


def _names_image(cell: Any, finder: ImageFinder) -> bool:
    try:
        return isinstance(cell, str) and bool(cell) and finder.find(cell) is not None
    except DevkitError:  # of several images, one of which is meant
        return True


def _image_column(table: Table, finder: ImageFinder, file: Path) -> int:
    """The column in which most cells name an image; one that cannot be found there is told later, by its name."""
    width = _width(table)
    counts = [sum(_names_image(_cell(row, i), finder) for row in table.rows) for i in range(width)]
    if not any(counts):
        example = table.rows[0][0] if table.rows and table.rows[0] else ""
        wrong = f"names no image that is below {file.parent} (its first cell is {example!r})"
        raise DevkitError(file, wrong, "put the table beside its images, and their names into one column")
    return counts.index(max(counts))


def _with_header(table: Table, column: int, finder: ImageFinder) -> Table:
    """Take the first row as header where it names no image, nor looks as if it did."""
    if table.header or not table.rows:
        return table
    first, rest = table.rows[0], table.rows[1:]
    name = str(_cell(first, column))
    elsewhere = {str(_cell(row, i)) for row in rest for i in range(len(row)) if i != column}
    labels = {str(cell) for i, cell in enumerate(first) if i != column}
    if _names_image(name, finder) or is_image(Path(name)) or (labels and labels <= elsewhere):
        return table
    return Table(tuple(map(str, first)), rest)


def _width(table: Table) -> int:
    return max((len(row) for row in table.rows), default=0)


def _cell(row: list[Any], index: int) -> Any:
    value = row[index] if index < len(row) else ""
    return "" if value is None else value


def _labels_of_rows(table: Table, others: Sequence[int], file: Path) -> list[frozenset[str]]:
    """Names of classes of each row, from the columns that can hold them."""
    named = [i for i in others if i < len(table.header) and table.header[i].strip().lower() in LABEL_COLUMNS]
    marked = [i for i in others if all(_is_mark(_cell(row, i)) for row in table.rows)]
    if named or not (marked and table.header):
        if table.header and not named and len(others) != 1:
            known = ", ".join(table.header) or "none"
            raise DevkitError(file, f"which column holds the labels is not clear ({known})", "call it `label`")
        labels = _listed(table, named or others)
        shown = frozenset[str]().union(*labels)
        if not shown:
            raise DevkitError(file, "holds no label", "write the classes of an image behind its name")
        if all(_is_number(name) for name in shown):
            wrong = f"its labels are numbers, for instance {min(shown)}"
            raise DevkitError(file, wrong, "write names of classes, or name the columns of 0 and 1 in a first line")
        return labels
    if marked[-1] >= len(table.header):
        raise DevkitError(file, "has more cells in a line than in its first", "name every column")
    return [frozenset(table.header[i].strip() for i in marked if _mark(_cell(r, i)) in YES) for r in table.rows]


def _mark(cell: Any) -> str:
    return str(cell).strip().lower()


def _is_mark(cell: Any) -> bool:
    return _mark(cell) in YES + NO


def _is_number(name: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", name) is not None


def _listed(table: Table, columns: Sequence[int]) -> list[frozenset[str]]:
    """Labels in cells that may list several.

    Commas, semicolons and bars always separate. A space, a slash or a plus does where the cell is no label by itself
    elsewhere and all its parts are, so that `polar bear` stays one class.
    """
    rows = [[part for i in columns for part in _parts(_cell(row, i))] for row in table.rows]
    alone = {part for row in rows for part in row}

    def split(part: str) -> list[str]:
        pieces = [piece for piece in re.split(r"[\s/+&]+", part) if piece]
        return pieces if len(pieces) > 1 and alone.issuperset(pieces) else [part]

    return [frozenset(piece for part in row for piece in split(part)) for row in rows]


def _parts(cell: Any) -> list[str]:
    if isinstance(cell, list):
        return [part for item in cell for part in _parts(item)]
    if isinstance(cell, dict):  # {"cat": 1, "dog": 0}, or an object with a name
        named = next((cell[key] for key in LABEL_COLUMNS if key in cell), None)
        return _parts(named) if named else [str(name) for name, value in cell.items() if _mark(value) in YES]
    return [part for piece in re.split(r"[,;|]", str(cell)) if (part := piece.strip(" \t[](){}'\""))]
