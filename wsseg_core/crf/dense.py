"""Dense CRF: class maps are drawn to the edges of the image. The only CRF over pixels in the project.

Energy of a labelling x of all pixels (DCSM 3.4; Krähenbühl & Koltun, NIPS 2011):

    E(x) = sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] k(f_i, f_j)
    k    = w1 exp(-|p_i - p_j|^2 / 2 gamma_alpha^2 - |I_i - I_j|^2 / 2 gamma_beta^2)
         + w2 exp(-|p_i - p_j|^2 / 2 gamma_gamma^2)                                      (DCSM eq. 8)

with p the position and I the colour of a pixel. Mean-field inference gives the marginals.
Source: Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation",
ECCV 2016. Departures: pydensecrf divides each kernel by its sum over the neighbours (symmetrically), which the
equation does not print, and filters on a permutohedral lattice, so a kernel is approximate. Where `max_side` asks for
it, a photograph is made smaller first and its marginals larger again: half the side takes a quarter of the time.
"""

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError

REFERENCE_SIZE = 500  # pixels of the longest side at which gamma_alpha and gamma_gamma are given
MIN_PROBABILITY = 1e-3  # keeps -log p finite; the paper does not say where it clips


def dense_crf(image: np.ndarray, probabilities: np.ndarray, config: CrfConfig) -> np.ndarray:
    """Refine class maps by mean-field inference in a dense CRF (DCSM eq. 8).

    Args:
        image: uint8 (H, W, 3), RGB.
        probabilities: float (K, H, W) in [0, 1], one row for each class drawn, background included. Rows need
            not sum to one: the background of DCSM eq. 7 is 1 - max, and the energy does not care.
        config: weights, kernel widths at 500 pixels, iterations.

    Returns:
        float32 (K, H, W), marginals that sum to 1 over K. With K = 1 there is nothing to decide and the row is
        returned as it came.

    Raises:
        WorkbookError: wrong shapes or types, values that are not in [0, 1], a bad config, or no pydensecrf.
    """
    return DenseCrf(image, config)(probabilities)


class DenseCrf:
    """The dense CRF of one image, for class maps of many kinds.

    Most of the time goes into the kernels, which depend on the image alone; they are built once for each number of
    labels. Arguments, results and errors are those of `dense_crf`.
    """

    def __init__(self, image: np.ndarray, config: CrfConfig) -> None:
        _check_config(config)
        check_image(image, "dense CRF")
        self.image = _shrunk(image, config.max_side)  # what the kernels are built of
        self.size, self.config = image.shape[:2], scale_widths(config, *self.image.shape[:2])
        self._models: dict[int, Any] = {}

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Marginals, float32 (K, H, W), of class maps, float (K, H, W) in [0, 1]."""
        _check_probabilities(self.size, probabilities)
        num_labels = len(probabilities)
        if num_labels == 1:
            return probabilities.astype(np.float32)
        if num_labels not in self._models:
            self._models[num_labels] = self._build(num_labels)
        model = self._models[num_labels]
        size = self.image.shape[:2]
        unary = -np.log(_resized(probabilities, size).clip(MIN_PROBABILITY, 1.0)).reshape(num_labels, -1)  # (K, h*w)
        model.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
        marginals = np.array(model.inference(self.config.iterations), dtype=np.float32)
        return _resized(marginals.reshape(num_labels, *size), self.size)

    def _build(self, num_labels: int) -> Any:
        config, (height, width) = self.config, self.image.shape[:2]
        model = _pydensecrf().DenseCRF2D(width, height, num_labels)
        if config.w2 > 0:
            model.addPairwiseGaussian(sxy=config.gamma_gamma, compat=config.w2)
        if config.w1 > 0:
            colours = np.array(self.image, order="C")  # a copy, because pydensecrf asks for a writable one
            model.addPairwiseBilateral(sxy=config.gamma_alpha, srgb=config.gamma_beta, rgbim=colours, compat=config.w1)
        return model


def _shrunk(image: np.ndarray, max_side: int) -> np.ndarray:
    """An image, uint8 (H, W, 3), whose longest side is at most `max_side`; as it is with 0."""
    height, width = image.shape[:2]
    ratio = max_side / max(height, width)
    if not 0 < ratio < 1:
        return image
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def _resized(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Maps, float (K, H, W), at another size (h, w): means where it is smaller, bilinear where it is larger."""
    if maps.shape[1:] == tuple(size):
        return maps
    kind = cv2.INTER_AREA if size[0] < maps.shape[1] or size[1] < maps.shape[2] else cv2.INTER_LINEAR
    rows = np.ascontiguousarray(maps)
    return np.stack([cv2.resize(row, (size[1], size[0]), interpolation=kind) for row in rows])


def scale_widths(config: CrfConfig, height: int, width: int) -> CrfConfig:
    """The config for an image of this size: gamma_alpha and gamma_gamma scale with the longest side.

    gamma_beta is in grey levels and never scales.
    """
    ratio = max(height, width) / REFERENCE_SIZE
    return replace(config, gamma_alpha=config.gamma_alpha * ratio, gamma_gamma=config.gamma_gamma * ratio)


def check_image(image: np.ndarray, model: str) -> None:
    """Refuse what is not an image, uint8 (H, W, 3), in the name of a model.

    Raises:
        WorkbookError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise WorkbookError(
            f"{model}: the image must be RGB uint8 (H, W, 3), not {image.dtype} {image.shape}; "
            "convert it with PIL's Image.convert('RGB')"
        )


def check_range(probabilities: np.ndarray, model: str) -> None:
    """Refuse class maps, of any shape, with values that are not in [0, 1], in the name of a model.

    Raises:
        WorkbookError: such a value, or NaN.
    """
    if not (np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1):
        raise WorkbookError(
            f"{model}: class maps hold values outside [0, 1] or NaN; normalise them (a map divided by a maximum "
            "of 0 gives NaN), then run again"
        )


def _check_probabilities(size: tuple[int, ...], probabilities: np.ndarray) -> None:
    if probabilities.ndim != 3 or not len(probabilities) or probabilities.shape[1:] != size:
        raise WorkbookError(
            f"dense CRF: class maps must be (K, H, W) = (K, {size[0]}, {size[1]}) like the image, "
            f"not {probabilities.shape}; resize them to the image first"
        )
    check_range(probabilities, "dense CRF")


def _check_config(config: CrfConfig) -> None:
    widths = {name: getattr(config, name) for name in ("gamma_alpha", "gamma_beta", "gamma_gamma")}
    weights = {"w1": config.w1, "w2": config.w2}
    for name, value in {**widths, **weights}.items():
        if not math.isfinite(value) or value < 0 or (name in widths and value == 0):
            wanted = "above 0" if name in widths else "0 or more"
            raise WorkbookError(f"crf.{name} = {value!r} must be {wanted}; mend it in the profile")
    if config.iterations < 0:
        raise WorkbookError(f"crf.iterations = {config.iterations!r} must be 0 or more; mend it in the profile")


def _pydensecrf() -> ModuleType:
    # Imported here, so that everything but the CRF works where it could not be compiled.
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise WorkbookError(
            "pydensecrf is missing: it is compiled on installation and needs a C++ compiler; "
            "run `apt-get install g++`, then `uv sync`"
        ) from None
    return densecrf
