"""Reader of Pascal VOC 2012 devkits, and of every data set laid out like one.

    <root>/JPEGImages/ID.jpg                       images (.jpeg, .png and .tif are read too, in capitals as well)
    <root>/Annotations/ID.xml  or  labels.csv      image-level labels
    <root>/SegmentationClass/ID.png                masks, read by `masks` alone
    <root>/SegmentationParts/ID.png                part masks, where the data set has them
    <root>/ImageSets/Segmentation/SPLIT.txt        one id a line
    <root>/classes.txt                             one class a line; without it the 20 classes of VOC

Sources: Everingham et al., "The Pascal Visual Object Classes Challenge 2012", for layout, classes and colour
map; Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011, for the additional masks (SBD).
"""

import csv
import difflib
import glob
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from wsseg_core.data.images import VOID, DevkitError, image_size, read_image

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
TRAIN_AUG_COUNT = 10_582  # VOC train (1,464) and SBD (11,355) together, without VOC val (1,449)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
# What surrounds an id in the lists of other tools: folders of a devkit, an extension, or whatever follows a separator.
MORE_THAN_AN_ID = re.compile(r"^(.*[/\\])?JPEGImages[/\\]|[;|\t ].*$|\.(jpe?g|png|tiff?)\b.*$", re.IGNORECASE)
IMAGE_SUFFIXES = (*SUFFIXES, *map(str.upper, SUFFIXES))  # the frequent ones first
REFETCH = "delete its folder and run `wsseg data fetch voc`"
NO_CLASS = ("background", "void", "ignore", "unlabelled", "unlabeled")  # as labelling tools call what is no object
CHOICE = "data.classes of the profile"
GET_DATA = "draw the toy devkit with `wsseg data toyvoc`, or download VOC with `wsseg data fetch voc`"


class VocDevkit:
    """Images, image-level labels and splits of a devkit. It has no way to a mask: that is in `masks`.

    A devkit may be opened with some of its classes only. The others are then background wherever they are read:
    `labels` and the masks of `masks` know the chosen ones alone, in the order in which they were asked for.

    Attributes:
        root: folder of the devkit.
        all_classes: the foreground classes of the files; value i + 1 of a stored mask is `all_classes[i]`.
        classes: those that the devkit was opened with; value i + 1 of a mask as it is read is `classes[i]`.
    """

    def __init__(self, root: Path | str, classes: Sequence[str] = ()) -> None:
        """Open a devkit.

        Args:
            root: its folder.
            classes: some of its classes; all of them, in its own order, when left out.

        Raises:
            DevkitError: there is none at `root`, it lacks a class asked for, or a list of classes is empty, names
                one twice or the background, or has more than 254.
        """
        self.root = Path(root)
        if not (self.root / "JPEGImages").is_dir():
            raise DevkitError(self.root, "no devkit here (it has no JPEGImages folder)", GET_DATA)
        self.all_classes = _read_classes(self.root / "classes.txt")
        check_classes(classes, CHOICE)
        self.classes = tuple(classes) or self.all_classes
        self._chosen = [self._index(name, CHOICE) for name in self.classes]

    @property
    def num_classes(self) -> int:
        """Foreground classes, C."""
        return len(self.classes)

    @property
    def class_list(self) -> str:
        """The classes in words, for captions: `all 20 classes`, or `2 of 20 classes (cat, dog)`."""
        if self.classes == self.all_classes:
            return f"all {self.num_classes} classes"
        return f"{self.num_classes} of {len(self.all_classes)} classes ({', '.join(self.classes)})"

    @property
    def mask_values(self) -> np.ndarray:
        """What each value of a stored mask is read as, uint8 (256,): i + 1 for `classes[i]`, else 0; void stays."""
        values = np.zeros(256, np.uint8)
        values[np.array(self._chosen) + 1] = np.arange(1, self.num_classes + 1)
        values[VOID] = VOID
        return values

    def split_file(self, split: str) -> Path:
        """Where the ids of a split are listed."""
        return self.root / "ImageSets" / "Segmentation" / f"{split}.txt"

    def splits(self) -> list[str]:
        """Names of the splits that have a file, sorted."""
        return sorted(path.stem for path in self.split_file("*").parent.glob("*.txt"))

    def ids(self, split: str) -> list[str]:
        """Image ids of a split, in the order of its file.

        `train_aug` is derived when it has no file: VOC train and both lists of SBD without VOC val, sorted. SBD is
        looked for in `benchmark_RELEASE/dataset` beside the `VOCdevkit` folder (`<root>/../../`, where the archives
        put it), then in `<root>/sbd`.

        Raises:
            DevkitError: the split has no file, is empty, lists paths in place of ids, or is a train_aug of VOC that
                has not 10,582 ids.
        """
        path = self.split_file(split)
        if path.exists():
            ids = _read_lines(path)
            self._check_ids(ids, path, "with nothing before or behind it")
            return ids
        if split == "train_aug":
            return self._derive_train_aug()
        known = ", ".join(self.splits()) or "none"
        raise DevkitError(path, "missing split file", f"write one id a line into it, or use another split ({known})")

    def _derive_train_aug(self) -> list[str]:
        if self.sbd_folder is None:
            raise DevkitError(
                self.split_file("train_aug"),
                "missing, and SBD, from which it is derived, is neither in ../../benchmark_RELEASE/dataset nor in sbd",
                "download it with `wsseg data fetch voc`, or write the split file",
            )
        additional = {i for part in ("train", "val") for i in _read_lines(self.sbd_folder / f"{part}.txt")}
        ids = sorted((set(self.ids("train")) | additional) - set(self.ids("val")))
        # A small tree in the layout of VOC, as a trial run uses it, has any number of ids.
        if self.all_classes == VOC_CLASSES and len(ids) > 1000 and len(ids) != TRAIN_AUG_COUNT:
            raise DevkitError(
                self.sbd_folder,
                f"train_aug derived from these lists has {len(ids):,} ids, not {TRAIN_AUG_COUNT:,}",
                REFETCH,
            )
        return ids

    @cached_property
    def sbd_folder(self) -> Path | None:
        """SBD's `dataset` folder, if there is one; `ids` says where it is looked for."""
        root = self.root.resolve()
        places = (root.parent.parent / "benchmark_RELEASE" / "dataset", root / "sbd")
        return next((place for place in places if (place / "train.txt").is_file()), None)

    def _check_ids(self, entries: Iterable[str], source: Path, remedy: str) -> None:
        """Refuse lists of files: what is no id while a part of it is one; and what leads out of the devkit."""
        for entry in entries:
            meant = MORE_THAN_AN_ID.sub("", entry)
            if meant != entry and not _leads_out(meant) and self._find_image(meant) and not self._find_image(entry):
                raise DevkitError(source, f"{entry!r} is no image id", f"write {meant!r}, {remedy}")
            if _leads_out(entry):
                where = "put the image into JPEGImages, and write its name without extension"
                raise DevkitError(source, f"{entry!r} leads out of JPEGImages", where)

    def _find_image(self, image_id: str) -> Path | None:
        stem = self.root / "JPEGImages" / image_id
        paths = (stem.with_name(stem.name + suffix) for suffix in IMAGE_SUFFIXES)
        return next((path for path in paths if path.is_file()), None) if stem.name else None

    def image_path(self, image_id: str) -> Path:
        """File of an image.

        Raises:
            DevkitError: there is none.
        """
        if path := self._find_image(image_id):
            return path
        stem = self.root / "JPEGImages" / image_id
        if others := [path for path in stem.parent.glob(f"{glob.escape(stem.name)}.*") if path.stem == stem.name]:
            raise DevkitError(others[0], "a kind of file that is not read", "save it as JPEG, PNG or TIFF")
        raise DevkitError(f"{stem}.jpg", "missing image", "restore it, or take its id out of ImageSets/Segmentation")

    def image(self, image_id: str) -> np.ndarray:
        """An image, (H, W, 3) uint8 RGB; `read_image` says how others become RGB.

        Raises:
            DevkitError: the image is missing or cannot be decoded.
        """
        return read_image(self.image_path(image_id))

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of an image, from the header of its file alone; errors are those of `image`."""
        return image_size(self.image_path(image_id))

    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels, (C,) uint8, 1 where the class is in the image.

        All annotated objects count, those marked difficult too, as is the custom in weakly supervised segmentation
        (for instance in the labels published with Ahn & Kwak, "Learning Pixel-level Semantic Affinity with
        Image-level Supervision", CVPR 2018): the masks show difficult objects as well. A devkit without
        Annotations may have a `labels.csv` of lines `id,class,class,...` instead; several lines of an image are united.

        Raises:
            DevkitError: no labels for this image, malformed XML, or an unknown class.
        """
        if (self.root / "Annotations").is_dir():
            source = self.root / "Annotations" / f"{image_id}.xml"
            names = _annotated_names(source)
        else:
            source = self.root / "labels.csv"
            if image_id not in self._label_table:
                raise DevkitError(source, f"no line for image {image_id}", f"add a line `{image_id},class,...`")
            names = self._label_table[image_id]
        vector = np.zeros(len(self.all_classes), np.uint8)
        vector[[self._index(name, source) for name in names]] = 1
        return vector[self._chosen]

    def label_matrix(self, ids: Iterable[str]) -> np.ndarray:
        """Labels of many images, (n, C) uint8; `labels` names the errors."""
        rows = [self.labels(image_id) for image_id in ids]
        return np.array(rows, np.uint8).reshape(-1, self.num_classes)

    @cached_property
    def _label_table(self) -> dict[str, list[str]]:
        path = self.root / "labels.csv"
        if not path.exists():
            remedy = "write it, one line `ID,class,class,...` an image, or one XML of VOC an image into Annotations"
            raise DevkitError(path, "neither this file nor an Annotations folder is there", remedy)
        table: dict[str, list[str]] = {}
        for row in _csv_rows(path):
            names = [name.strip() for name in row[1:] if name.strip()]
            table.setdefault(row[0].strip(), []).extend(names)
            if not set(self.all_classes).issuperset(names) and {"0", "1"}.issuperset(names):
                remedy = f"name the classes instead: `{row[0]},class,class,...`"
                raise DevkitError(path, f"the line of {row[0]} has 0 and 1 in place of classes", remedy)
        self._check_ids(table, path, "and a comma before each class")
        return table

    def _index(self, name: str, source: Path | str) -> int:
        if name not in self.all_classes:
            if source != CHOICE and not (self.root / "classes.txt").exists():
                remedy = f"write {self.root / 'classes.txt'}; without it the classes are the 20 of VOC"
                raise DevkitError(source, f"unknown class {name!r}", remedy)
            near = difflib.get_close_matches(name, self.all_classes, n=1, cutoff=0)[0]
            raise DevkitError(source, f"unknown class {name!r}", f"the nearest one in {self.root} is {near!r}")
        return self.all_classes.index(name)


def _leads_out(image_id: str) -> bool:
    """Whether an id is a path to another folder, where what is stored of the image would lie, too."""
    path = PurePosixPath(image_id)
    return path.is_absolute() or ".." in path.parts


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_read_lines(path))
    except csv.Error as error:
        remedy = "look for a quotation mark that is not closed"
        raise DevkitError(path, f"not a table of commas ({error})", remedy) from None


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return VOC_CLASSES
    names = tuple(_read_lines(path))
    check_classes(names, path)
    return names


def check_classes(names: Sequence[str], source: Path | str) -> None:
    """Refuse a list of classes that masks of 8 bits cannot have.

    Raises:
        DevkitError: a name twice, a name for background or void, or more than 254 names.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise DevkitError(source, f"lists the class {name!r} {count} times", "keep one of them")
        if name.strip("_ ").lower() in NO_CLASS:
            wrong = f"{name!r} is no class: background is 0 in a mask and void {VOID}, without a name"
            raise DevkitError(source, wrong, "take it out, so that the first class is value 1 of the masks")
    if len(names) >= VOID:
        raise DevkitError(source, f"{len(names)} classes", f"use at most {VOID - 1}, as a mask has 8 bits")


def _read_lines(path: Path) -> list[str]:
    """Lines of a text file, without the empty ones."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DevkitError(path, f"cannot be read as text ({error})", "restore it") from None
    filled = [line.strip() for line in lines if line.strip()]
    if not filled:
        raise DevkitError(path, "is empty", "write one entry a line")
    return filled


def _annotated_names(path: Path) -> list[str]:
    """Class names of all objects in a VOC annotation; those of parts, such as "head", lie deeper and do not count."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except OSError:
        raise DevkitError(path, "missing annotation", "restore it, or take its id out of the splits") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DevkitError(path, f"malformed XML ({error})", "restore the file") from None
    return [(item.findtext("name") or "").strip() for item in objects]
