"""Masks for images of one's own, from what is shipped, a run of one's own, or the checkpoint of a classifier."""

import glob
import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from torch import nn
from tqdm import tqdm

from wsseg_core.affinity import cam
from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically, write_json
from wsseg_core.classify.classifier import NOTEBOOK as CLASSIFIER
from wsseg_core.classify.classifier import classifier_from_checkpoint, load_classifier
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.data.images import read_image, write_palette_png
from wsseg_core.data.importing.dataset import image_files, is_image
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import SegmentationNet
from wsseg_core.refine import dynamic_stage, static_stage
from wsseg_core.saliency.dcsm import segment_image
from wsseg_core.saliency.gradients import prepare
from wsseg_core.segment.retraining import load_segmentation
from wsseg_core.segment.shipped import Shipped, network_mask
from wsseg_core.workbook.annotations import CocoFile, labelme_annotation
from wsseg_core.workbook.plots import overlay

LARGEST_SIDE = 2_000  # pixels


class Segmenter(NamedTuple):
    """What draws masks of images of any origin.

    Attributes:
        classes: names of the C classes that it can see.
        mask: of an image, uint8 (H, W, 3), the mask, uint8 (H, W): 0, or 1 + index of a class.
    """

    classes: Sequence[str]
    mask: Callable[[np.ndarray], np.ndarray]


def checkpoint_segmenter(weights: Path, profile: Profile) -> Segmenter:
    """DCSM with CRF, from the checkpoint of a classifier.

    Args:
        weights: the checkpoint.
        profile: the one that the classifier was trained with, whose sizes and thresholds fit it.

    Raises:
        WorkbookError: the weights cannot be read, or were trained with another profile.
    """
    classifier, classes = classifier_from_checkpoint(weights)
    _check_profile(weights, profile)
    return _dcsm_segmenter(classifier, classes, profile)


def _dcsm_segmenter(classifier: nn.Module, classes: Sequence[str], profile: Profile) -> Segmenter:
    model, threshold = prepare(fold_batch_norm(classifier), profile.saliency.precision), profile.classifier.threshold
    return Segmenter(classes, lambda image: segment_image(model, image, profile, threshold))


def shipped_segmenter(shipped: Shipped) -> Segmenter:
    """The best that is shipped."""
    return Segmenter(shipped.classes, shipped.mask)


def run_segmenter(run: Run) -> tuple[str, Segmenter]:
    """The last stage of a run that has been trained: dynamic or static refinement, PSA, or the classifier.

    Returns:
        The notebook that trained it, and what draws the masks.

    Raises:
        WorkbookError: not even the classifier is trained.
    """
    profile, dynamic = run.profile, dynamic_stage.dynamic_settings()[0]
    networks: dict[str, Callable[[], SegmentationNet]] = {
        dynamic_stage.NOTEBOOK: lambda: dynamic_stage.load_dynamic(run, dynamic),
        static_stage.NOTEBOOK: lambda: load_segmentation(run, "static", static_stage.NOTEBOOK),
        cam.NOTEBOOK: lambda: load_segmentation(run, "psa", cam.NOTEBOOK),
    }
    for made_by, load in networks.items():
        with suppress(WorkbookError):  # not trained, or under other settings
            return made_by, Segmenter(run.devkit.classes, partial(network_mask, load(), profile=profile))
    return CLASSIFIER, _dcsm_segmenter(load_classifier(run), run.devkit.classes, profile)


def expanded(names: Sequence[Path]) -> list[Path]:
    """Image files of a list of files, folders, whose images are taken without those below, and patterns like `*.jpg`.

    Raises:
        WorkbookError: a folder without images, or a pattern that nothing fits.
    """
    paths: list[Path] = []
    for name in names:
        if name.is_dir():
            found = image_files(name, below=False)
        elif not name.exists() and glob.has_magic(str(name)):
            found = [Path(path) for path in sorted(glob.glob(str(name), recursive=True)) if is_image(Path(path))]
        else:
            found = [name]
        if not found:
            raise WorkbookError(f"{name}: no images there; name files, a folder of images, or a pattern like '*.jpg'")
        paths += found
    return list(dict.fromkeys(paths))


def segment_files(
    images: Sequence[Path], segmenter: Segmenter, out: Path, labelme: bool = False, coco: bool = False
) -> dict[Path, dict[str, float]]:
    """Segment image files; for `cat.jpg` writes the mask `cat.png` and, to look at, `cat_overlay.jpg`.

    Both are turned as a person sees the image. An image with a side above 2,000 pixels is worked on in a smaller copy,
    and the mask is enlarged: memory and time grow with the pixels, and the maps have no more detail.

    Args:
        images: of any size and kind that `data.images.read_image` reads.
        segmenter: draws the masks.
        out: folder of the masks.
        labelme: also write `cat.json`, polygons that labelme opens.
        coco: also write `coco.json`, all masks as run-length codes.

    Returns:
        Of each image the share of the pixels of each class drawn, see `class_shares`.

    Raises:
        WorkbookError: an image cannot be read, the folder cannot be written, two images would write the same mask, or
            what lies beside an image would be overwritten.
    """
    written = [".png", "_overlay.jpg", *([".json"] if labelme else [])]
    _check_names(images, out, written)
    drawn, listed = {}, CocoFile(segmenter.classes)
    for path in tqdm(images, desc="segmenting"):
        image = read_image(path)
        mask = segmenter.mask(_at_most(image, LARGEST_SIDE))
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        write_palette_png(out / f"{path.stem}.png", mask)
        write_atomically(out / f"{path.stem}_overlay.jpg", _jpeg(overlay(image, mask)))
        if labelme:
            there = os.path.relpath(path.resolve(), out.resolve())
            write_json(out / f"{path.stem}.json", labelme_annotation(mask, segmenter.classes, there))
        if coco:
            listed.add(mask, path.name)
        drawn[path] = class_shares(mask, segmenter.classes)
    if coco:
        write_json(out / "coco.json", listed.value)
    return drawn


def class_shares(mask: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Share of the pixels of a mask, uint8 (H, W), that each drawn class has, in (0, 1]; largest first."""
    counts = np.bincount(mask.ravel(), minlength=len(classes) + 1)[1 : len(classes) + 1]
    return {classes[c]: float(counts[c] / mask.size) for c in np.argsort(-counts, kind="stable") if counts[c]}


def _check_profile(weights: Path, profile: Profile) -> None:
    """Compare what the weights were trained with: sizes and thresholds of another profile give other classes."""
    trained = read_checkpoint(weights)["settings"]
    found = {"data": {"image_size": trained["data"]["image_size"]}, "classifier": trained["classifier"]}
    values = plain(asdict(profile))
    for table, entries in found.items():
        for key, value in entries.items():
            if value != values[table][key]:
                raise WorkbookError(
                    f"{weights}: trained with {table}.{key} = {value!r}, but profile {profile.name!r} says "
                    f"{values[table][key]!r}; name the profile of the weights with --profile"
                )


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape[:2])
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    return image if scale >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _check_names(images: Sequence[Path], out: Path, written: Sequence[str]) -> None:
    """Refuse to lose anything: masks of two images, or files of the user, which lie where the images do."""
    check_stems(images)
    for path in images:
        if (out / f"{path.stem}.png").resolve() == path.resolve():
            raise WorkbookError(f"{path}: its mask would overwrite it; choose another folder with --out")
        if out.resolve() == path.resolve().parent:
            for target in (out / f"{path.stem}{ending}" for ending in written):
                if target.exists():
                    raise WorkbookError(f"{target}: would be overwritten; choose another folder with --out")


def check_stems(images: Sequence[Path]) -> None:
    """Refuse files that differ in folder or ending alone: what is written of them would have one name.

    Raises:
        WorkbookError: naming both.
    """
    seen: dict[str, Path] = {}
    for path in images:
        if path.stem in seen:
            raise WorkbookError(f"{path}: {seen[path.stem]} would write the same files; rename one")
        seen[path.stem] = path


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()
