"""COCO's JSON: labels from the annotations; masks where every annotation of an image has a segmentation.

    annotations/instances_train2017.json, instances_val2017.json     as COCO itself and most tools write it
    train/_annotations.coco.json, valid/_annotations.coco.json       as Roboflow writes it
    any.json                                                         alone

Polygons, in pixels from the upper left corner of the image, have the pixels whose middles they contain; run-length
codes are read in `rle`. Large objects are drawn first, so that small ones lie above them; crowds count as objects. The
split is in the name of the file, or of its folder. Source: <https://cocodataset.org/#format-data>.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from wsseg_core.data.images import DevkitError
from wsseg_core.data.importing.dataset import (
    ImageFinder,
    ImportedData,
    ImportedImage,
    check_class,
    left_out,
    read_json,
    shaped_like,
    split_name,
)
from wsseg_core.data.importing.rle import decode

FORM = "COCO's JSON"


def recognises(path: Path) -> bool:
    """Whether this is such a JSON file, or a folder that has one at the usual places."""
    return bool(_files(path))


def read(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """The images of one JSON file, or of several, which are splits.

    Args:
        path: the file, or the folder of files and images.
        names: the classes that are wanted, in this order; all that occur when left out.

    Raises:
        DevkitError: a file that is not valid, an annotation without its image or category, or an image that is missing.
    """
    files = _files(path)
    root = path if path.is_dir() else next((p for p in (path.parent, path.parent.parent) if ImageFinder(p).files), path)
    finder = ImageFinder(root if root.is_dir() else path.parent, ("masks", "SegmentationClass"))
    categories: dict[str, int] = {}
    listed: list[tuple[Path, str, Path, list[tuple[str, Any]], Mapping[str, Any]]] = []
    for file in files:
        split = _split_of(file)
        with shaped_like(FORM, file):
            for name in _check_references(file):
                categories.setdefault(check_class(name, file, "delete this category and its annotations"), 0)
            for record, objects in _records(file):
                listed.append((file, split, _found(finder, file, record, split), objects, record))
    if names and (unknown := [name for name in names if name not in categories]):
        raise DevkitError(path, f"has no category {unknown[0]!r}", f"use --names of {', '.join(categories)}")
    classes = tuple(names) or tuple(categories)
    any_drawn = any(_is_drawn(item) for *_, objects, _ in listed for _, item in objects)
    images = []
    for file, split, image, objects, record in listed:
        wanted = [(name, item) for name, item in objects if name in classes]
        drawn = any_drawn and all(_is_drawn(item) for _, item in wanted)
        mask = partial(draw, file, record, wanted, classes) if drawn else None
        images.append(ImportedImage(image, frozenset(name for name, _ in wanted), split, mask))
    return ImportedData(path, classes, tuple(images), left_out(finder, images, "that are not in the JSON"))


def draw(
    file: Path, record: Mapping[str, Any], objects: Sequence[tuple[str, Any]], classes: Sequence[str]
) -> np.ndarray:
    """The mask of an image, uint8 (H, W).

    Args:
        file: the JSON, for errors.
        record: of the image.
        objects: names and annotations.
        classes: their order is that of the values.

    Raises:
        DevkitError: a segmentation of another size, or one that cannot be read.
    """
    with shaped_like(f"{FORM} at image {record.get('file_name')!r}", file):
        size = int(record["height"]), int(record["width"])
        drawn = [(_region(item["segmentation"], size), classes.index(name) + 1) for name, item in objects]
    mask = np.zeros(size, np.uint8)
    for region, value in sorted(drawn, key=lambda pair: -int(pair[0].sum())):
        mask[region] = value
    return mask


def _region(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of polygons or of a run-length code."""
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"a mask of {segmentation['size']}, its image {list(size)}")
        return decode(segmentation["counts"], size)
    region = np.zeros(size, bool)
    for polygon in segmentation:
        corners = np.array(polygon, float).reshape(-1, 2)
        if len(corners) < 3:
            raise ValueError(f"a polygon of {len(corners)} points")
        region |= polygon2mask(size, corners[:, ::-1] - 0.5)  # rows, columns; the middle of the first pixel is 0.5
    return region


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _is_coco(path) else []
    places = [*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob("*/_annotations.coco.json")]
    instances = [file for file in places if file.name.startswith("instances")]  # not COCO's captions and keypoints
    return [file for file in sorted(instances or places) if _is_coco(file)]


def _is_coco(file: Path) -> bool:
    value = read_json(file)
    return isinstance(value, dict) and {"images", "annotations"} <= value.keys()


def _split_of(file: Path) -> str:
    words = [*re.split(r"[^A-Za-z0-9]+", file.stem), file.parent.name]
    return next((split for word in words if (split := split_name(word))), "")


def _check_references(file: Path) -> list[str]:
    """Names of the categories that have annotations, in their order; everything that annotations name must be there."""
    value = read_json(file)
    images, names = {record["id"] for record in value["images"]}, _names(value, file)
    for kind in ("images", "categories"):
        for number, times in Counter(record["id"] for record in value[kind]).items():
            if times > 1:
                raise DevkitError(
                    file, f"has the id {number} {times} times in its {kind}", "give each an id of its own"
                )
    used = set()
    for item in value["annotations"]:
        if item["image_id"] not in images:
            wrong = f"annotation {item.get('id')} is of image {item['image_id']}, which it does not list"
            raise DevkitError(file, wrong, "add the image to its list, or take the annotation out")
        if item["category_id"] not in names:
            wrong = f"annotation {item.get('id')} is of category {item['category_id']}, which it does not list"
            raise DevkitError(file, wrong, "add the category to its list, or take the annotation out")
        used.add(item["category_id"])
    if not used:
        raise DevkitError(file, "has no annotation", "export it again, with annotations")
    return [name for category, name in names.items() if category in used]


def _names(value: Mapping[str, Any], file: Path) -> dict[int, str]:
    if "categories" not in value:
        raise DevkitError(file, "has no list of categories", "export it again")
    return {category["id"]: str(category["name"]).strip() for category in value["categories"]}


def _records(file: Path) -> list[tuple[Mapping[str, Any], list[tuple[str, Any]]]]:
    """Records of images, each with the names and annotations of its objects."""
    value, objects = read_json(file), defaultdict(list)
    names = _names(value, file)
    for item in value["annotations"]:
        objects[item["image_id"]].append((names[item["category_id"]], item))
    return [(record, objects[record["id"]]) for record in value["images"]]


def _found(finder: ImageFinder, file: Path, record: Mapping[str, Any], split: str) -> Path:
    image = finder.find(str(record["file_name"]), prefer=file.parent.name if _split_alone(file) else split)
    if image is None:
        wrong = f"names the image {record['file_name']!r}, which is not below {finder.root}"
        raise DevkitError(file, wrong, "put the images beside the JSON, or take them out of it")
    return image


def _split_alone(file: Path) -> bool:
    return bool(split_name(file.parent.name))


def _is_drawn(item: Mapping[str, Any]) -> bool:
    return bool(item.get("segmentation"))
