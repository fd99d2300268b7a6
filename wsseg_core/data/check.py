"""Goes through a whole devkit, file by file, and lists everything that is wrong with it.

What no file shows alone is in `agreement`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsseg_core.base.parallel import parallel_map
from wsseg_core.data.agreement import NO_MASKS, CheckedImage, describe, disagreements
from wsseg_core.data.images import REPLACE_IMAGE, DevkitError, Problem, gathered, opened, orientation
from wsseg_core.data.masks import VocMasks, has_masks
from wsseg_core.data.voc import VocDevkit

Value = TypeVar("Value")


def check_devkit(
    root: Path | str,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    classes: Sequence[str] = (),
    val_split: str = "val",
) -> list[Problem]:
    """Check the images, labels and masks of a devkit, and whether they agree; arguments are those of `inspect_devkit`.

    Returns:
        What is wrong, split files first, then in the order of the images; empty when all is well. Each file is
        named once for each thing that is wrong with it, or ten and more of a folder in one line.
    """
    return inspect_devkit(root, splits, workers, classes, val_split)[0]


def inspect_devkit(
    root: Path | str,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    classes: Sequence[str] = (),
    val_split: str = "val",
) -> tuple[list[Problem], list[str]]:
    """Check a devkit, and say what there is.

    Masks are checked in the splits that have any: a split used for training alone needs none, but one that is
    scored needs all of them, and its part masks are checked where they exist.

    Args:
        root: folder of the devkit.
        splits: which splits; all that have a file, and train_aug where it can be derived, when left out.
        workers: processes; all cores when left out.
        classes: those of its classes that a profile chooses; all when left out.
        val_split: the split that must be there, and have masks if the devkit has any.

    Returns:
        The problems of `check_devkit`, and lines that describe the devkit: its classes, its splits, and what of it
        is unusual without being wrong.
    """
    try:
        devkit = VocDevkit(root, classes)
    except DevkitError as error:
        return [error.problem], []
    problems: list[Problem] = []
    ids: dict[str, list[str]] = {}
    for split in splits or _all_splits(devkit, val_split):
        ids[split], found = _check_split(devkit, split)
        problems += found
    both = set(ids.get("train", ())) & set(ids.get(val_split, ()))
    if both and val_split != "train":
        wrong = f"{len(both)} of its images are also in train, for instance {min(both)}"
        problems.append(Problem(str(devkit.split_file(val_split)), wrong, "take them out of one of the two"))
    needs_mask = _images_that_need_a_mask(devkit, ids)
    if has_masks(devkit) and ids.get(val_split) and not any(needs_mask[image_id] for image_id in ids[val_split]):
        wrong = f"no image of {val_split} has a mask, so nothing can be scored"
        problems.append(Problem(str(devkit.root / "SegmentationClass"), wrong, "draw masks of these images"))
    check = partial(_check_image, devkit)
    images = parallel_map(check, list(needs_mask.items()), description="check", workers=workers, chunk=16)
    checked = {image.image_id: image for image in images}
    problems += [problem for image in checked.values() for problem in image.problems]
    disagreeing, usual = disagreements(devkit, list(checked.values()))
    of_splits = {split: [checked[i] for i in dict.fromkeys(members)] for split, members in ids.items() if members}
    if not has_masks(devkit):
        usual.append(NO_MASKS)
    return gathered(problems + disagreeing), [*describe(devkit, of_splits, val_split), *usual]


def _all_splits(devkit: VocDevkit, val_split: str) -> list[str]:
    splits = devkit.splits()
    if devkit.sbd_folder is not None and "train_aug" not in splits:
        splits.append("train_aug")
    # The error of a split that is not there says so.
    return [*splits, *([val_split] if val_split not in splits else [])] if splits else ["train"]


def _check_split(devkit: VocDevkit, split: str) -> tuple[list[str], list[Problem]]:
    try:
        ids = devkit.ids(split)
    except DevkitError as error:
        return [], [error.problem]
    path = str(devkit.split_file(split))
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    return ids, [Problem(path, f"lists {image_id} more than once", "keep one of the lines") for image_id in repeated]


def _images_that_need_a_mask(devkit: VocDevkit, ids: dict[str, list[str]]) -> dict[str, bool]:
    """All images, by id, and whether one of their splits is scored, as it has masks."""
    masks, needs_mask = VocMasks(devkit), dict[str, bool]()
    for members in ids.values():
        scored = any(masks.has(image_id) for image_id in members)
        needs_mask |= {image_id: scored or needs_mask.get(image_id, False) for image_id in members}
    return needs_mask


def _check_image(devkit: VocDevkit, item: tuple[str, bool]) -> CheckedImage:
    """Try all that a run would read of one image."""
    image_id, needs_mask = item
    problems: list[Problem] = []

    def tried(read: Callable[[str], Value]) -> Value | None:
        try:
            return read(image_id)
        except DevkitError as error:
            problems.append(error.problem)
            return None

    pixels, labels = tried(devkit.image), tried(devkit.labels)
    mask = tried(VocMasks(devkit).mask) if needs_mask else None
    if needs_mask and VocMasks(devkit, "parts").has(image_id):
        tried(VocMasks(devkit, "parts").mask)
    return CheckedImage(
        image_id,
        tuple(problems),
        pixels is not None and _is_turned(devkit.image_path(image_id)),
        None if labels is None else frozenset((np.flatnonzero(labels) + 1).tolist()),
        None if mask is None else frozenset(np.unique(mask).tolist()),
    )


def _is_turned(path: Path) -> bool:
    with opened(path, REPLACE_IMAGE) as image:
        return orientation(image) != 1
