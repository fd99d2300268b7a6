"""Folders whose names are the classes, with train and val above them or not; and CycleGAN's pairs of domains.

    horse/*.jpg, zebra/*.jpg                      one class a folder, split at random
    train/horse/*.jpg, ..., val/zebra/*.jpg       the splits are given
    trainA, trainB, testA, testB                  CycleGAN: two classes, whose names are given

A photograph that lies in two class folders, the same file under the same name, shows both classes.
Sources: torchvision's `ImageFolder` for the first two; Zhu et al., "Unpaired Image-to-Image Translation", ICCV 2017.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from wsseg_core.data.images import DevkitError
from wsseg_core.data.importing.dataset import (
    ImportedData,
    ImportedImage,
    check_class,
    image_files,
    is_image,
    is_import,
    sorted_names,
    split_name,
)

# Folders that hold the parts of other forms, not a class.
RESERVED = ("jpegimages", "images", "imgs", "img", "masks", "labels", "annotations", "imagesets", "segmentationclass")
DOMAIN = re.compile(r"(train|test|val)_?([AB])", re.IGNORECASE)
RENAME = "rename the folder to its class; give images that show none of the classes in a table of labels"


def recognises(path: Path) -> bool:
    """Whether there are folders with images whose names can be classes."""
    return path.is_dir() and not recognises_domains(path) and bool(_split_folders(path) or _class_folders(path))


def recognises_domains(path: Path) -> bool:
    """Whether this is CycleGAN's layout."""
    return len({match[2].upper() for match in map(DOMAIN.fullmatch, _folder_names(path)) if match}) == 2


def read(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """Class folders.

    Args:
        path: the folder of folders.
        names: the classes that are wanted, if not all.

    Raises:
        DevkitError: a class without images, a name that is no class, or fewer classes than asked for.
    """
    by_split = _split_folders(path)
    folders = [(folder, split) for split, folder in by_split.items()] or [(path, "")]
    found = [(child, split) for folder, split in folders for child in _children(folder) if _may_be_class(child)]
    classes = sorted_names({check_class(child.name, child, RENAME) for child, _ in found})
    if unknown := [name for name in names if name not in classes]:
        raise DevkitError(path, f"has no folder {unknown[0]!r}", f"use --names of {', '.join(classes)}")
    classes = tuple(names) or classes
    loose = sum(is_image(child) for folder in {path, *by_split.values()} for child in folder.iterdir())
    notes = [f"{loose} images that lie in no class folder are left out"] if loose else []
    return _united(path, classes, [(child, child.name.strip(), split) for child, split in found], notes)


def read_domains(path: Path, names: Sequence[str] = ()) -> ImportedData:
    """CycleGAN's folders.

    Args:
        path: the folder that holds trainA and the others.
        names: of A and of B; read from a folder that is called like `horse2zebra` when left out.

    Raises:
        DevkitError: no names, or a domain without images.
    """
    named = re.fullmatch(r"([^\W\d]+)2([^\W\d]+)", path.resolve().name)
    names = tuple(names) or (named.groups() if named else ())
    if len(names) != 2:
        raise DevkitError(path, "has A and B, whose classes are not known", "name them, as in --names horse,zebra")
    classes = tuple(check_class(name, path, "give another name with --names") for name in names)
    folders = []
    for child in _children(path):
        if match := DOMAIN.fullmatch(child.name):
            split = "train" if match[1].lower() == "train" else "val"  # it has no other images to be scored on
            folders.append((child, classes["AB".index(match[2].upper())], split))
    return _united(path, classes, folders, [f"A is {classes[0]}, B is {classes[1]}; test is val"])


def _united(
    path: Path, classes: Sequence[str], folders: Sequence[tuple[Path, str, str]], notes: list[str]
) -> ImportedData:
    """All images of class folders; one file under one name in several of them is one image of several classes."""
    listed: dict[tuple[str, str], list[tuple[Path, str]]] = defaultdict(list)  # by split and name
    for folder, label, split in folders:
        if not (files := image_files(folder)):
            raise DevkitError(folder, "no images in this class folder", "put images into it, or delete it")
        for file in files if label in classes else ():
            listed[split, file.name].append((file, label))
    images: dict[tuple[str, str, str], ImportedImage] = {}
    for (split, name), namesakes in listed.items():
        for file, label in namesakes:
            content = hashlib.sha256(file.read_bytes()).hexdigest() if len(namesakes) > 1 else ""
            before = images.get((split, name, content), ImportedImage(file, frozenset(), split))
            images[split, name, content] = ImportedImage(before.path, before.labels | {label}, split)
    if several := sum(len(image.labels) > 1 for image in images.values()):
        notes.append(f"{several} images lie in several class folders and have the labels of all of them")
    return ImportedData(path, tuple(classes), tuple(images.values()), tuple(notes))


def _children(folder: Path) -> list[Path]:
    """Folders, but for hidden ones and devkits that were imported into this place."""
    shown = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith((".", "__"))]
    return [child for child in shown if not is_import(child)]


def _folder_names(path: Path) -> list[str]:
    return [child.name for child in _children(path)] if path.is_dir() else []


def _may_be_class(folder: Path) -> bool:
    return folder.name.lower() not in RESERVED


def _class_folders(path: Path) -> list[Path]:
    """The folders with images that can be classes; none where a folder of another form is beside them."""
    children = _children(path)
    return [c for c in children if any(map(is_image, c.rglob("*")))] if all(map(_may_be_class, children)) else []


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders train, val and test that hold class folders, by their split; none where there is no train."""
    found = {split_name(child.name): child for child in _children(path) if split_name(child.name)}
    found = {split: child for split, child in found.items() if _class_folders(child)}
    return found if "train" in found else {}
