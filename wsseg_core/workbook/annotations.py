"""Masks as other tools read them: polygons of labelme, run-length codes of COCO. `data.importing` reads both again."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from wsseg_core.data.images import VOID
from wsseg_core.data.importing.rle import encode

VERSION = "5.0.1"  # of labelme, whose files say by which one they were written


def labelme_annotation(mask: np.ndarray, classes: Sequence[str], image: str) -> dict[str, Any]:
    """A mask as polygons.

    A polygon has no holes. So what lies in another piece comes after it, background as `_background_`, and is drawn
    above it.

    Args:
        mask: uint8 (H, W): 0, 1 + index of a class, or 255.
        classes: names.
        image: path of the image, from the folder of the annotation.

    Returns:
        What the JSON file holds.
    """
    pieces = [piece for value in np.unique(mask).tolist() for piece in _pieces(mask, value)]
    pieces.sort(key=lambda piece: -piece[1])
    names = {0: "_background_", VOID: "__ignore__"} | dict(enumerate(classes, start=1))
    shapes: list[dict[str, Any]] = [
        {"label": names[value], "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        for value, _, points in pieces
    ]
    height, width = mask.shape
    image_values = {"imagePath": image, "imageData": None, "imageHeight": height, "imageWidth": width}
    return {"version": VERSION, "flags": {}, "shapes": shapes} | image_values


def _pieces(mask: np.ndarray, value: int) -> list[tuple[int, float, list[list[float]]]]:
    """Connected pieces of a value: the value, the area of the outline, its points; of background only what is enclosed.

    Pieces are connected by sides: two that touch at a corner have an outline each, which does not cross the other's.
    """
    count, numbers, boxes, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=4)
    found = []
    for number in range(1, count):
        left, top, width, height = boxes[number][:4].tolist()
        inside = left and top and left + width < mask.shape[1] and top + height < mask.shape[0]
        if value == 0 and not inside:
            continue
        piece = (numbers[top : top + height, left : left + width] == number).astype(np.uint8)
        outline = max(cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0], key=len)[:, 0]
        area = cv2.contourArea(outline) + len(outline) / 1e6  # the smaller, the later
        points = (outline + np.array([left, top])).astype(float).tolist()
        found.append((value, area, (points * 3)[:3] if len(points) < 3 else points))  # of a pixel or a line
    return found


class CocoFile:
    """COCO's JSON, filled mask by mask: one annotation for each class in an image.

    Attributes:
        value: what the file holds.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes, start=1)]
        self.value: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": categories}

    def add(self, mask: np.ndarray, name: str) -> None:
        """Add the mask, uint8 (H, W), of an image, by its file name."""
        image_id, (height, width) = len(self.value["images"]) + 1, mask.shape
        self.value["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for category in self.value["categories"]:
            region = mask == category["id"]
            if region.any():
                rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
                box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
                found = {"image_id": image_id, "category_id": category["id"], "iscrowd": 0, "area": int(region.sum())}
                found |= {"bbox": [int(side) for side in box], "segmentation": encode(region)}
                self.value["annotations"].append(found | {"id": len(self.value["annotations"]) + 1})
