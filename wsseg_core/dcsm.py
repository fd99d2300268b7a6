"""From stored gradients to masks and their scores: DCSM with every choice of the paper left open.

One `Setting` is one row of a table. The maps of an image are read and up-sampled once, subtracted once for every N
and order, and only then combined, so that a sweep over alpha or the CRF costs little more than a single setting.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsseg_core.classifier import image_scores
from wsseg_core.config import CrfConfig, Profile
from wsseg_core.crf import dense_crf
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.extraction import conv_layers, load_maps, open_extraction, open_probabilities, planned_extractions
from wsseg_core.runs import Run
from wsseg_core.saliency import INPUT, saliency_maps
from wsseg_core.subtraction import RELEASED, aggregate, background, released_saliency, subtract


@dataclass(frozen=True)
class Setting:
    """One way from saliency maps to a mask; the defaults are the paper's but for the sizes, which are the profile's.

    Attributes:
        name: of the row.
        sizes: S of equation 5, input sizes in pixels.
        blocks: L of equation 5, blocks of VGG-16; none means the image itself (Simonyan et al.).
        guided: guided back-propagation, else plain.
        min_candidates: N; 0 means no subtraction.
        alpha: of equation 5.
        order: of subtraction and normalisation, see `subtraction.ORDERS`.
        crf: None for the arg-max of the maps.
        crf_source: where the CRF values are from, if not from the profile; every table says it.
    """

    name: str
    sizes: tuple[int, ...]
    blocks: tuple[int, ...] = (3, 4, 5)
    guided: bool = True
    min_candidates: int = 3
    alpha: float = 3.0
    order: str = "subtract_then_normalise"
    crf: CrfConfig | None = None
    crf_source: str = ""


def dcsm_setting(profile: Profile, name: str = "dcsm", crf: bool = False, **changes: Any) -> Setting:
    """The method with the values of a profile, and changes to them."""
    config = profile.subtraction
    setting = Setting(
        name,
        profile.saliency.sizes,
        profile.saliency.blocks,
        min_candidates=config.min_candidates,
        alpha=config.alpha,
        order=config.order,
        crf=profile.crf if crf else None,
    )
    return replace(setting, **changes)


def simonyan_setting(profile: Profile, name: str = "simonyan", crf: bool = False, **changes: Any) -> Setting:
    """The baseline: plain gradient at the image, one size, no subtraction, its own alpha."""
    own = {"sizes": (profile.data.image_size,), "blocks": (), "guided": False, "min_candidates": 0}
    return dcsm_setting(profile, name, crf, **own | {"alpha": profile.subtraction.simonyan_alpha} | changes)


class SavedMaps:
    """All maps that notebook 02 wrote for a run, opened and checked once.

    Raises:
        WorkbookError: notebook 02 has not run, or ran under other settings.
    """

    def __init__(self, run: Run) -> None:
        self.devkit = run.devkit
        self.threshold = run.profile.classifier.threshold
        self.probabilities = open_probabilities(run)
        self.stores = {
            (extraction.guided, extraction.size, layer): open_extraction(run, extraction)
            for extraction in planned_extractions(run.profile)
            for layer in extraction.layers
        }

    def of(self, image_id: str) -> "ImageMaps":
        """The maps of one image."""
        return ImageMaps(self, image_id)


class ImageMaps:
    """The stored maps of one image, recombined at will.

    Attributes:
        image: uint8 (H, W, 3).
        probabilities: float32 (C,), of the classes in the image.
        targets: T, how many classes are detected; they come first in every map.
        classes: int64 (T,), indices of the detected classes, best first.
    """

    def __init__(self, saved: SavedMaps, image_id: str) -> None:
        self.saved, self.image_id = saved, image_id
        self.image = saved.devkit.image(image_id)
        self.probabilities = saved.probabilities.load(image_id)["probabilities"]
        self.targets = int((self.probabilities > saved.threshold).sum())
        self.classes = np.argsort(-self.probabilities, kind="stable")[: self.targets]
        # Caches of the instance, so that the maps go when the image does.
        self.raw = cache(self._raw)
        self.subtracted = cache(self._subtracted)
        self.aggregated = cache(self._aggregated)

    def _raw(self, guided: bool, size: int, layer: str) -> Tensor:
        """Up-sampled gradients, float32 (K, H, W), best-scoring class first (DCSM eq. 3)."""
        _, maps = load_maps(self.saved.stores[guided, size, layer], self.image_id, [layer])
        return unpad(maps[layer], self.image.shape[:2])

    def _subtracted(self, guided: bool, size: int, layer: str, min_candidates: int, order: str) -> Tensor:
        """Maps of the detected classes, float32 (T, H, W) in [0, 1] (DCSM eq. 4)."""
        raw = self.raw(guided, size, layer)
        return subtract(raw, self.targets, min_candidates, order)

    def saliency(self, setting: Setting) -> Tensor:
        """Aggregated maps of the detected classes, float32 (T, H, W) in [0, 1] (DCSM eq. 5)."""
        return self.aggregated(replace(setting, name="", crf=None, crf_source=""))

    def _aggregated(self, setting: Setting) -> Tensor:
        groups = [conv_layers([block]) for block in setting.blocks] or [(INPUT,)]
        if setting.order == RELEASED:
            layers = [layer for group in groups for layer in group]
            raw = [[self.raw(setting.guided, size, layer) for layer in layers] for size in setting.sizes]
            return released_saliency(raw, self.targets, setting.min_candidates, setting.alpha)
        # A block counts once however many layers it has, as in table 2 ("the average of Block 3, Block 4, ...").
        blocks = [
            aggregate(
                [
                    self.subtracted(setting.guided, size, layer, setting.min_candidates, setting.order)
                    for size in setting.sizes
                    for layer in layers
                ],
                setting.alpha,
            )
            for layers in groups
        ]
        return torch.stack(blocks).mean(0)

    def label_probabilities(self, setting: Setting) -> np.ndarray:
        """What `label_probabilities` gives for the maps of a setting."""
        return label_probabilities(self.image, self.saliency(setting), setting.crf)

    def mask(self, setting: Setting) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a detected class."""
        return mask_from_saliency(self.image, self.saliency(setting), self.classes, setting.crf)


def label_probabilities(image: np.ndarray, saliency: Tensor, crf: CrfConfig | None) -> np.ndarray:
    """The background and every class at every pixel, before the best is drawn (DCSM 3.4).

    Args:
        image: uint8 (H, W, 3).
        saliency: float32 (T, H, W) in [0, 1], at least one class.
        crf: None for the maps as they are.

    Returns:
        float32 (T+1, H, W) in [0, 1], the background (eq. 7) first. Marginals of the CRF sum to 1, maps need not.
    """
    probabilities = torch.cat([background(saliency)[None], saliency]).numpy()
    return probabilities if crf is None else dense_crf(image, probabilities, crf)


def mask_from_saliency(image: np.ndarray, saliency: Tensor, classes: np.ndarray, crf: CrfConfig | None) -> np.ndarray:
    """Draw the best class, or the background, at every pixel (DCSM 3.4).

    Args:
        image: uint8 (H, W, 3).
        saliency: float32 (T, H, W) in [0, 1].
        classes: int64 (T,), indices of the classes.
        crf: None for the arg-max of the maps.

    Returns:
        uint8 (H, W), 0 for background, else 1 + class index. Without any class everything is background.
    """
    if len(classes) == 0:
        return np.zeros(image.shape[:2], np.uint8)
    values = np.concatenate([[0], classes + 1]).astype(np.uint8)
    return values[label_probabilities(image, saliency, crf).argmax(0)]


def segment_image(model: nn.Module, image: np.ndarray, profile: Profile, threshold: float = 0.5) -> np.ndarray:
    """Segment one image from scratch: classify, extract at every size, subtract, aggregate, CRF.

    Args:
        model: the classifier as `saliency.prepare` returns it.
        image: uint8 (H, W, 3), any size.
        profile: sizes, alpha, N, order and CRF values.
        threshold: a class is drawn above this probability.

    Returns:
        uint8 (H, W), 0 for background, else 1 + class index.
    """
    setting = dcsm_setting(profile, crf=True)
    base = resize_and_pad(image, profile.data.image_size)[None]
    with torch.inference_mode():
        probabilities = image_scores(model(base))[0].float().sigmoid().numpy()
    order = np.argsort(-probabilities, kind="stable")
    targets = int((probabilities > threshold).sum())
    candidates = torch.from_numpy(order[: max(targets, setting.min_candidates)])
    maps = []
    for size in setting.sizes if targets else ():
        batch = resize_and_pad(image, size)[None]
        raw = saliency_maps(model, batch, candidates[None], conv_layers(setting.blocks), setting.guided)
        maps += [
            subtract(unpad(m[0], image.shape[:2]), targets, setting.min_candidates, setting.order) for m in raw.values()
        ]
    saliency = aggregate(maps, setting.alpha) if targets else torch.zeros(0, *image.shape[:2])
    return mask_from_saliency(image, saliency, order[:targets], setting.crf)
