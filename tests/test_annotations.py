"""Masks written for other tools come back as they were."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.importing import read_dataset
from wsseg_core.data.importing.writer import planned, write_devkit
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit
from wsseg_core.workbook import own_images
from wsseg_core.workbook.annotations import CocoFile, labelme_annotation

CLASSES = ("cat", "dog")


def masks() -> dict[str, np.ndarray]:
    """Noise, which has every way in which pieces can touch; smooth shapes within each other; and the plain cases."""
    rng = np.random.default_rng(0)
    found = {f"noise{i}": rng.choice([0, 1, 2, 255], (23, 31), p=[0.4, 0.3, 0.2, 0.1]) for i in range(6)}
    y, x = np.mgrid[:40, :50]
    found["rings"] = (np.hypot(y - 20, x - 25) // 4).astype(int) % 3
    found["edges"] = np.where((y < 3) | (x > 45), 1, 2 * ((y + x) % 11 == 0))
    return {name: mask.astype(np.uint8) for name, mask in found.items()} | {
        "none": np.zeros((9, 7), np.uint8),
        "all": np.full((9, 7), 2, np.uint8),
    }


def read_back(source: Path, out: Path, kind: str) -> dict[str, np.ndarray]:
    write_devkit(planned(*read_dataset(source, kind, CLASSES)), out)
    devkit = VocDevkit(out)
    return {name: VocMasks(devkit).mask(name) for name in masks()}


def test_labelme_there_and_back(tmp_path: Path) -> None:
    for name, mask in masks().items():
        Image.new("RGB", mask.shape[::-1]).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.json").write_text(json.dumps(labelme_annotation(mask, CLASSES, f"{name}.jpg")))
    back = read_back(tmp_path, tmp_path / "out", "labelme")
    assert [name for name, mask in masks().items() if (back[name] != mask).any()] == []


def test_coco_there_and_back(tmp_path: Path) -> None:
    """COCO has no void: it comes back as background."""
    file = CocoFile(CLASSES)
    for name, mask in masks().items():
        Image.new("RGB", mask.shape[::-1]).save(tmp_path / f"{name}.jpg")
        file.add(mask, f"{name}.jpg")
    (tmp_path / "coco.json").write_text(json.dumps(file.value))
    back = read_back(tmp_path / "coco.json", tmp_path / "out", "coco")
    assert [name for name, mask in masks().items() if (back[name] != mask * (mask < 255)).any()] == []


def test_coco_by_hand() -> None:
    file = CocoFile(CLASSES)
    file.add(np.uint8([[0, 2, 2], [0, 0, 2]]), "a.jpg")
    assert file.value["images"] == [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}]
    (found,) = file.value["annotations"]
    assert (found["category_id"], found["area"], found["bbox"]) == (2, 3, [1, 0, 2, 2])
    assert found["segmentation"] == {"size": [2, 3], "counts": "2111"}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.png", "below/c.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("not an image")
    return tmp_path / "in"


def test_folders_and_patterns_are_expanded(photographs: Path) -> None:
    found = own_images.expanded([photographs, photographs / "*.jpg", photographs / "below/c.jpg"])
    assert [path.name for path in found] == ["a.png", "b.jpg", "c.jpg"]
    for nothing in ("*.tif", "notes*"):
        with pytest.raises(WorkbookError, match="no images there; name files"):
            own_images.expanded([photographs / nothing])
    assert own_images.expanded([Path("missing.jpg")]) == [Path("missing.jpg")]  # told when it is read


def test_files_for_other_tools_are_written_on_request(photographs: Path, tmp_path: Path) -> None:
    segmenter = own_images.Segmenter(CLASSES, lambda image: np.full(image.shape[:2], 2, np.uint8))
    out = tmp_path / "masks"
    own_images.segment_files(own_images.expanded([photographs]), segmenter, out)
    assert sorted(path.suffix for path in out.iterdir()) == [".jpg", ".jpg", ".png", ".png"]
    own_images.segment_files(own_images.expanded([photographs]), segmenter, out, labelme=True, coco=True)
    annotation = json.loads((out / "a.json").read_text())
    assert (out / annotation["imagePath"]).resolve() == photographs / "a.png"
    assert [shape["label"] for shape in annotation["shapes"]] == ["dog"]
    assert [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]] == ["a.png", "b.jpg"]
