"""The first look: a few photographs from image to masks, on one page, with the weights that are shipped.

The photographs are free to use and come with installed packages: a cat (`skimage.data.chelsea`, by Stefan van der Walt)
and an astronaut (`skimage.data.astronaut`, NASA).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

from wsseg_core.base.files import write_atomically
from wsseg_core.data.images import read_image
from wsseg_core.saliency.dcsm import dcsm_setting, live_maps, live_score_map
from wsseg_core.segment.shipped import Shipped
from wsseg_core.workbook.own_images import check_stems, class_shares
from wsseg_core.workbook.plots import heat_overlay, overlay

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_SIDE = 480  # pixels, of the pictures on the page


@dataclass(frozen=True)
class ClassStory:
    """One class of one image.

    Attributes:
        name: of the class.
        probability: in [0, 1], what the classifier says.
        before: its saliency map over the image, uint8 (H, W, 3), not subtracted.
        after: the same after subtraction.
    """

    name: str
    probability: float
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Story:
    """One image on its way to masks.

    Attributes:
        title: of the image.
        image: uint8 (H, W, 3).
        classes: those that the classifier detects, best first.
        masks: overlays by what drew them, uint8 (H, W, 3).
        shares: of all pixels, in [0, 1], by class of the last mask.
    """

    title: str
    image: np.ndarray
    classes: list[ClassStory]
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


def free_photographs() -> dict[str, np.ndarray]:
    """The photographs that come with scikit-image, uint8 (H, W, 3), by title."""
    from skimage import data

    return {"cat": data.chelsea(), "astronaut": data.astronaut()}


def shown_images(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The free photographs and image files, uint8 (H, W, 3), by title.

    Raises:
        WorkbookError: an image cannot be read, or has the name of another one.
    """
    check_stems(files)
    return free_photographs() | {path.name: read_image(path) for path in files}


def tell(title: str, image: np.ndarray, shipped: Shipped) -> Story:
    """Take one image through the method: classifier, saliency, subtraction, CRF; and the network beside it.

    Args:
        title: of the image.
        image: uint8 (H, W, 3), any size.
        shipped: networks and their profile.
    """
    profile = shipped.profile
    score_map = live_score_map(shipped.classifier, image, profile.data.image_size)
    maps = live_maps(shipped.classifier, image, score_map, profile, profile.classifier.threshold)
    before, after = maps.saliencies([dcsm_setting(profile, min_candidates=0), dcsm_setting(profile)]).numpy()
    classes = [
        ClassStory(shipped.classes[c], float(maps.probabilities[c]), *(heat_overlay(image, heat) for heat in pair))
        for c, *pair in zip(maps.classes, before, after, strict=True)
    ]
    masks = {"saliency maps and CRF": maps.mask(dcsm_setting(profile, crf=True))}
    if shipped.network:
        masks["network and CRF"] = shipped.mask(image)
    *_, best = masks.values()
    shares = class_shares(best, shipped.classes)
    return Story(title, image, classes, {name: overlay(image, mask) for name, mask in masks.items()}, shares)


def write_demo(files: Sequence[Path], out: Path, shipped: Shipped) -> Path:
    """Write the page of the free photographs and of image files.

    Args:
        files: of any kind that `data.images.read_image` reads.
        out: folder of the page.
        shipped: networks and their profile.

    Returns:
        The page, one file that needs nothing else.

    Raises:
        WorkbookError: an image cannot be read, or the folder cannot be written.
    """
    images = shown_images(files)
    stories = [tell(title, image, shipped) for title, image in tqdm(images.items(), desc="segmenting", mininterval=1.0)]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    environment.filters["picture"] = _data_address
    text = environment.get_template("demo.html").render(stories=stories, classes=shipped.classes, card=shipped.card)
    write_atomically(out / "index.html", text.encode())
    return out / "index.html"


def _data_address(image: np.ndarray) -> str:
    """A picture within the page itself."""
    small, buffer = Image.fromarray(image), io.BytesIO()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    small.save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
