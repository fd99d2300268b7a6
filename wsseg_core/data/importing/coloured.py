"""Devkits of annotation tools with masks in colours or numbers of their own.

    CVAT, "Segmentation mask 1.1"     labelmap.txt, JPEGImages, SegmentationClass, ImageSets/Segmentation
    labelme's labelme2voc             class_names.txt, JPEGImages, SegmentationClassPNG or SegmentationClass

`labelmap.txt` has a line `name:R,G,B:parts:actions` a class, and the masks are in these colours; the values of
labelme's masks are the places of the names in `class_names.txt`. Image-level labels are the classes in the masks.
Sources: CVAT's documentation of the format, <https://docs.cvat.ai/>; labelme's example `labelme2voc.py`,
<https://github.com/wkentaro/labelme>.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from wsseg_core.data.images import VOC_PALETTE, VOID, DevkitError, opened
from wsseg_core.data.importing.dataset import (
    ImageFinder,
    ImportedData,
    ImportedImage,
    Mask,
    check_class,
    is_no_class,
    left_out,
    read_text,
    split_name,
    value_of_no_class,
)

AGAIN = "export the masks again, together with their list of classes"


def recognises_cvat(path: Path) -> bool:
    """Whether this is an export of CVAT."""
    return (path / "labelmap.txt").is_file() and (path / "SegmentationClass").is_dir()


def recognises_labelme(path: Path) -> bool:
    """Whether this was written by labelme2voc."""
    return (path / "class_names.txt").is_file() and _labelme_folder(path).is_dir()


def read_cvat(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """An export of CVAT.

    Raises:
        DevkitError: a damaged file, a colour that the list does not have, or an image that is missing.
    """
    source = path / "labelmap.txt"
    colours: dict[str, tuple[int, ...]] = {}
    for line in read_text(source).splitlines():
        if line.strip() and not line.startswith("#"):
            name, colour = (*line.rsplit(":", 3), "", "")[:2]
            values = tuple(int(part) for part in colour.split(",") if part.strip().isdecimal())
            if len(values) != 3 or max(values) > 255:
                raise DevkitError(source, f"{line!r} is not like `name:128,0,0::`", AGAIN)
            if values in colours.values():
                raise DevkitError(source, f"{line!r} has the colour of another line", AGAIN)
            colours[name.strip()] = values
    classes = _classes(list(colours), source)
    codes = {_code(np.array(colour)): _value(name, classes) for name, colour in colours.items()}
    masks = {mask: partial(_by_colour, mask, {0: 0} | codes) for mask in _pngs(path / "SegmentationClass")}
    return _devkit(path, path / "SegmentationClass", masks, classes, names)


def read_labelme(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """What labelme2voc wrote.

    Raises:
        DevkitError: a damaged file, a value that the list does not have, or an image that is missing.
    """
    source = path / "class_names.txt"
    listed = [line.strip() for line in read_text(source).splitlines() if line.strip()]
    listed = listed[listed[0] == "__ignore__" :] if listed else []  # its value is 255
    classes = _classes(listed, source)
    values = {index: _value(name, classes) for index, name in enumerate(listed)} | {VOID: VOID}
    folder = _labelme_folder(path)
    return _devkit(path, folder, {mask: partial(_by_value, mask, values) for mask in _pngs(folder)}, classes, names)


def _labelme_folder(path: Path) -> Path:
    older = path / "SegmentationClassPNG"
    return older if older.is_dir() else path / "SegmentationClass"


def _classes(listed: Sequence[str], source: Path) -> tuple[str, ...]:
    classes = tuple(check_class(name, source, AGAIN) for name in listed if not is_no_class(name))
    if not classes:
        raise DevkitError(source, "lists no class", AGAIN)
    return classes


def _value(name: str, classes: Sequence[str]) -> int:
    return value_of_no_class(name) if is_no_class(name) else classes.index(name) + 1


def _pngs(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png" and path.name[0] != ".")
    if not found:
        raise DevkitError(folder, "no masks (.png) in it", AGAIN)
    return found


def _devkit(
    path: Path, folder: Path, masks: Mapping[Path, Mask], classes: tuple[str, ...], names: Sequence[str]
) -> ImportedData:
    if names and set(names) != set(classes):
        raise DevkitError(path, f"has the classes {', '.join(classes)}", "leave --names out")
    folders = (folder.name, "SegmentationClassPNG", "SegmentationClass", "SegmentationClassVisualization")
    finder = ImageFinder(path, (*folders, "SegmentationObject", "SegmentationObjectPNG"))
    if not finder.files:
        remedy = "export again with the images, or put them into its folder JPEGImages"
        raise DevkitError(path, "no images in this export", remedy)
    splits = _splits(path)
    images = []
    for file, mask in masks.items():
        image_id = file.relative_to(folder).with_suffix("").as_posix()
        if (image := finder.find(image_id)) is None or image.stem != file.stem:
            raise DevkitError(
                file, "a mask whose image is missing", "put its image into JPEGImages, or delete the mask"
            )
        labels = {classes[value - 1] for value in np.unique(mask()).tolist() if value not in (0, VOID)}
        images.append(ImportedImage(image, frozenset(labels), splits.get(image_id, ""), mask))
    notes = ("labels are the classes in the masks", *left_out(finder, images, "without a mask"))
    return ImportedData(path, classes, tuple(images), notes)


def _splits(path: Path) -> dict[str, str]:
    """Splits by ids; lists of other names, such as CVAT's `default`, tell nothing."""
    found: dict[str, str] = {}
    for file in sorted((path / "ImageSets" / "Segmentation").glob("*.txt")):
        if split := split_name(file.stem):
            found |= {line.strip(): split for line in read_text(file).splitlines() if line.strip()}
    return found


def _code(colours: np.ndarray) -> int:
    red, green, blue = colours.tolist()
    return (red << 16) + (green << 8) + blue


def _by_colour(path: Path, values: Mapping[int, int]) -> np.ndarray:
    """uint8 (H, W), from a picture in the colours of the list."""
    with opened(path, AGAIN) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    codes = (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]
    mask = np.zeros(codes.shape, np.uint8)
    for code in np.unique(codes).tolist():
        if code not in values:
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise DevkitError(path, f"has the colour {colour}, which labelmap.txt does not list", AGAIN)
        mask[codes == code] = values[code]
    return mask


def _by_value(path: Path, values: Mapping[int, int]) -> np.ndarray:
    """uint8 (H, W), from a picture of numbers, or of VOC's colours."""
    with opened(path, AGAIN) as image:
        if image.mode not in ("P", "L"):
            colours = {_code(colour): value for value, colour in enumerate(VOC_PALETTE)}
            return _by_colour(path, {code: values[value] for code, value in colours.items() if value in values})
        pixels = np.asarray(image)
    mask = np.zeros(pixels.shape, np.uint8)
    for value in np.unique(pixels).tolist():
        if value not in values:
            raise DevkitError(path, f"has the value {value}, and class_names.txt has {len(values) - 1} names", AGAIN)
        mask[pixels == value] = values[value]
    return mask
