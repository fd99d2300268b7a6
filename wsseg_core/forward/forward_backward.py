"""From forward and backward maps to masks: every way of `class_maps` to unite them, and the CRFs after it.

Like `saliency.dcsm`, which does the same for the backward maps alone: one setting is one row of a table, and what the
settings of an image share is computed once. Rows of DCSM may stand among them. `SOURCES` has the forward maps by name.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, Profile, SuperpixelCrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import DenseCrf
from wsseg_core.crf.superpixel import superpixel_crf, superpixel_means
from wsseg_core.data.run import Run
from wsseg_core.forward.class_maps import (
    CLASS_MAPS,
    COMBINATIONS,
    FOREGROUNDS,
    add_background,
    check_name,
    combine,
    image_level_prior,
    open_score_maps,
    pixel_probabilities,
)
from wsseg_core.forward.zoom_out import open_class_maps
from wsseg_core.saliency.dcsm import ImageMaps, SavedMaps, Setting, dcsm_setting

Stored: TypeAlias = Mapping[str, np.ndarray]


class ForwardSource(NamedTuple):
    """Where class maps of the forward pass come from; a further one is a function, and an entry in `SOURCES`.

    Attributes:
        class_maps: given what is stored of an image, its `ForwardImageMaps` and the setting, the probability of each
            class at each pixel, float32 (C, H, W) in [0, 1].
        open: the store of a run, read when a setting first asks for the source; None where nothing is stored.
        superpixels: what is stored has `segments`, integers (H, W) from 0 to S − 1, each of them there.
    """

    class_maps: Callable[[Stored, "ForwardImageMaps", "ForwardSetting"], Tensor]
    open: Callable[[Run], ArtifactStore] | None = None
    superpixels: bool = False


def _score_map_probabilities(stored: Stored, maps: "ForwardImageMaps", setting: "ForwardSetting") -> Tensor:
    return pixel_probabilities(maps.score_map, maps.image.shape[:2], setting.class_map)


def _superpixel_probabilities(stored: Stored, maps: "ForwardImageMaps", setting: "ForwardSetting") -> Tensor:
    return torch.from_numpy(stored["probabilities"].T[:, stored["segments"]])  # (C, S) to (C, H, W)


SOURCES: dict[str, ForwardSource] = {
    "fcn": ForwardSource(_score_map_probabilities, open_score_maps),
    "zoomout": ForwardSource(_superpixel_probabilities, open_class_maps, superpixels=True),
}


@dataclass(frozen=True)
class ForwardSetting:
    """One way from class maps of the forward pass to a mask; a row of a table, like `dcsm.Setting`.

    Attributes:
        name: of the row.
        sizes: of all inputs that go into it, in pixels; only told in tables.
        source: of the forward maps, one of `SOURCES`: "fcn", the classifier's score map, or "zoomout", the mi-SVM on
            superpixels.
        class_map: one of `CLASS_MAPS`; of "fcn" alone.
        prior: weigh the forward maps with the image-level prior.
        saliency: the saliency maps that enhance them (its CRF is not used); None for the forward maps alone.
        combination: one of `COMBINATIONS`.
        foreground: one of `FOREGROUNDS`.
        crf: the dense CRF; None for none.
        crf_source: where the CRF values are from, if not from the profile.
        superpixel_crf: the CRF over the superpixels of "zoomout", in place of the dense one.

    Raises:
        WorkbookError: a name that is not known, or choices that do not go together.
    """

    name: str
    sizes: tuple[int, ...]
    source: str = "fcn"
    class_map: str = "softmax"
    prior: bool = True
    saliency: Setting | None = None
    combination: str = "product"
    foreground: str = "complement"
    crf: CrfConfig | None = None
    crf_source: str = ""
    superpixel_crf: SuperpixelCrfConfig | None = None

    def __post_init__(self) -> None:
        check_name("source", self.source, SOURCES)
        check_name("class map", self.class_map, CLASS_MAPS)
        check_name("combination", self.combination, COMBINATIONS)
        check_name("foreground", self.foreground, FOREGROUNDS)
        if self.foreground == "saliency" and self.saliency is None:
            raise WorkbookError(f"{self.name}: foreground 'saliency' needs saliency maps; use complement or otsu")
        if self.crf and self.superpixel_crf:
            raise WorkbookError(f"{self.name}: two CRFs; leave out `crf` or `superpixel_crf`")
        if self.superpixel_crf and not SOURCES[self.source].superpixels:
            raise WorkbookError(f"{self.name}: source {self.source!r} has no superpixels; use `crf` instead")


AnySetting: TypeAlias = Setting | ForwardSetting


def forward_setting(
    profile: Profile, name: str, source: str = "fcn", crf: bool = False, saliency: bool = True, **changes: Any
) -> ForwardSetting:
    """The method with the values of a profile, and changes to them.

    Args:
        profile: the profile.
        name: of the row.
        source: of the forward maps, one of `SOURCES`.
        crf: with the dense CRF.
        saliency: enhanced by guided back-propagation at all layers and sizes of DCSM, without its subtraction;
            else the forward maps alone, with the background of DCSM eq. 7 where the profile asks for saliency.
        changes: to any attribute.
    """
    config, base = profile.forward, profile.data.image_size
    maps = dcsm_setting(profile, "gbp", min_candidates=0) if saliency else None
    setting = ForwardSetting(
        name,
        sizes=tuple(sorted({base, *maps.sizes})) if maps else (base,),
        source=source,
        class_map=config.class_map,
        saliency=maps,
        combination=config.combination,
        foreground=config.foreground if maps or config.foreground != "saliency" else "complement",
        crf=profile.crf if crf else None,
    )
    return replace(setting, **changes)


@lru_cache(maxsize=8)  # a worker process is sent a copy of `ForwardMaps` with every image
def _opened(run: Run, source: str) -> ArtifactStore | None:
    open_store = SOURCES[source].open
    return open_store(run) if open_store else None


class ForwardMaps:
    """Forward maps of every source and saliency maps of a run, for all settings of DCSM and of this module.

    Attributes:
        devkit: the data set.
        known_labels: the image-level labels decide which classes are drawn, not the classifier.
        depends_on: what the maps depend on.
    """

    def __init__(self, run: Run, saved: SavedMaps) -> None:
        """Take the saliency maps; the maps of a source are opened when a setting first asks for them.

        Args:
            run: the run.
            saved: its saliency maps; they also say which classes of an image are drawn.
        """
        self.run, self.saved = run, saved
        self.devkit, self.known_labels = saved.devkit, saved.known_labels
        own = run.settings("forward.forward_backward", zoomout=asdict(run.profile.zoomout))
        self.depends_on: Mapping[str, Any] = {**saved.depends_on, **own}

    def of(self, image_id: str) -> "ForwardImageMaps":
        """The maps of one image.

        Its methods raise a WorkbookError where the maps of a source were not stored, or under other settings.
        """
        return ForwardImageMaps(self.saved.of(image_id), partial(self._read, image_id))

    def _read(self, image_id: str, source: str) -> Stored:
        store = _opened(self.run, source)
        return store.load(image_id) if store else {}


class ForwardImageMaps:
    """The maps of one image, recombined at will; made and used like `dcsm.ImageMaps`.

    Attributes:
        image: uint8 (H, W, 3).
        probabilities: float32 (C,), of the classes in the image.
        targets: T, how many classes are drawn; they come first in every map.
        classes: int64 (T,), indices of the drawn classes.
    """

    def __init__(self, maps: ImageMaps, read: Callable[[str], Stored]) -> None:
        """Take the saliency maps, and a function that gives what is stored of this image by source.

        Args:
            maps: saliency maps; the classes to draw are theirs.
            read: of "fcn" it gives `scores`, float (C, h, w), of the padded square input, before the sigmoid; of
                "zoomout" `segments`, see `ForwardSource`, and `probabilities`, float32 (S, C) in [0, 1].
        """
        self.maps, self.stored = maps, cache(read)
        self.image, self.probabilities = maps.image, maps.probabilities
        self.targets, self.classes = maps.targets, maps.classes

    @property
    def score_map(self) -> Tensor:
        """The classifier's score map, float (C, h, w)."""
        return torch.from_numpy(self.stored("fcn")["scores"])

    def class_maps(self, setting: ForwardSetting) -> Tensor:
        """Forward maps of the drawn classes, float32 (T, H, W) in [0, 1]: before the saliency maps, after the prior."""
        maps = SOURCES[setting.source].class_maps(self.stored(setting.source), self, setting)[self.classes]
        return image_level_prior(maps, torch.from_numpy(self.probabilities[self.classes])) if setting.prior else maps

    def label_probabilities(self, setting: AnySetting) -> np.ndarray:
        """The background and every class at every pixel, before the best is drawn.

        Returns:
            float32 (T+1, H, W) in [0, 1], the background first. A superpixel CRF decides for a label and has no
            marginals: that label has 1 and the others 0.
        """
        if isinstance(setting, Setting):
            return self.maps.label_probabilities(setting)
        [(_, probabilities)] = self._refined([setting])
        return probabilities

    def mask(self, setting: AnySetting) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a drawn class."""
        return self.masks([setting])[0]

    def masks(self, settings: Sequence[AnySetting]) -> list[np.ndarray]:
        """Masks under many settings of both kinds. Those that differ in names alone are drawn once."""
        nameless: list[AnySetting] = [replace(setting, name="", crf_source="") for setting in settings]
        plain = [setting for setting in nameless if isinstance(setting, Setting)]
        drawn: dict[AnySetting, np.ndarray] = dict(zip(plain, self.maps.masks(plain), strict=True))
        values = np.concatenate([[0], self.classes + 1]).astype(np.uint8)
        forward = list(dict.fromkeys(setting for setting in nameless if isinstance(setting, ForwardSetting)))
        drawn |= {setting: values[labels.argmax(0)] for setting, labels in self._refined(forward)}
        return [drawn[setting] for setting in nameless]

    def _refined(self, settings: Sequence[ForwardSetting]) -> Iterator[tuple[ForwardSetting, np.ndarray]]:
        """Label probabilities under distinct settings; those that differ in the CRF alone share maps."""
        maps_of = {setting: replace(setting, crf=None, superpixel_crf=None) for setting in settings}
        unrefined = self._unrefined(dict.fromkeys(maps_of.values()))
        for config in dict.fromkeys(setting.crf for setting in settings):
            crf = DenseCrf(self.image, config) if config else None  # its kernels serve all settings that share it
            for setting in settings:
                if setting.crf == config:
                    yield setting, self._refine(unrefined[maps_of[setting]], setting, crf)

    def _unrefined(self, settings: Collection[ForwardSetting]) -> dict[ForwardSetting, np.ndarray]:
        wanted = list(dict.fromkeys(setting.saliency for setting in settings if setting.saliency))
        saliencies = dict(zip(wanted, self.maps.saliencies(wanted), strict=True))
        result = {}
        for setting in settings:
            maps, saliency = self.class_maps(setting), None
            if setting.saliency:
                saliency = saliencies[setting.saliency]
                maps = combine(maps, saliency, setting.combination)
            result[setting] = add_background(maps, saliency, setting.foreground).numpy()
        return result

    def _refine(self, probabilities: np.ndarray, setting: ForwardSetting, crf: DenseCrf | None) -> np.ndarray:
        if setting.superpixel_crf is None:
            return crf(probabilities) if crf else probabilities
        segments = self.stored(setting.source)["segments"]
        means = superpixel_means(probabilities, segments)
        labels = superpixel_crf(self.image, segments, means, setting.superpixel_crf)
        return np.eye(len(probabilities), dtype=np.float32)[:, labels[segments]]
