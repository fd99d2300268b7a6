"""A devkit that is drawn: procedural scenes in the layout of PASCAL VOC 2012, with part masks beside the class masks.

Every image has random numbers of its own (see `draw_scene`), so that any of them can be drawn alone and the number
of processes changes nothing. The factors are the fields of `ToyVocConfig`.

Where we depart from VOC: a class that covers less than `min_label_fraction` of the image is not labelled, and its
pixels are void, so that no mask calls them background and no label asks for them; the void contour is one pixel
wide; `SegmentationParts` marks the head (1) and the body (2) of every labelled object.
"""

import dataclasses
import functools
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from wsseg_core.base.config import ToyVocConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically, write_json
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.data.images import write_palette_png
from wsseg_core.data.toy.composition import SPLITS, draw_scene
from wsseg_core.data.toy.objects import CLASSES
from wsseg_core.data.toy.stage import Scene

RECIPE = 3  # raise it when the drawing changes: devkits of another recipe are drawn again
RECORD_FILE = "toyvoc.json"
FOLDERS = {"JPEGImages": "jpg", "SegmentationClass": "png", "SegmentationParts": "png", "Annotations": "xml"}


def ensure_toyvoc(root: Path, config: ToyVocConfig) -> Path:
    """Draw the devkit, or what is missing of it.

    A devkit that is whole is left as it is, which takes a fraction of a second to see. Missing files and files of
    another length are drawn again; a killed run goes on where it was; another recipe starts anew.

    Args:
        root: the folder of the devkit.
        config: the factors.

    Returns:
        The folder, in the layout of VOC 2012, with `classes.txt` and `toyvoc.json`.

    Raises:
        WorkbookError: the folder holds something else, or scenes with other factors, on which the results of another
            profile may stand; or it cannot be written.
    """
    root = Path(root)
    sizes = _known_sizes(root, config)
    names = [(split, index) for split in SPLITS for index in range(getattr(config, f"{split}_images"))]
    found = _found_sizes(root)
    broken = [item for item in names if not _whole(found.get(image_id(*item)), sizes.get(image_id(*item)))]
    _write_lists(root, config)
    if broken:
        draw = functools.partial(_write_scene, root, config)
        for _ in parallel_map(draw, broken, description="drawing the toy devkit", chunk=8, few=FEW_IMAGES):
            pass
        found = _found_sizes(root)
    if broken or not sizes:
        whole = {image_id(*item): found[image_id(*item)] for item in names}
        write_json(root / RECORD_FILE, _record(config) | {"sizes": whole})
    return root


def image_id(split: str, index: int) -> str:
    """Name of an image's files, for instance toy_train_00001."""
    return f"toy_{split}_{index:05d}"


def redraw(name: str, config: ToyVocConfig) -> Scene:
    """One image of a devkit under factors of one's own; under those of the devkit, what is on disk.

    What stays when a factor is turned: see `draw_scene`.

    Args:
        name: of the image's files, as `image_id` gives it.
        config: the factors.

    Returns:
        The scene; its image has been through JPEG, as that of the devkit has.

    Raises:
        WorkbookError: no name of a drawn image, or factors that leave nothing to label.
    """
    match = re.fullmatch(rf"toy_({'|'.join(SPLITS)})_(\d{{5,}})", name)
    if match is None:
        raise WorkbookError(f"{name}: not the id of a drawn scene; use one like {image_id('val', 0)}")
    scene = draw_scene(int(match[2]), match[1], config)
    return dataclasses.replace(scene, image=np.array(Image.open(io.BytesIO(_jpeg(scene.image)))))


def _record(config: ToyVocConfig) -> dict[str, Any]:
    # Of the scenes with other heads alone there was an older recipe, in which the next object changed as well.
    recipe = RECIPE + (config.head_to_body != 1)
    return {"recipe": recipe, "config": plain(dataclasses.asdict(config))}


def _known_sizes(root: Path, config: ToyVocConfig) -> dict[str, list[int]]:
    """Lengths of the files of a complete devkit; empty when it is incomplete, or after making room for a new one."""
    record, expected = _read_record(root), _record(config)
    if record.items() >= expected.items():
        return record.get("sizes", {})
    _check_factors(root, record.get("config", {}), expected["config"])
    for folder in (*FOLDERS, "ImageSets"):
        shutil.rmtree(root / folder, ignore_errors=True)
    write_json(root / RECORD_FILE, expected)
    return {}


def _check_factors(root: Path, drawn: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted.keys() & drawn.keys():
        if drawn[name] != wanted[name]:
            raise WorkbookError(
                f"{root}: drawn with {name} = {drawn[name]!r}, but the profile says {wanted[name]!r}; "
                "give the profile a data.devkit of its own, or delete this folder"
            )


def _read_record(root: Path) -> dict[str, Any]:
    """The record of the devkit at `root`; empty when there is none or it cannot be read."""
    if not (root / RECORD_FILE).is_file():
        if root.is_file() or any(not path.name.startswith(".") for path in root.glob("*")):
            raise WorkbookError(f"{root}: holds files that were not drawn here; name an empty or a new folder")
        return {}
    try:
        return dict(json.loads((root / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _found_sizes(root: Path) -> dict[str, list[int]]:
    """Lengths of the files that are there, by image id, in the order of `FOLDERS`; -1 for a missing one."""
    found: dict[str, list[int]] = {}
    for column, (folder, suffix) in enumerate(FOLDERS.items()):
        if not (root / folder).is_dir():
            continue
        for entry in os.scandir(root / folder):
            stem, _, ending = entry.name.rpartition(".")
            if ending == suffix:
                found.setdefault(stem, [-1] * len(FOLDERS))[column] = entry.stat().st_size
    return found


def _whole(found: list[int] | None, expected: list[int] | None) -> bool:
    """Files are written atomically, so before the record is complete being there is enough."""
    return found is not None and (found == expected if expected else min(found) > 0)


def _write_lists(root: Path, config: ToyVocConfig) -> None:
    lists = {root / "classes.txt": CLASSES}
    for split in SPLITS:
        ids = [image_id(split, index) for index in range(getattr(config, f"{split}_images"))]
        lists[root / "ImageSets" / "Segmentation" / f"{split}.txt"] = tuple(ids)
    for path, lines in lists.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)


def _write_scene(root: Path, config: ToyVocConfig, item: tuple[str, int]) -> None:
    split, index = item
    scene = draw_scene(index, split, config)
    name = image_id(split, index)
    write_atomically(root / "JPEGImages" / f"{name}.jpg", _jpeg(scene.image))
    write_palette_png(root / "SegmentationClass" / f"{name}.png", scene.mask)
    write_palette_png(root / "SegmentationParts" / f"{name}.png", scene.parts)
    write_atomically(root / "Annotations" / f"{name}.xml", _annotation(name, scene))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _annotation(name: str, scene: Scene) -> bytes:
    """The annotation of VOC: file name, size, and one entry an object."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    height, width, depth = scene.image.shape
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": depth})
    for item in scene.objects:
        entry = ElementTree.SubElement(root, "object")
        flags = {"truncated": int(item.truncated), "occluded": int(item.occluded), "difficult": 0}
        _add(entry, {"name": item.name} | flags)
        box = zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)
        _add(ElementTree.SubElement(entry, "bndbox"), dict(box))
    ElementTree.indent(root)
    return ElementTree.tostring(root) + b"\n"


def _add(parent: ElementTree.Element, values: dict[str, Any]) -> None:
    for key, value in values.items():
        ElementTree.SubElement(parent, key).text = str(value)
