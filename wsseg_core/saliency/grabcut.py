"""Simonyan et al.'s segmentation of one image from the saliency map of one class: colour models and a graph cut.

Simonyan, Vedaldi & Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models and
Saliency Maps", ICLR 2014 workshop, section 3.2, with the colour mixtures and the cut of OpenCV's GrabCut (Rother,
Kolmogorov & Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts", SIGGRAPH 2004).
"""

import cv2
import numpy as np

FOREGROUND_QUANTILE, BACKGROUND_QUANTILE = 0.95, 0.30  # of the saliency map, section 3.2
NO_BOX = (0, 0, 0, 0)  # OpenCV asks for a rectangle also where labels are given


def grabcut_mask(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Cut the object of one class out of an image.

    Pixels above the 95 % quantile of the map give the foreground's colour mixture and those up to the 30 % one the
    background's. Both kinds keep their label; one graph cut with the mixtures held fixed labels the others. The
    mixtures are not estimated again from its result, as GrabCut goes on to do and the paper does not.

    Args:
        image: RGB uint8 (H, W, 3).
        saliency: float (H, W), at least 0, any scale.

    Returns:
        bool (H, W), true on the object; nowhere when no pixel stands out, as in a constant map.
    """
    foreground = saliency > np.quantile(saliency, FOREGROUND_QUANTILE)
    background = saliency <= np.quantile(saliency, BACKGROUND_QUANTILE)  # with "<" a map of many zeros has none
    if not foreground.any():
        return foreground
    mixtures = _colour_mixtures(image, foreground, background)
    labels = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    labels[foreground], labels[background] = cv2.GC_FGD, cv2.GC_BGD
    cv2.grabCut(image, labels, NO_BOX, *mixtures, 1, cv2.GC_EVAL_FREEZE_MODEL)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def grabcut_labels(image: np.ndarray, maps: np.ndarray, class_indices: np.ndarray) -> np.ndarray:
    """Draw several classes, each cut out by itself; the paper has one an image.

    Args:
        image: RGB uint8 (H, W, 3).
        maps: float (T, H, W), comparable among the classes, for instance each over its maximum.
        class_indices: int64 (T,), the class of each row, from 0.

    Returns:
        uint8 (H, W): 0 background, c + 1 for class c. Where cuts overlap, the class with the larger map wins.
    """
    labels, best = np.zeros(image.shape[:2], np.uint8), np.full(image.shape[:2], -np.inf)
    for index, saliency in zip(class_indices, maps, strict=True):
        wins = grabcut_mask(image, saliency) & (saliency > best)
        labels[wins], best[wins] = index + 1, saliency[wins]
    return labels


def _colour_mixtures(
    image: np.ndarray, foreground: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Background's and foreground's mixture of five Gaussians, as OpenCV stores them, from the chosen pixels alone."""
    pixels = np.concatenate([image[foreground], image[background]])[None]  # (1, n, 3)
    labels = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    labels[0, : foreground.sum()] = cv2.GC_FGD
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # k-means, from which the mixtures start, draws its first centres at random
    cv2.grabCut(pixels, labels, NO_BOX, *mixtures, 0, cv2.GC_INIT_WITH_MASK)
    return mixtures
