"""Reader of Pascal VOC 2012 devkits, and of every data set laid out like one.

    <root>/JPEGImages/ID.jpg                       images (.jpeg and .png are read too)
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
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from wsseg_core.data.images import DevkitError, read_image

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
TRAIN_AUG_COUNT = 10_582  # VOC train (1,464) and SBD (11,355) together, without VOC val (1,449)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
REFETCH = "delete its folder and run `wsseg data fetch voc`"
GET_DATA = "draw the toy devkit with `wsseg data toyvoc`, or download VOC with `wsseg data fetch voc`"


class VocDevkit:
    """Images, image-level labels and splits of a devkit. It has no way to a mask: that is in `masks`.

    Attributes:
        root: folder of the devkit.
        classes: names of the foreground classes; a mask's value of `classes[i]` is i + 1.
    """

    def __init__(self, root: Path | str) -> None:
        """Open a devkit.

        Raises:
            DevkitError: there is none at `root`, or its classes.txt is empty.
        """
        self.root = Path(root)
        if not (self.root / "JPEGImages").is_dir():
            raise DevkitError(self.root, "no devkit here (it has no JPEGImages folder)", GET_DATA)
        class_file = self.root / "classes.txt"
        self.classes = tuple(_read_lines(class_file)) if class_file.exists() else VOC_CLASSES

    @property
    def num_classes(self) -> int:
        """Foreground classes, C."""
        return len(self.classes)

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
            DevkitError: the split has no file, is empty, or is a train_aug of VOC that has not 10,582 ids.
        """
        path = self.split_file(split)
        if path.exists():
            return _read_lines(path)
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
        if self.classes == VOC_CLASSES and len(ids) > 1000 and len(ids) != TRAIN_AUG_COUNT:
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

    def image_path(self, image_id: str) -> Path:
        """File of an image.

        Raises:
            DevkitError: there is none.
        """
        stem = self.root / "JPEGImages" / image_id
        for suffix in IMAGE_SUFFIXES:
            if (path := stem.with_name(stem.name + suffix)).is_file():
                return path
        raise DevkitError(f"{stem}.jpg", "missing image", "restore it, or take its id out of ImageSets/Segmentation")

    def image(self, image_id: str) -> np.ndarray:
        """An image, (H, W, 3) uint8 RGB; `read_image` says how others become RGB.

        Raises:
            DevkitError: the image is missing or cannot be decoded.
        """
        return read_image(self.image_path(image_id))

    def labels(self, image_id: str) -> np.ndarray:
        """Image-level labels, (C,) uint8, 1 where the class is in the image.

        All annotated objects count, those marked difficult too, as is the custom in weakly supervised segmentation
        (for instance in the labels published with Ahn & Kwak, "Learning Pixel-level Semantic Affinity with
        Image-level Supervision", CVPR 2018): the masks show difficult objects as well. A devkit without
        Annotations may have a `labels.csv` of lines `id,class,class,...` instead.

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
        vector = np.zeros(self.num_classes, np.uint8)
        vector[[self._index(name, source) for name in names]] = 1
        return vector

    def label_matrix(self, ids: Iterable[str]) -> np.ndarray:
        """Labels of many images, (n, C) uint8; `labels` names the errors."""
        rows = [self.labels(image_id) for image_id in ids]
        return np.array(rows, np.uint8).reshape(-1, self.num_classes)

    @cached_property
    def _label_table(self) -> dict[str, list[str]]:
        path = self.root / "labels.csv"
        if not path.exists():
            raise DevkitError(path, "neither this file nor an Annotations folder is there", GET_DATA)
        rows = csv.reader(_read_lines(path))
        return {row[0].strip(): [name.strip() for name in row[1:] if name.strip()] for row in rows}

    def _index(self, name: str, source: Path) -> int:
        if name not in self.classes:
            near = difflib.get_close_matches(name, self.classes, n=1, cutoff=0)[0]
            raise DevkitError(source, f"unknown class {name!r}", f"the nearest known one is {near!r}")
        return self.classes.index(name)


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
