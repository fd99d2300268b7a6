"""labelme's annotations: a JSON file beside each image, with the shapes that were drawn on it.

Polygons, rectangles, circles and masks are drawn in the order of the file, later ones above earlier ones, as labelme
does. An image with points or lines, or with flags alone, has labels and no mask. `_background_` is drawn as 0 and
`__ignore__` as void. Source: labelme's `utils/shape.py`, <https://github.com/wkentaro/labelme>.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from wsseg_core.data.images import DevkitError, image_size
from wsseg_core.data.importing.dataset import (
    ImageFinder,
    ImportedData,
    ImportedImage,
    check_class,
    is_no_class,
    left_out,
    read_json,
    shaped_like,
    sorted_names,
    source_files,
    value_of_no_class,
)

DRAWN = ("polygon", "rectangle", "circle", "mask")
FORM = "labelme's JSON"


def recognises(path: Path) -> bool:
    """Whether a folder holds JSON files of labelme, or a file is one."""
    files = _files(path)
    return bool(files) and _is_labelme(files[0])


def read(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """The annotated images of a folder.

    Args:
        path: the folder, or one JSON file.
        names: the classes in the order that is wanted; by their letters when left out.

    Raises:
        DevkitError: a JSON file that is not valid, an image that is missing, or a shape that cannot be drawn.
    """
    finder = ImageFinder(path if path.is_dir() else path.parent)
    annotated: dict[Path, tuple[Path, Mapping[str, Any]]] = {}
    for file in _files(path):
        if not _is_labelme(file):
            raise DevkitError(file, "is no annotation of labelme, as the files beside it are", "move it away")
        with shaped_like(FORM, file):
            annotation = read_json(file)
            image = finder.find(str(file.parent / str(annotation.get("imagePath") or file.stem)))
        if image is None:
            wrong = f"its image {annotation.get('imagePath')!r} is missing"
            raise DevkitError(file, wrong, "put the image beside it, or delete the annotation")
        if image in annotated:
            raise DevkitError(file, f"annotates {image.name}, as {annotated[image][0].name} does", "keep one of them")
        annotated[image] = file, annotation
    labels = {image: _labels(file, annotation) for image, (file, annotation) in annotated.items()}
    found = frozenset[str]().union(*labels.values())
    if names and set(names) != found:
        raise DevkitError(path, f"has the classes {', '.join(sorted(found))}", "leave --names out, or name all of them")
    classes = tuple(names) or sorted_names(found)
    any_drawn = any(_kind(shape) in DRAWN for _, a in annotated.values() for shape in a["shapes"])
    images = []
    for image, (file, annotation) in annotated.items():
        drawn = any_drawn and _is_drawn(annotation)
        mask = partial(draw, file, annotation, image, classes) if drawn else None
        images.append(ImportedImage(image, labels[image], "", mask))
    return ImportedData(path, classes, tuple(images), left_out(finder, images, "without an annotation"))


def draw(file: Path, annotation: Mapping[str, Any], image: Path, classes: Sequence[str]) -> np.ndarray:
    """The mask of an annotation, uint8 (H, W).

    Raises:
        DevkitError: a shape without the points that it needs.
    """
    with shaped_like(FORM, file):
        height, width = annotation.get("imageHeight"), annotation.get("imageWidth")
        size = (int(height), int(width)) if height and width else image_size(image)
        canvas = Image.new("L", size[::-1])
        for shape in annotation["shapes"]:
            label = shape["label"].strip()
            value = value_of_no_class(label) if is_no_class(label) else classes.index(label) + 1
            _draw_shape(canvas, shape, value)
    return np.array(canvas)


def _draw_shape(canvas: Image.Image, shape: Mapping[str, Any], value: int) -> None:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    pen, kind = ImageDraw.Draw(canvas), _kind(shape)
    if kind == "polygon":
        if len(points) < 3:
            raise ValueError(f"a polygon of {shape['label']!r} has {len(points)} points")
        pen.polygon(points, fill=value, outline=value)
    elif kind == "circle":
        (x, y), (on_x, on_y) = points
        radius = math.hypot(on_x - x, on_y - y)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    else:
        (left, top), (right, bottom) = (tuple(map(end, zip(*points[:2], strict=True))) for end in (min, max))
        if kind == "rectangle":
            pen.rectangle((left, top, right, bottom), fill=value, outline=value)
        else:
            canvas.paste(value, (round(left), round(top)), _stamp(shape))


def _kind(shape: Mapping[str, Any]) -> str:
    return shape.get("shape_type", "polygon")  # which old versions of labelme do not write


def _stamp(shape: Mapping[str, Any]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as stamp:
            return stamp.convert("1")
    except OSError as error:
        raise ValueError(f"the mask of {shape['label']!r} cannot be decoded: {error}") from None


def _labels(file: Path, annotation: Mapping[str, Any]) -> frozenset[str]:
    """Names of the shapes, and of the flags that are set."""
    with shaped_like(FORM, file):
        flags = [name for name, value in (annotation.get("flags") or {}).items() if value]
        names = [shape["label"].strip() for shape in annotation["shapes"]] + flags
    return frozenset(check_class(name, file, "give the shape a name") for name in names if not is_no_class(name))


def _is_drawn(annotation: Mapping[str, Any]) -> bool:
    shapes, flags = annotation["shapes"], annotation.get("flags") or {}
    drawn = all(_kind(shape) in DRAWN for shape in shapes)
    return drawn and (bool(shapes) or not any(flags.values()))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    return [file for file in source_files(path) if file.suffix == ".json"]


def _is_labelme(file: Path) -> bool:
    value = read_json(file)
    return isinstance(value, dict) and isinstance(value.get("shapes"), list)
