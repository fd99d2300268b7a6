"""Goes through a whole devkit, file by file, and lists everything that is wrong with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from wsseg_core.base.parallel import parallel_map
from wsseg_core.data.images import DevkitError, Problem
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit


def check_devkit(
    root: Path | str,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    classes: Sequence[str] = (),
) -> list[Problem]:
    """Check the images, labels and masks of a devkit.

    Masks are checked in the splits that have any: a split used for training alone needs none, but one that is
    scored needs all of them. Part masks are checked where they exist.

    Args:
        root: folder of the devkit.
        splits: which splits; all that have a file, and train_aug where it can be derived, when left out.
        workers: processes; all cores when left out.
        classes: those of its classes that a profile chooses; all when left out.

    Returns:
        What is wrong, split files first, then in the order of the images; empty when all is well. Each file is
        named once for each thing that is wrong with it.
    """
    try:
        devkit = VocDevkit(root, classes)
    except DevkitError as error:
        return [error.problem]
    problems: list[Problem] = []
    needs_mask: dict[str, bool] = {}  # by image id; an id may be in several splits
    for split in splits or _all_splits(devkit):
        ids, found = _check_split(devkit, split)
        problems += found
        scored = any(_has_mask(devkit, image_id) for image_id in ids)
        needs_mask |= {image_id: scored or needs_mask.get(image_id, False) for image_id in ids}
    check = partial(_check_image, devkit)
    for found in parallel_map(check, list(needs_mask.items()), description="check", workers=workers, chunk=16):
        problems += found
    return list(dict.fromkeys(problems))


def _all_splits(devkit: VocDevkit) -> list[str]:
    splits = devkit.splits()
    if devkit.sbd_folder is not None and "train_aug" not in splits:
        splits.append("train_aug")
    return splits or ["train"]  # whose error says that there is no split file


def _check_split(devkit: VocDevkit, split: str) -> tuple[list[str], list[Problem]]:
    try:
        ids = devkit.ids(split)
    except DevkitError as error:
        return [], [error.problem]
    path = str(devkit.split_file(split))
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    return ids, [Problem(path, f"lists {image_id} more than once", "keep one of the lines") for image_id in repeated]


def _has_mask(devkit: VocDevkit, image_id: str, kind: str = "class") -> bool:
    try:
        VocMasks(devkit, kind).path(image_id)
    except DevkitError:
        return False
    return True


def _check_image(devkit: VocDevkit, item: tuple[str, bool]) -> list[Problem]:
    """Try all that a run would read of one image."""
    image_id, needs_mask = item
    readers: list[Callable[[str], object]] = [devkit.image, devkit.labels]
    if needs_mask:
        readers.append(VocMasks(devkit).mask)
    if _has_mask(devkit, image_id, "parts"):
        readers.append(VocMasks(devkit, "parts").mask)
    problems = []
    for read in readers:
        try:
            read(image_id)
        except DevkitError as error:
            problems.append(error.problem)
    return problems
