"""Masks for images of one's own, from a trained classifier."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.classify.classifier import classifier_from_checkpoint
from wsseg_core.data.images import read_image, write_palette_png
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import segment_image
from wsseg_core.saliency.gradients import prepare
from wsseg_core.workbook.plots import overlay


def segment_files(images: Sequence[Path], weights: Path, out: Path, profile: Profile) -> dict[Path, list[str]]:
    """Segment image files; for `cat.jpg` writes the mask `cat.png` and, to look at, `cat_overlay.jpg`.

    Args:
        images: of any size, grey, RGB or RGBA.
        weights: checkpoint of a classifier.
        out: folder of the masks.
        profile: values of the method; sizes and thresholds fit the classifier that was trained with them.

    Returns:
        Names of the classes drawn in each image.

    Raises:
        WorkbookError: an image or the weights cannot be read, the folder cannot be written, or two images would
            write the same mask.
    """
    _check_names(images, out)
    classifier, classes = classifier_from_checkpoint(weights)
    model = prepare(fold_batch_norm(classifier), profile.saliency.precision)
    drawn = {}
    for path in tqdm(images, desc="segmenting"):
        image = read_image(path)
        mask = segment_image(model, image, profile, profile.classifier.threshold)
        write_palette_png(out / f"{path.stem}.png", mask)
        write_atomically(out / f"{path.stem}_overlay.jpg", _jpeg(overlay(image, mask)))
        drawn[path] = [classes[value - 1] for value in np.unique(mask) if value > 0]
    return drawn


def _check_names(images: Sequence[Path], out: Path) -> None:
    seen: dict[str, Path] = {}
    for path in images:
        if path.stem in seen:
            raise WorkbookError(f"{path}: {seen[path.stem]} would write the same {out / path.stem}.png; rename one")
        if (out / f"{path.stem}.png").resolve() == path.resolve():
            raise WorkbookError(f"{path}: its mask would overwrite it; choose another folder with --out")
        seen[path.stem] = path


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()
