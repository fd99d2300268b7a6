"""Masks that are on disk already, as a source of scores: one row a store, nothing is drawn again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run


@dataclass(frozen=True)
class StoredSetting:
    """Masks as a stage wrote them; a row of a table, like `dcsm.Setting`.

    Attributes:
        name: of the row.
        store: which masks, a key of `StoredMasks.stores`.
        crf: the dense CRF that the masks have behind them, if any; only told in tables, as is the rest.
        crf_source: where the CRF values are from, if not from the profile.
        sizes: of the inputs, in pixels.
    """

    name: str
    store: str
    crf: CrfConfig | None = None
    crf_source: str = ""
    sizes: tuple[int, ...] = ()


class StoredMasks:
    """Masks of images with known labels, in one store a kind; a `scoring.Source`.

    Args:
        run: the run.
        stores: by name. Of every image `mask`, uint8 (H, W) at the size of the image: 0 background, c + 1 for class c,
            or 255 for void.

    Attributes:
        devkit: the data set.
        known_labels: True; the masks were drawn with the image-level labels (seed protocol).
        depends_on: what the masks depend on, by name.
    """

    known_labels = True

    def __init__(self, run: Run, stores: Mapping[str, ArtifactStore]) -> None:
        self.devkit, self.stores = run.devkit, stores
        self.depends_on: Mapping[str, Any] = {name: store.record for name, store in stores.items()}

    def of(self, image_id: str) -> "ImageMasks":
        """The masks of one image."""
        return ImageMasks(image_id, self.devkit.labels(image_id).astype(np.float32), self.stores)


@dataclass(frozen=True)
class ImageMasks:
    """The masks of one image, read when asked for.

    Attributes:
        image_id: of the image.
        probabilities: float32 (C,), of the classes in the image; known, so 0 or 1.
        stores: see `StoredMasks`.
    """

    image_id: str
    probabilities: np.ndarray
    stores: Mapping[str, ArtifactStore]

    def mask(self, setting: StoredSetting) -> np.ndarray:
        """uint8 (H, W): 0, 1 + index of a class, or 255.

        Raises:
            WorkbookError: no store of that name, or the image is not in it.
        """
        if setting.store not in self.stores:
            raise WorkbookError(f"{setting.name}: no masks {setting.store!r}; use one of {', '.join(self.stores)}")
        return self.stores[setting.store].load(self.image_id)["mask"]

    def masks(self, settings: Sequence[StoredSetting]) -> list[np.ndarray]:
        """Masks under many settings."""
        return [self.mask(setting) for setting in settings]
