"""What a trained segmentation network says about images, and the masks that follow, with or without a CRF.

Inference as in SSDD (Shimoda & Yanai, ICCV 2019): several sizes, each also mirrored, averaged; then a dense CRF. The
authors' code does not average: it sums the probabilities of ten inputs and takes the softmax of the sum, which drives
apart what is close and makes the CRF change less. That is a named choice here (`SegmentationSetting.unary`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, Profile, SegmentationConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.features import open_features
from wsseg_core.crf.dense import DenseCrf
from wsseg_core.data.run import Run
from wsseg_core.nets.backbones import FrozenBackbone
from wsseg_core.nets.segmentation import STRIDE, SegmentationNet
from wsseg_core.segment.retraining import (
    learns_from_features,
    load_segmentation,
    network_folder,
    network_settings,
    scaled,
)

UNARIES = ("mean", "summed")
SUMMED_VIEWS = 10  # in SSDD's code, five sizes and their mirror images; the same where a profile looks fewer times
MIN_PEAK = 0.01  # a label that is nowhere more probable than this is left out of the CRF, whose time grows with them


def inference_sizes(config: SegmentationConfig) -> tuple[int, ...]:
    """Longest sides of the inputs, in pixels; scale 1 is the middle of the sizes that training shows.

    SSDD takes the image's own size for scale 1, on VOC 500 pixels, where this gives 480. So a photograph of any size is
    seen as the network learnt to see.
    """
    middle = config.crop * sum(config.resize_range) / 2
    return tuple(_whole_cells(scale * middle) for scale in config.scales)


def _whole_cells(side: float) -> int:
    """The nearest side that is a multiple of the stride, so that no pixel is left beside the grid."""
    return max(1, round(side / STRIDE)) * STRIDE


def input_size(image: np.ndarray, longest: int) -> tuple[int, int]:
    """(height, width) of an input from an image (H, W, 3) whose longest side is given, both of them whole cells."""
    height, width = (_whole_cells(side * longest / max(image.shape[:2])) for side in image.shape[:2])
    return height, width


@torch.inference_mode()
def grid_log_probabilities(
    model: SegmentationNet, image: np.ndarray, sizes: Sequence[int], flip: bool = True
) -> Tensor:
    """The mean, over sizes and mirrorings, of the probabilities of all labels, on the grid of the largest input.

    Args:
        model: in evaluation mode.
        image: uint8 (H, W, 3), any size.
        sizes: longest sides of the inputs, in pixels; both sides of an input are rounded to whole cells of the grid.
        flip: also mirrored.

    Returns:
        float32 (C+1, h, w), logarithms, the background first; about one cell for 8 pixels of the largest input.
    """
    like = next(model.parameters())  # for its device and precision
    inputs = [input_size(image, size) for size in sizes]
    grid = [side // STRIDE for side in max(inputs)]
    views = []
    for height, width in inputs:
        pixels = scaled(image, (height, width))
        batch = torch.stack([pixels, pixels.flip(2)] if flip else [pixels])
        scores = model(batch.to(like).to(memory_format=torch.channels_last)).scores.float()
        straight, *mirrored = F.interpolate(scores, grid, mode="bilinear").log_softmax(1)
        views += [straight, *(view.flip(2) for view in mirrored)]
    return torch.stack(views).logsumexp(0) - math.log(len(views))


@torch.inference_mode()
def stored_log_probabilities(model: SegmentationNet, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The same from the stored features of an image, as the network was taught: padded, and its mirrored maps.

    Args:
        model: in evaluation mode, with a trunk that does not learn.
        maps: what `features.FeatureStore` holds of the image, float32 (channels, s, s) each.
        size: (H, W) of the image.

    Returns:
        float32 (C+1, h, w), logarithms, the background first, on a grid of the image without its padding.
    """
    like = next(model.parameters())
    scores = model([torch.stack([values, values.flip(2)]).to(like) for values in maps]).scores.float()
    straight, mirrored = scores.log_softmax(1)
    square = torch.stack([straight, mirrored.flip(2)]).logsumexp(0) - math.log(2)
    return without_padding(square, size)


def without_padding(square: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a map of a padded square, (K, s, s), in which the image of (H, W) is, interpolated to whole cells."""
    height, width = (side / max(size) for side in size)
    part = torch.tensor([[width, 0, width - 1], [0, height, height - 1]]).to(square)  # seen from -1 to 1
    cells = [max(1, round(share * square.shape[1])) for share in (height, width)]
    places = F.affine_grid(part[None], [1, 1, *cells], align_corners=False)
    return F.grid_sample(square[None], places, padding_mode="border", align_corners=False)[0]


def pixel_probabilities(log_probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities of labels at every pixel; what is interpolated are logits, so that edges stay sharp.

    Args:
        log_probabilities: float (K, h, w), of all labels or of some, which then share what the others had.
        size: (H, W) of the image.

    Returns:
        float32 (K, H, W), with sum 1 over K.
    """
    return F.interpolate(log_probabilities[None].float(), size, mode="bilinear")[0].softmax(0)


def predict(model: SegmentationNet, image: np.ndarray, sizes: Sequence[int], flip: bool = True) -> Tensor:
    """Probabilities of all labels at every pixel, float32 (C+1, H, W); arguments of `grid_log_probabilities`."""
    return pixel_probabilities(grid_log_probabilities(model, image, sizes, flip), image.shape[:2])


def extract_predictions(
    run: Run, name: str, ids: Sequence[str], made_by: str, model: SegmentationNet | None = None
) -> ArtifactStore:
    """Write what a network says about images; those that are on disk already are left alone.

    Args:
        run: the run.
        name: of the network.
        ids: images.
        made_by: the notebook that trained it.
        model: the network, where another stage trained it under this name; left out, what `train_segmentation` left.

    Returns:
        The store. Of every image `log_probabilities`, float16 (C+1, h, w), of `grid_log_probabilities` at the profile's
        scales, mirrored too: up to 0.24 MB an image of VOC. Where the network learnt from stored features and is to
        look at their size alone, of `stored_log_probabilities`.

    Raises:
        WorkbookError: the errors of `load_segmentation`.
    """
    settings = _prediction_settings(run, name, made_by)
    store = ArtifactStore.create(_prediction_folder(run, name), settings, made_by)
    if missing := store.missing(ids):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = (model or load_segmentation(run, name, made_by)).to(device).to(memory_format=torch.channels_last)
        look = reader(run, model, settings["sizes"])
        for image_id in tqdm(missing, desc=f"predictions of {name}", mininterval=1.0):
            store.save(image_id, log_probabilities=look(image_id).half().cpu().numpy())
    return store


def reader(run: Run, model: SegmentationNet, sizes: Sequence[int]) -> Callable[[str], Tensor]:
    """What gives the logarithms of the probabilities of an image of the run, see `extract_predictions`, by its id."""
    size = run.profile.features.dense_size
    if not learns_from_features(run.profile) or tuple(sizes) != (size,):
        return lambda image_id: grid_log_probabilities(model, run.devkit.image(image_id), sizes)
    backbone = cast(FrozenBackbone, model.encoder.backbone)
    store = open_features(run, backbone.trunk)

    def look(image_id: str) -> Tensor:
        maps = store.load(image_id, size, backbone.names)
        return stored_log_probabilities(model, maps, run.devkit.size(image_id))

    return look


def _prediction_folder(run: Run, name: str) -> Path:
    return run.artifacts("predictions") / name


def _prediction_settings(run: Run, name: str, made_by: str) -> dict[str, Any]:
    network = ArtifactStore.open(network_folder(run, name), made_by, network_settings(run))
    return network.record["settings"] | {"sizes": inference_sizes(run.profile.segmentation)}


@dataclass(frozen=True)
class SegmentationSetting:
    """One way from predictions to a mask; a row of a table, like `dcsm.Setting`.

    Attributes:
        name: of the row.
        sizes: longest sides of the inputs, in pixels; only told in tables.
        crf: None for the arg-max of the probabilities.
        crf_source: what tables say of the CRF beside its values.
        unary: what the CRF starts from: the "mean" of the probabilities over all inputs, or as SSDD's code "summed",
            the softmax of their sum over ten inputs.

    Raises:
        WorkbookError: another unary.
    """

    name: str
    sizes: tuple[int, ...]
    crf: CrfConfig | None = None
    crf_source: str = ""
    unary: str = "mean"

    def __post_init__(self) -> None:
        if self.unary not in UNARIES:
            raise WorkbookError(f"{self.name}: unary {self.unary!r} is not known; use {' or '.join(UNARIES)}")


def segmentation_setting(profile: Profile, name: str, crf: bool = False, unary: str = "mean") -> SegmentationSetting:
    """A row with the values of a profile."""
    config, source = profile.seed_crf if crf else None, "summed unary" if unary == "summed" else ""
    return SegmentationSetting(name, inference_sizes(profile.segmentation), config, source, unary)


def network_rows(profile: Profile, name: str) -> list[SegmentationSetting]:
    """The rows of one network: without a CRF, and with it over either unary."""
    row = f"net_{name}"
    by_unary = {f"{row}_crf": "mean", f"{row}_crf_summed": "summed"}
    refined = [segmentation_setting(profile, key, crf=True, unary=unary) for key, unary in by_unary.items()]
    return [segmentation_setting(profile, row), *refined]


class SegmentationMaps:
    """The predictions of one network, for `scoring.score_settings`.

    Args:
        run: the run.
        name: of the network.
        made_by: the notebook that trained it.
        known_labels: only the image-level labels may be drawn (seed protocol). Else the network chooses among all
            classes, as PSA and SSDD are scored on val; the classifier has no say.

    Raises:
        WorkbookError: nothing was extracted yet, or under other settings.
    """

    def __init__(self, run: Run, name: str, made_by: str, known_labels: bool = False) -> None:
        self.devkit, self.known_labels = run.devkit, known_labels
        settings = _prediction_settings(run, name, made_by)
        self.store = ArtifactStore.open(_prediction_folder(run, name), made_by, settings)
        self.depends_on: Mapping[str, Any] = self.store.record["settings"]

    def of(self, image_id: str) -> "SegmentationImageMaps":
        """The predictions for one image."""
        log_probabilities = torch.from_numpy(self.store.load(image_id)["log_probabilities"])
        drawn = self.devkit.labels(image_id) > 0 if self.known_labels else np.ones(self.devkit.num_classes, bool)
        return SegmentationImageMaps(self.devkit.image(image_id), log_probabilities, drawn)


class SegmentationImageMaps:
    """The predictions for one image; made and used like `dcsm.ImageMaps`.

    Attributes:
        image: uint8 (H, W, 3).
        classes: int64 (T,), indices of the classes that may be drawn.
        targets: T.
    """

    def __init__(self, image: np.ndarray, log_probabilities: Tensor, drawn: np.ndarray) -> None:
        """Take an image, the logarithms of its probabilities, float (C+1, h, w), and bool (C,), what may be drawn."""
        self.image, self.classes, self.targets = image, np.flatnonzero(drawn), int(drawn.sum())
        self._labels = np.concatenate([[0], self.classes + 1])
        self._log_probabilities = log_probabilities
        self._crfs: dict[CrfConfig, DenseCrf] = {}  # rows that differ in their unary have the same kernels

    @cached_property
    def _unrefined(self) -> np.ndarray:
        """float32 (T+1, H, W), before a CRF."""
        return pixel_probabilities(self._log_probabilities[self._labels], self.image.shape[:2]).numpy()

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float32 (C,) in [0, 1]: how probable each class is where it is most probable; 0 of one not to be drawn."""
        peaks = np.zeros(len(self._log_probabilities), np.float32)
        peaks[self._labels] = self._unrefined.max((1, 2))
        return peaks[1:]

    def label_probabilities(self, setting: SegmentationSetting) -> np.ndarray:
        """The background and every class that may be drawn at every pixel, before the best is drawn.

        Returns:
            float32 (T+1, H, W) in [0, 1], with sum 1; 0 everywhere for a label that is left out of the CRF.
        """
        if setting.crf is None:
            return self._unrefined
        peaks = self._unrefined.max((1, 2))
        kept = peaks >= min(MIN_PEAK, peaks.max())
        refined = np.zeros_like(self._unrefined)
        unary = self._unrefined[kept]
        if setting.unary == "summed":
            unary = torch.from_numpy(SUMMED_VIEWS * unary).softmax(0).numpy()
        if setting.crf not in self._crfs:
            self._crfs[setting.crf] = DenseCrf(self.image, setting.crf)
        refined[kept] = self._crfs[setting.crf](unary)
        return refined

    def mask(self, setting: SegmentationSetting) -> np.ndarray:
        """uint8 (H, W): 0, or 1 + index of a class."""
        return self.masks([setting])[0]

    def masks(self, settings: Sequence[SegmentationSetting]) -> list[np.ndarray]:
        """Masks under many settings. Those that differ in names alone are drawn once."""
        nameless = [replace(setting, name="", crf_source="") for setting in settings]
        values = self._labels.astype(np.uint8)
        drawn = {s: values[self.label_probabilities(s).argmax(0)] for s in dict.fromkeys(nameless)}
        return [drawn[setting] for setting in nameless]
