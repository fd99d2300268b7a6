"""Pixel masks: ground truth, for evaluation and checks only.

Source of the additional masks of SBD: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

import glob
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.io

from wsseg_core.data.images import (
    REPLACE_IMAGE,
    SIDEWAYS,
    VOC_PALETTE,
    VOID,
    DevkitError,
    opened,
    orientation,
)
from wsseg_core.data.voc import REFETCH, VocDevkit

PART_VALUES = {"head": 1, "body": 2}  # of a part mask


class VocMasks:
    """The only reader of pixel masks in the project: whoever does not import it cannot see ground truth.

    It belongs to evaluation and to data checks. Training and inference work from image-level labels alone.
    Classes that the devkit was not opened with are background.
    """

    def __init__(self, devkit: VocDevkit, kind: str = "class") -> None:
        """Open the masks of a devkit.

        Args:
            devkit: whose masks.
            kind: "class" for SegmentationClass and SBD, "parts" for SegmentationParts (1 head, 2 body).

        Raises:
            ValueError: another kind.
        """
        if kind not in ("class", "parts"):
            raise ValueError(f"kind must be 'class' or 'parts', not {kind!r}")
        self.devkit = devkit
        self.kind = kind

    def path(self, image_id: str) -> Path:
        """File of a mask: the devkit's PNG, or else SBD's `ID.mat`, beside the PNGs or in SBD's own folder `cls`.

        Raises:
            DevkitError: there is neither.
        """
        folder = "SegmentationClass" if self.kind == "class" else "SegmentationParts"
        png = self.devkit.root / folder / f"{image_id}.png"
        if png.is_file():
            return png
        if (capitals := png.with_suffix(".PNG")).is_file():
            return capitals
        sbd = self.devkit.sbd_folder
        mats = [png.with_suffix(".mat"), *([sbd / "cls" / f"{image_id}.mat"] if sbd else [])]
        if self.kind == "class" and (found := [mat for mat in mats if mat.is_file()]):
            return found[0]
        if others := [path for path in png.parent.glob(f"{glob.escape(png.stem)}.*") if path.stem == png.stem]:
            raise DevkitError(others[0], "a mask that is no .png", "save it as PNG; a JPEG would blur its labels")
        raise DevkitError(png, "missing mask", "restore it, or score a split whose images all have masks")

    def has(self, image_id: str) -> bool:
        """Whether there is a mask of an image, or a file in its place."""
        try:
            self.path(image_id)
        except DevkitError as error:
            return Path(error.problem.file).exists()
        return True

    def mask(self, image_id: str) -> np.ndarray:
        """A mask, (H, W) uint8: 0 background, 1..C the devkit's `classes` (or parts), 255 void.

        SBD's masks have no void. Parts of objects of other classes are background, too. An image of a training split
        in which no image has a mask, as training needs none, is void everywhere: nothing is scored there. So is every
        image of a devkit without any mask.

        Raises:
            DevkitError: missing or damaged file, a palette that is not VOC's, a label out of range, or another
                size than the image has.
        """
        try:
            path = self.path(image_id)
        except DevkitError:
            if self.kind == "class" and image_id in _never_drawn(self.devkit.root):
                return np.full(self.devkit.size(image_id), VOID, np.uint8)
            raise
        mask = _read_mat(path) if path.suffix == ".mat" else _read_palette_png(path)
        highest = len(self.devkit.all_classes) if self.kind == "class" else len(PART_VALUES)
        outside = mask[(mask > highest) & (mask != VOID)]
        if outside.size:
            wrong = f"label {outside.max()} is out of range (0..{highest}, 255 for void)"
            raise DevkitError(path, wrong, "draw the mask again, or correct classes.txt")
        height, width = self.devkit.size(image_id)
        if mask.shape != (height, width):
            raise self._other_size(path, mask.shape, (height, width), image_id)
        if self.kind == "class":
            return self.devkit.mask_values[mask]
        if self.devkit.num_classes < len(self.devkit.all_classes):
            mask = np.where(VocMasks(self.devkit).mask(image_id) > 0, mask, 0)
        return mask

    def _other_size(self, path: Path, found: tuple[int, ...], wanted: tuple[int, int], image_id: str) -> DevkitError:
        wrong = f"the mask is {found[1]}×{found[0]}, its image {wanted[1]}×{wanted[0]}"
        remedy = "give both the same size"
        with opened(self.devkit.image_path(image_id), REPLACE_IMAGE) as image:
            if (turned := orientation(image)) in SIDEWAYS and found == wanted[::-1]:
                wrong += f" when it is turned as its EXIF orientation {turned} says"
                remedy = "turn the mask too, or take the orientation out of the image, whichever is upright"
        return DevkitError(path, wrong, remedy)


def has_masks(devkit: VocDevkit) -> bool:
    """Whether a devkit has any mask: one of its own, or SBD's."""
    return devkit.sbd_folder is not None or any((devkit.root / "SegmentationClass").glob("**/*.*"))


@lru_cache(maxsize=8)
def _never_drawn(root: Path) -> frozenset[str]:
    """Ids of the images of splits without any mask.

    `val` is there to be scored, so that its masks are missed, but where the whole devkit has none.
    """
    devkit = VocDevkit(root)
    masks = VocMasks(devkit)
    never: set[str] = set()
    for split in set(devkit.splits()) - ({"val"} if has_masks(devkit) else set()):
        with suppress(DevkitError):
            ids = devkit.ids(split)
            if not any(masks.has(image_id) for image_id in ids):
                never.update(ids)
    return frozenset(never)


def _read_palette_png(path: Path) -> np.ndarray:
    remedy = "save masks as 8-bit PNGs with VOC's colour map (`write_palette_png` does)"
    with opened(path, remedy) as image:
        mode, palette, mask = image.mode, image.getpalette(), np.asarray(image)
    if mode == "1":  # 1 bit: background and the one class
        return mask.astype(np.uint8)
    if mode not in ("P", "L"):
        raise DevkitError(path, f"wrong palette: a {mode} image holds colours, not labels", remedy)
    if mode == "P":
        colours = np.zeros((256, 3), np.uint8)
        colours.flat[: len(palette or [])] = palette or []
        used = np.unique(mask)
        if (wrong := used[(colours[used] != VOC_PALETTE[used]).any(axis=1)]).size:
            colour = tuple(colours[wrong[0]].tolist())
            raise DevkitError(path, f"wrong palette: label {wrong[0]} has colour {colour}, not VOC's", remedy)
    return mask


def _read_mat(path: Path) -> np.ndarray:
    """SBD's mask: field `Segmentation` of the MATLAB structure `GTcls`."""
    try:
        mask = scipy.io.loadmat(str(path))["GTcls"][0, 0]["Segmentation"]
        return np.ascontiguousarray(mask, np.uint8)
    except Exception as error:  # loadmat answers a damaged file with errors of many kinds
        raise DevkitError(path, f"not an SBD mask ({error})", REFETCH) from None
