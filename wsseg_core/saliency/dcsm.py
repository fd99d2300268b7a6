"""From stored gradients to masks: DCSM with every choice of the paper left open.

One `Setting` is one row of a table. Of one image, the maps are read and up-sampled once, subtracted once for every N
and order, and squashed once for every alpha, so that a whole table costs little more than the CRF of its rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import classifier_settings, image_scores, pooling_of
from wsseg_core.crf.dense import DenseCrf
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.saliency.extraction import (
    layer_groups,
    load_maps,
    open_extraction,
    open_probabilities,
    planned_extractions,
)
from wsseg_core.saliency.grabcut import grabcut_labels
from wsseg_core.saliency.gradients import INPUT, saliency_maps
from wsseg_core.saliency.subtraction import RELEASED, aggregate, background, candidates, released_saliency, subtract

ReadMaps: TypeAlias = Callable[[np.ndarray, bool, int, Sequence[str]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Setting:
    """One way from saliency maps to a mask; the defaults are the paper's but for the sizes, which are the profile's.

    Attributes:
        name: of the row.
        sizes: S of equation 5, input sizes in pixels.
        layers: L of equation 5, in groups of which each counts once, however many layers it has; as the averages of
            table 2 do. The layer `input` is the image itself (Simonyan et al.).
        guided: guided back-propagation, else plain.
        min_candidates: N; 0 means no subtraction.
        alpha: of equation 5.
        order: of subtraction and normalisation, see `subtraction.ORDERS`.
        crf: None for the arg-max of the maps.
        crf_source: where the CRF values are from, if not from the profile; every table says it.
        grabcut: cut each class out by its colours instead (Simonyan et al.).
    """

    name: str
    sizes: tuple[int, ...]
    layers: tuple[tuple[str, ...], ...]
    guided: bool = True
    min_candidates: int = 3
    alpha: float = 3.0
    order: str = "subtract_then_normalise"
    crf: CrfConfig | None = None
    crf_source: str = ""
    grabcut: bool = False

    def parts(self) -> list["Part"]:
        """The terms whose mean is the class map; the released variant sums the layers first and has none."""
        if self.order == RELEASED:
            return []
        rule = (self.min_candidates, self.order, self.alpha)
        return [Part(self.guided, size, layers, *rule) for size in self.sizes for layers in self.layers]


def dcsm_setting(profile: Profile, name: str = "dcsm", crf: bool = False, **changes: Any) -> Setting:
    """The method with the values of a profile, and changes to them."""
    config = profile.subtraction
    setting = Setting(
        name,
        profile.saliency.sizes,
        layer_groups(profile),
        min_candidates=config.min_candidates,
        alpha=config.alpha,
        order=config.order,
        crf=profile.crf if crf else None,
    )
    return replace(setting, **changes)


def simonyan_setting(profile: Profile, name: str = "simonyan", crf: bool = False, **changes: Any) -> Setting:
    """The baseline: plain gradient at the image, one size, no subtraction, its own alpha."""
    own = {"sizes": (profile.data.image_size,), "layers": ((INPUT,),), "guided": False, "min_candidates": 0}
    return dcsm_setting(profile, name, crf, **own | {"alpha": profile.subtraction.simonyan_alpha} | changes)


class Part(NamedTuple):
    """What equation 5 averages: the layers of one block at one input size, subtracted and squashed."""

    guided: bool
    size: int
    layers: tuple[str, ...]
    min_candidates: int
    order: str
    alpha: float


class SavedMaps:
    """All maps that notebook 02 wrote for a run, opened and checked once.

    Args:
        run: the run.
        known_labels: the image-level labels decide which classes are drawn (seed protocol), not the classifier.

    Raises:
        WorkbookError: notebook 02 has not run, or ran under other settings.
    """

    def __init__(self, run: Run, known_labels: bool = False) -> None:
        self.devkit, self.known_labels = run.devkit, known_labels
        self.threshold = run.profile.classifier.threshold
        self.depends_on: Mapping[str, Any] = run.settings(
            "saliency.dcsm",
            classifier=classifier_settings(run),
            threshold=self.threshold,
            precision=run.profile.saliency.precision,
        )
        self.probabilities = open_probabilities(run)
        opened = [(extraction, open_extraction(run, extraction)) for extraction in planned_extractions(run.profile)]
        self.stores = {(e.guided, e.size, layer): store for e, store in opened for layer in e.layers}

    def of(self, image_id: str) -> "ImageMaps":
        """The maps of one image."""
        probabilities = self.probabilities.load(image_id)["probabilities"]
        drawn = self.devkit.labels(image_id) > 0 if self.known_labels else probabilities > self.threshold
        return ImageMaps(self.devkit.image(image_id), probabilities, drawn, partial(self.read, image_id))

    def read(
        self, image_id: str, ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Raw maps of one image at one input size, float32 (K, h, h) by layer, in the order of a ranking of classes.

        Raises:
            WorkbookError: they are not among what notebook 02 extracts.
        """
        by_store: dict[ArtifactStore, list[str]] = {}
        for layer in layers:
            by_store.setdefault(self._store(guided, size, layer), []).append(layer)
        maps: dict[str, Tensor] = {}
        for store, names in by_store.items():
            classes, stored = load_maps(store, image_id, names)
            row_of = {int(c): row for row, c in enumerate(classes)}
            rows = [row_of[c] for c in ranking.tolist() if c in row_of]
            maps |= {name: values[rows] for name, values in stored.items()}
        return maps

    def _store(self, guided: bool, size: int, layer: str) -> ArtifactStore:
        if (guided, size, layer) not in self.stores:
            kind = "guided" if guided else "plain"
            raise WorkbookError(
                f"no {kind} maps of {layer} at {size} pixels; set saliency.ablations = true, or add them "
                "to `extraction.planned_extractions`"
            )
        return self.stores[guided, size, layer]


class ImageMaps:
    """The maps of one image, recombined at will.

    Attributes:
        image: uint8 (H, W, 3).
        probabilities: float32 (C,), of the classes in the image.
        targets: T, how many classes are drawn; they come first in every map.
        ranking: int64 (C,), indices of all classes, the drawn ones before the others, each part best first.
        classes: int64 (T,), indices of the drawn classes.
    """

    def __init__(self, image: np.ndarray, probabilities: np.ndarray, drawn: np.ndarray, read: ReadMaps) -> None:
        """Take an image, its class probabilities, and a function that gives its raw maps.

        Args:
            image: uint8 (H, W, 3).
            probabilities: float32 (C,) in [0, 1].
            drawn: bool (C,), the classes to draw: those that are detected (test protocol) or known (seed protocol).
            read: given the ranking, `guided`, an input size and layers, the raw maps by layer, float32 (K, h, h), of
                the K leading classes of the ranking.
        """
        self.image, self.probabilities, self.read = image, probabilities, read
        scores = torch.from_numpy(probabilities)
        order, self.targets = candidates(scores, torch.from_numpy(drawn), min_candidates=len(probabilities))
        self.ranking = order.numpy()
        self.classes = self.ranking[: self.targets]

    def raw(self, guided: bool, size: int, layers: Sequence[str], rows: int | None = None) -> list[Tensor]:
        """Up-sampled gradients of some layers, each float32 (K, H, W), in the order of the ranking (DCSM eq. 3).

        Args:
            guided: guided back-propagation, else plain.
            size: of the input, in pixels.
            layers: names.
            rows: only so many classes; all that there are when left out.

        Raises:
            WorkbookError: there are maps of fewer classes.
        """
        maps = self.read(self.ranking, guided, size, layers)
        wanted = min(rows or 0, len(self.ranking))
        for layer in layers:
            if len(maps[layer]) < wanted:
                raise WorkbookError(
                    f"{layer} at {size} pixels has maps of {len(maps[layer])} classes, but {wanted} are to compete; "
                    "lower N, or raise saliency.max_classes in the profile and run notebook 02 again"
                )
        return [unpad(maps[layer][:rows], self.image.shape[:2]) for layer in layers]

    def saliency(self, setting: Setting) -> Tensor:
        """Class maps of the detected classes, float32 (T, H, W) in [0, 1] (DCSM eq. 5)."""
        return self.saliencies([setting])[0]

    def saliencies(self, settings: Sequence[Setting]) -> Tensor:
        """Class maps under many settings, float32 (len(settings), T, H, W) in [0, 1]; what they share is done once."""
        result = torch.zeros(len(settings), self.targets, *self.image.shape[:2])
        if self.targets == 0:
            return result
        users: dict[Part, list[int]] = {}
        for index, setting in enumerate(settings):
            for part in setting.parts():
                users.setdefault(part, []).append(index)
        for part, value in self._parts(users):
            for index in users[part]:
                result[index] += value
        for index, setting in enumerate(settings):
            # The sum of n values up to 1 is never rounded above n, so that their mean stays in [0, 1].
            mean = result[index] / max(len(setting.parts()), 1)
            result[index] = self._released(setting) if setting.order == RELEASED else mean
        return result

    def _parts(self, wanted: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Every part once, float32 (T, H, W); maps are read and up-sampled once, and subtracted once for each rule."""
        for (guided, size, layers), same_maps in groupby(sorted(wanted), key=itemgetter(0, 1, 2)):
            parts = list(same_maps)
            raw = self.raw(guided, size, layers, max(self.targets, *(part.min_candidates for part in parts)))
            for (min_candidates, order), same_rule in groupby(parts, key=attrgetter("min_candidates", "order")):
                differences = [subtract(maps, self.targets, min_candidates, order) for maps in raw]
                for part in same_rule:
                    yield part, aggregate(differences, part.alpha)

    def _released(self, setting: Setting) -> Tensor:
        rows = max(self.targets, setting.min_candidates)
        layers = [layer for group in setting.layers for layer in group]
        raw = [self.raw(setting.guided, size, layers, rows) for size in setting.sizes]
        return released_saliency(raw, self.targets, setting.min_candidates, setting.alpha)

    def label_probabilities(self, setting: Setting) -> np.ndarray:
        """What `label_probabilities` gives for the maps of a setting."""
        return label_probabilities(self.image, self.saliency(setting), setting.crf)

    def mask(self, setting: Setting) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a detected class."""
        return self.masks([setting])[0]

    def masks(self, settings: Sequence[Setting]) -> list[np.ndarray]:
        """Masks under many settings. Those that differ in names alone are drawn once, in the CRF alone share maps."""
        nameless = [replace(setting, name="", crf_source="") for setting in settings]
        distinct = list(dict.fromkeys(nameless))
        maps_of = {setting: replace(setting, crf=None, grabcut=False) for setting in distinct}
        kinds = list(dict.fromkeys(maps_of.values()))
        saliencies = dict(zip(kinds, self.saliencies(kinds), strict=True))
        drawn: dict[Setting, np.ndarray] = {}
        for config in dict.fromkeys(setting.crf for setting in distinct):
            crf = DenseCrf(self.image, config) if config else None  # its kernels serve all settings that share it
            drawn |= {s: self._draw(saliencies[maps_of[s]], s, crf) for s in distinct if s.crf == config}
        return [drawn[setting] for setting in nameless]

    def _draw(self, saliency: Tensor, setting: Setting, crf: DenseCrf | None) -> np.ndarray:
        if setting.grabcut:
            return grabcut_labels(self.image, saliency.numpy(), self.classes)
        return mask_from_saliency(self.image, saliency, self.classes, crf)


def label_probabilities(image: np.ndarray, saliency: Tensor, crf: CrfConfig | DenseCrf | None) -> np.ndarray:
    """The background and every class at every pixel, before the best is drawn (DCSM 3.4).

    Args:
        image: uint8 (H, W, 3).
        saliency: float32 (T, H, W) in [0, 1], at least one class.
        crf: its values, or the CRF of this image, ready made; None for the maps as they are.

    Returns:
        float32 (T+1, H, W) in [0, 1], the background (eq. 7) first. Marginals of the CRF sum to 1, maps need not.
    """
    probabilities = torch.cat([background(saliency)[None], saliency]).numpy()
    refine = DenseCrf(image, crf) if isinstance(crf, CrfConfig) else crf
    return refine(probabilities) if refine else probabilities


def mask_from_saliency(
    image: np.ndarray, saliency: Tensor, classes: np.ndarray, crf: CrfConfig | DenseCrf | None
) -> np.ndarray:
    """Draw the best class, or the background, at every pixel (DCSM 3.4).

    Args:
        image: uint8 (H, W, 3).
        saliency: float32 (T, H, W) in [0, 1].
        classes: int64 (T,), indices of the classes.
        crf: its values, or the CRF of this image, ready made; None for the arg-max of the maps.

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
    score_map = live_score_map(model, image, profile.data.image_size)
    return live_maps(model, image, score_map, profile, threshold).mask(dcsm_setting(profile, crf=True))


@torch.inference_mode()
def live_score_map(model: nn.Module, image: np.ndarray, size: int) -> Tensor:
    """Scores of an image, uint8 (H, W, 3), of the padded square of a size: float32 (C, h, w), before the sigmoid."""
    return model(resize_and_pad(image, size)[None].to(next(model.parameters())))[0].float().cpu()


def live_maps(model: nn.Module, image: np.ndarray, score_map: Tensor, profile: Profile, threshold: float) -> ImageMaps:
    """Maps of an image that are extracted when a setting asks for them.

    Args:
        model: the classifier as `saliency.prepare` returns it.
        image: uint8 (H, W, 3), any size.
        score_map: of the image, as `live_score_map` gives it at the base size.
        profile: base size, and N.
        threshold: a class is drawn above this probability.
    """
    probabilities = image_scores(score_map[None], pooling_of(model))[0].sigmoid().numpy()
    drawn = probabilities > threshold
    count = max(int(drawn.sum()), profile.subtraction.min_candidates)
    return ImageMaps(image, probabilities, drawn, partial(_extracted, model, image, count))


def _extracted(
    model: nn.Module,
    image: np.ndarray,
    count: int,
    ranking: np.ndarray,
    guided: bool,
    size: int,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """Raw maps of the leading classes of one image, float32 (count, h, h) by layer, made on the spot."""
    classes = ranking[:count]
    device = next(model.parameters()).device
    images, class_indices = resize_and_pad(image, size)[None].to(device), torch.from_numpy(classes)[None].to(device)
    maps = saliency_maps(model, images, class_indices, layers, guided)
    return {layer: values[0].cpu() for layer, values in maps.items()}
