"""Seeds: the masks that class activation maps give, before their walk along pixel affinities and after it.

The known labels of an image decide which classes are drawn. One setting is one row of a table; PSA's masks without and
with a CRF are the knowledge and the advice of difference detection (SSDD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsseg_core.affinity.cam import NOTEBOOK, input_sizes, load_cams, map_settings, open_cams
from wsseg_core.affinity.pairs import upsample, with_background
from wsseg_core.affinity.psa import draw, open_walks, pixels_per_position, walk_settings
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.crf.dense import DenseCrf
from wsseg_core.data.run import Run

KINDS = ("cam", "psa")


@dataclass(frozen=True)
class SeedSetting:
    """One way from an image's maps to a mask of its known classes; a row of a table, like `dcsm.Setting`.

    Attributes:
        name: of the row.
        kind: "cam", the class activation maps, or "psa", the same after their walk.
        alpha: of the background score; that of "psa" was chosen when the walk started.
        sizes: of all inputs that go into it, in pixels; only told in tables.
        crf: the dense CRF; None for the arg-max of the maps.
        crf_source: where the CRF values are from, if not from the profile.

    Raises:
        WorkbookError: another kind.
    """

    name: str
    kind: str
    alpha: float
    sizes: tuple[int, ...]
    crf: CrfConfig | None = None
    crf_source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorkbookError(f"{self.name}: seeds of kind {self.kind!r} are not known; use {' or '.join(KINDS)}")


def seed_setting(profile: Profile, kind: str, crf: bool = False, **changes: Any) -> SeedSetting:
    """Seeds with the values of a profile, and changes to them; named after the kind, with `_crf` where there is one."""
    name, refined = f"{kind}_crf" if crf else kind, profile.seed_crf if crf else None
    return replace(SeedSetting(name, kind, profile.cam.alpha, input_sizes(profile.cam), refined), **changes)


def seed_settings(profile: Profile) -> list[SeedSetting]:
    """CAM and PSA, each without a CRF and with it.

    Difference detection (SSDD) takes `psa` for its knowledge and `psa_crf` for its advice.
    """
    return [seed_setting(profile, kind, crf) for kind in KINDS for crf in (False, True)]


class SeedMaps:
    """The maps of all images of a run, opened and checked once; a `scoring.Source`.

    Args:
        run: the run.
        walked: also those after the walk; without them only seeds of kind "cam" can be drawn.

    Attributes:
        devkit: the data set.
        known_labels: True; the image-level labels decide which classes are drawn (seed protocol).
        depends_on: what the maps depend on.

    Raises:
        WorkbookError: maps are missing, or were made under other settings.
    """

    known_labels = True

    def __init__(self, run: Run, walked: bool = True) -> None:
        self.devkit, self.walk_alpha = run.devkit, run.profile.cam.alpha
        self.stride = partial(pixels_per_position, run)
        self.depends_on: Mapping[str, Any] = {"walks": walk_settings(run)} if walked else {"cams": map_settings(run)}
        self.cams, self.walks = open_cams(run), open_walks(run) if walked else None

    def of(self, image_id: str) -> "ImageSeeds":
        """The maps of one image."""
        image = self.devkit.image(image_id)
        classes, cam = load_cams(self.cams, image_id, image.shape[:2])
        walked = None
        if self.walks:
            stored = torch.from_numpy(self.walks.load(image_id)["walked"])
            walked = upsample(stored, self.stride(image.shape[:2]), image.shape[:2])
        return ImageSeeds(image, self.devkit.labels(image_id).astype(np.float32), classes, cam, walked, self.walk_alpha)


@dataclass(frozen=True)
class ImageSeeds:
    """The maps of one image, before a mask is drawn.

    Attributes:
        image: uint8 (H, W, 3).
        probabilities: float32 (C,), of the classes in the image; known, so 0 or 1.
        classes: int64 (K,), indices of the known classes.
        cam: float32 (K, H, W) in [0, 1].
        walked: float32 (1 + K, H, W) in [0, 1], the background first; None where the walks were not opened.
        walk_alpha: of the background score from which the walk started.
    """

    image: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray
    cam: Tensor
    walked: Tensor | None
    walk_alpha: float

    def maps(self, setting: SeedSetting) -> Tensor:
        """What the CRF starts from, float32 (1 + K, H, W) in [0, 1], the background first.

        Raises:
            WorkbookError: for "psa" another α than that of the walk, or no walks.
        """
        if setting.kind == "cam":
            return with_background(self.cam, setting.alpha)
        if setting.alpha != self.walk_alpha:
            raise WorkbookError(
                f"{setting.name}: alpha = {setting.alpha:g}, but the walk started from {self.walk_alpha:g}; "
                f"change cam.alpha in the profile and run notebook {NOTEBOOK} again"
            )
        if self.walked is None:
            raise WorkbookError(f"{setting.name}: opened without the walks; use SeedMaps(run, walked=True)")
        return self.walked

    def label_probabilities(self, setting: SeedSetting) -> np.ndarray:
        """The background and every known class at every pixel, before the best is drawn: float32 (1 + K, H, W).

        Marginals of the CRF sum to 1, maps need not.
        """
        probabilities = self.maps(setting).numpy()
        return DenseCrf(self.image, setting.crf)(probabilities) if setting.crf else probabilities

    def mask(self, setting: SeedSetting) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a known class."""
        return self.masks([setting])[0]

    def masks(self, settings: Sequence[SeedSetting]) -> list[np.ndarray]:
        """Masks under many settings."""
        drawn: dict[SeedSetting, np.ndarray] = {}
        for config in dict.fromkeys(setting.crf for setting in settings):
            refine = DenseCrf(self.image, config) if config else np.asarray  # its kernels serve all that share it
            same = [setting for setting in settings if setting.crf == config]
            drawn |= {setting: draw(refine(self.maps(setting).numpy()), self.classes) for setting in same}
        return [drawn[setting] for setting in settings]


def seed_masks(run: Run, ids: Sequence[str], setting: SeedSetting, workers: int | None = None) -> ArtifactStore:
    """Write the masks of images under a setting, to learn from; images that are on disk already are left alone.

    Args:
        run: the run; `cam.extract_cams` and `extract_walks` have run.
        ids: images.
        setting: its name is that of the folder under `artifacts/seeds`.
        workers: processes; all cores when left out.

    Returns:
        The store. Of every image: `mask`, uint8 (H, W), 0 background, c + 1 for class c.

    Raises:
        WorkbookError: maps are missing, or were made under other settings.
    """
    maps = SeedMaps(run, walked=setting.kind == "psa")
    store = ArtifactStore.create(_mask_folder(run, setting), mask_settings(run, setting), NOTEBOOK)
    draw_masks(store, ids, maps, setting, workers)
    return store


def draw_masks(store: ArtifactStore, ids: Sequence[str], maps: Any, setting: Any, workers: int | None = None) -> None:
    """Write the masks of images from maps of any kind; images that are on disk already are left alone.

    Args:
        store: open for writing. Of every image: `mask`, uint8 (H, W).
        ids: images.
        maps: a `scoring.Source`.
        setting: what its images take for a setting.
        workers: processes; all cores when left out.
    """
    work = partial(_draw_image, maps=maps, setting=setting, store=store)
    description = f"masks ({store.folder.name})"
    for _ in parallel_map(work, store.missing(ids), description=description, workers=workers, few=FEW_IMAGES):
        pass


def _draw_image(image_id: str, maps: Any, setting: Any, store: ArtifactStore) -> None:
    store.save(image_id, mask=maps.of(image_id).mask(setting))


def mask_settings(run: Run, setting: SeedSetting) -> dict[str, Any]:
    """What the masks depend on."""
    maps = walk_settings(run) if setting.kind == "psa" else map_settings(run)
    return maps | {"seeds": asdict(setting)}


def _mask_folder(run: Run, setting: SeedSetting) -> Path:
    return run.artifacts("seeds") / setting.name


def open_seed_masks(run: Run, setting: SeedSetting) -> ArtifactStore:
    """The masks that `seed_masks` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(_mask_folder(run, setting), NOTEBOOK, mask_settings(run, setting))
