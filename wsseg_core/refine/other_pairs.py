"""Pairs of masks for refinement that are not "before and after a dense CRF".

Refinement (SSDD: Shimoda & Yanai, ICCV 2019) can gain where the errors of knowledge and advice are unlike. A CRF starts
from the mask that it changes, so that the two share most of their errors; masks of different origin need not. None of
these pairs is in the paper. Each takes what earlier stages have left.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsseg_core.affinity.cam import NOTEBOOK as SEED_NOTEBOOK
from wsseg_core.affinity.cam import extract_cams, load_cam, train_cam
from wsseg_core.affinity.seeds import ImageSeeds, SeedMaps, draw_masks, mask_settings, seed_masks, seed_setting
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import SuperpixelCrfConfig, ZoomOutConfig
from wsseg_core.classify.classifier import other_network, train_classifier
from wsseg_core.crf.superpixel import superpixel_crf, superpixel_means
from wsseg_core.data.run import Run
from wsseg_core.forward.zoom_out import superpixels
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.refine.mask_pairs import Pair, mask_pair
from wsseg_core.refine.static_stage import NOTEBOOK
from wsseg_core.saliency.dcsm_seeds import dcsm_masks
from wsseg_core.saliency.gradients import prepare
from wsseg_core.segment.predictions import SegmentationMaps, extract_predictions, segmentation_setting

OWN = "psa_crf"  # SSDD's pair
# Knowledge and advice of each pair, for tables.
PAIRS = {
    OWN: ("PSA", "PSA, CRF"),
    "psa_dcsm": ("PSA, CRF", "DCSM, CRF"),
    "networks": ("network on PSA's seeds", "network on DCSM's"),
    "trunks": ("CAM, CRF", "CAM of the second network, CRF"),
    "superpixels": ("PSA", "PSA, superpixel CRF"),
}


def other_pairs(run: Run) -> dict[str, Pair]:
    """Draw the masks of all training images for each of `PAIRS` but SSDD's; what is on disk already is left alone.

    Args:
        run: the run; notebook 06 has run, and of notebook 07 the network on DCSM's masks (`dcsm_seeds`) is trained. The
            second network (`classifier.other_network`) is trained here if notebook 05 has not.

    Raises:
        WorkbookError: something is missing, or was made under other settings.
    """
    psa, psa_crf = mask_pair(run)
    return {
        "psa_dcsm": (psa_crf, dcsm_masks(run, run.train_ids, NOTEBOOK)),
        "networks": (_network_masks(run, "psa", SEED_NOTEBOOK), _network_masks(run, "dcsm_seeds", NOTEBOOK)),
        "trunks": (_cam_masks(run), _cam_masks(_second(run))),
        "superpixels": (psa, _superpixel_masks(run)),
    }


def _network_masks(run: Run, name: str, made_by: str) -> ArtifactStore:
    """What a segmentation network draws, within the labels of each image, without a CRF."""
    record = extract_predictions(run, name, run.train_ids, made_by).record
    store = ArtifactStore.create(run.artifacts("seeds") / f"net_{name}", record["settings"], NOTEBOOK)
    maps = SegmentationMaps(run, name, made_by, known_labels=True)
    draw_masks(store, run.train_ids, maps, segmentation_setting(run.profile, name))
    return store


def _cam_masks(run: Run) -> ArtifactStore:
    return seed_masks(run, run.train_ids, seed_setting(run.profile, "cam", crf=True))


def _second(run: Run) -> Run:
    """The run with the second network, whose class activation maps are on disk."""
    second = other_network(run)
    train_classifier(second)
    train_cam(second)
    extract_cams(second, prepare(fold_batch_norm(load_cam(second)), run.profile.saliency.precision), run.train_ids)
    return second


@dataclass(frozen=True)
class SuperpixelSeeds:
    """PSA's maps, whose masks are drawn by the superpixel CRF; made and used like `SeedMaps`."""

    maps: SeedMaps
    superpixels: ZoomOutConfig

    def of(self, image_id: str) -> "ImageSuperpixelSeeds":
        """The maps of one image."""
        return ImageSuperpixelSeeds(self.maps.of(image_id), self.superpixels)


@dataclass(frozen=True)
class ImageSuperpixelSeeds:
    """The maps of one image."""

    seeds: ImageSeeds
    superpixels: ZoomOutConfig

    def mask(self, setting: SuperpixelCrfConfig) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a known class; one label for each superpixel."""
        walked = self.seeds.walked
        assert walked is not None
        segments = superpixels(self.seeds.image, self.superpixels)
        means = superpixel_means(walked.numpy(), segments).clip(0, 1)
        labels = superpixel_crf(self.seeds.image, segments, means, setting)
        return np.concatenate([[0], self.seeds.classes + 1]).astype(np.uint8)[labels[segments]]


def _superpixel_masks(run: Run) -> ArtifactStore:
    profile = run.profile
    own: Mapping[str, Any] = {"superpixels": asdict(profile.zoomout), "crf": asdict(profile.superpixel_crf)}
    settings = mask_settings(run, seed_setting(profile, "psa")) | run.settings("crf.superpixel", **own)
    store = ArtifactStore.create(run.artifacts("seeds") / "psa_superpixel_crf", settings, NOTEBOOK)
    draw_masks(store, run.train_ids, SuperpixelSeeds(SeedMaps(run), profile.zoomout), profile.superpixel_crf)
    return store
