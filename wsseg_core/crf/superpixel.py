"""CRF over superpixels: labels of neighbours agree unless their colours differ.

Energy of a labelling l of the S superpixels, a contrast-weighted Potts model:

    E(l) = sum_s -log p_s(l_s) + weight · sum_{(s,t) neighbours} b_st exp(-|I_s - I_t|^2 / 2 gamma_beta^2) [l_s != l_t]

with I the mean colour and b_st the length of the border that s and t share, divided by the mean length of all borders
of the image. A contour thus costs in proportion to its length, however the superpixels cut it into pieces, and the
same `weight` serves every image size. The unary does not count pixels: a superpixel is one observation, whatever
its area.

Inference: alpha-expansion (Boykov, Veksler & Zabih, "Fast approximate energy minimization via graph cuts", PAMI 2001).
Each move is a minimum cut, and a Potts model needs no auxiliary nodes for it (Kolmogorov & Zabih, "What energy
functions can be minimized via graph cuts?", PAMI 2004). Two labels are solved exactly; with more the energy is at most
twice the smallest one.

Shimoda & Yanai, "Weakly-Supervised Segmentation by Combining CNN Feature Maps and Object Saliency Maps", say only
"super-pixel-based CRF": the energy, its values and the inference are our choice.
"""

import math

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from wsseg_core.base.config import SuperpixelCrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import MIN_PROBABILITY, check_image, check_range

MODEL = "superpixel CRF"  # how error messages name it
LARGEST_FLOW = 2**30  # scipy's maximum flow counts in int32; half of its range leaves room for rounding


def superpixel_crf(
    image: np.ndarray, segments: np.ndarray, probabilities: np.ndarray, config: SuperpixelCrfConfig
) -> np.ndarray:
    """Label the superpixels of an image: arg-max of their probabilities, smoothed where colours agree.

    Args:
        image: uint8 (H, W, 3), RGB.
        segments: int (H, W), the superpixel of every pixel, each of 0..S-1 present.
        probabilities: float (K, S) in [0, 1], one row for each label, background included; columns need not sum to
            one. Clipped to at least `crf.MIN_PROBABILITY`, as for the dense CRF.
        config: weight of the borders and width of the colour kernel.

    Returns:
        int64 (S,), the row of `probabilities` that each superpixel gets. The lower row wins a tie of the arg-max.

    Raises:
        WorkbookError: wrong shapes or types, values that are not in [0, 1], superpixels that are not numbered
            0..S-1, or a bad config.
    """
    _check_config(config)
    check_image(image, MODEL)
    _check_segments(image, segments)
    _check_probabilities(segments, probabilities)
    unary = -np.log(probabilities.clip(MIN_PROBABILITY, 1.0).astype(np.float64))
    pairs, lengths = neighbours(segments)
    colours = superpixel_means(np.moveaxis(image, 2, 0), segments).T  # (S, 3)
    apart = ((colours[pairs[:, 0]] - colours[pairs[:, 1]]) ** 2).sum(1)  # (P,)
    relative_lengths = lengths * len(lengths) / lengths.sum()  # one superpixel has no border: P is 0, as is the result
    costs = config.weight * relative_lengths * np.exp(-apart / 2 / config.gamma_beta**2)
    return alpha_expansion(unary, pairs, costs)


def neighbours(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Superpixels that touch, and for how long.

    Args:
        segments: int (H, W), at least 0.

    Returns:
        Pairs (s, t) with s < t, int64 (P, 2), in lexicographic order; and the lengths of their borders, int64 (P,):
        how many times a pixel of s is the 4-neighbour of a pixel of t.
    """
    across = np.stack([segments[:, :-1].ravel(), segments[:, 1:].ravel()])
    down = np.stack([segments[:-1].ravel(), segments[1:].ravel()])
    touching = np.concatenate([across, down], axis=1).astype(np.int64)  # (2, n)
    touching = np.sort(touching[:, touching[0] != touching[1]], axis=0)
    pairs, lengths = np.unique(touching.T, axis=0, return_counts=True)
    return pairs, lengths


def superpixel_means(maps: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Mean of each map over each superpixel.

    Args:
        maps: float or uint8 (K, H, W); class maps, or the channels of an image.
        segments: int (H, W), 0..S-1, each number used.

    Returns:
        float64 (K, S).
    """
    labels = segments.ravel()
    return np.stack([np.bincount(labels, values.ravel()) for values in maps]) / np.bincount(labels)


def alpha_expansion(unary: np.ndarray, pairs: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Minimise a Potts energy: sum_s unary[l_s, s] + sum over pairs of costs [l_s != l_t].

    Starts at the smallest unary and makes the best expansion of one label after the other until none helps. Energies
    are whole numbers inside, so that each move lowers them for certain and the search ends. Their unit is 2^-30 of
    the largest sum of terms: 300 superpixels, three labels and weight 1 give a few 1e-6.

    Args:
        unary: float (K, S), at least 0.
        pairs: int (P, 2), two different nodes of 0..S-1, each pair once.
        costs: float (P,), at least 0.

    Returns:
        int64 (S,) in 0..K-1. Exact for K = 2 and at most twice the smallest energy for K > 2, up to the unit.
    """
    labels = unary.argmin(axis=0)
    # A pair that costs more than all unary terms together is never cut; more would only make the unit coarser.
    costs = np.minimum(costs, np.ptp(unary, axis=0).sum() + 1)
    unit = max(unary.max(axis=0).sum() + 2 * costs.sum(), 1.0) / LARGEST_FLOW
    unary, costs = np.rint(unary / unit).astype(np.int64), np.rint(costs / unit).astype(np.int64)
    changed = True
    while changed:
        before = labels.copy()
        for label in range(len(unary)):
            labels[_best_expansion(labels, label, unary, pairs, costs)] = label
        changed = not np.array_equal(labels, before)
    return labels


def _best_expansion(
    labels: np.ndarray, label: int, unary: np.ndarray, pairs: np.ndarray, costs: np.ndarray
) -> np.ndarray:
    """The smallest set of nodes that had best take a label; empty where the energy cannot be lowered.

    With x_s = 1 for a node that takes the label, and V_xy what a pair (s, t) costs at x_s = x, x_t = y:

        V = V_00 + (V_10 - V_00) x_s - V_10 x_t + (V_01 + V_10 - V_00) (1 - x_s) x_t

    where V_11 = 0. Nodes on the source's side of the minimum cut are those with x = 1.
    """
    nodes = np.arange(len(labels))
    s, t = pairs.T
    stay = costs * (labels[s] != labels[t])  # V_00
    only_s, only_t = costs * (labels[t] != label), costs * (labels[s] != label)  # V_10, V_01
    gain = unary[labels, nodes] - unary[label]  # of x = 1
    np.add.at(gain, s, stay - only_s)
    np.add.at(gain, t, only_s)
    source, sink = len(labels), len(labels) + 1
    tails = np.concatenate([np.full_like(nodes, source), nodes, t])
    heads = np.concatenate([nodes, np.full_like(nodes, sink), s])
    capacities = np.concatenate([gain.clip(min=0), (-gain).clip(min=0), only_s + only_t - stay])
    graph = csr_array((capacities.astype(np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    residual = (graph - maximum_flow(graph, source, sink).flow) > 0
    reached = breadth_first_order(residual, source, return_predecessors=False)
    return reached[reached != source]


def _check_config(config: SuperpixelCrfConfig) -> None:
    if not (math.isfinite(config.weight) and config.weight >= 0):
        raise WorkbookError(f"superpixel_crf.weight = {config.weight!r} must be 0 or more; mend it in the profile")
    if not (math.isfinite(config.gamma_beta) and config.gamma_beta > 0):
        raise WorkbookError(
            f"superpixel_crf.gamma_beta = {config.gamma_beta!r} must be above 0; mend it in the profile"
        )


def _check_segments(image: np.ndarray, segments: np.ndarray) -> None:
    if segments.shape != image.shape[:2] or not np.issubdtype(segments.dtype, np.integer):
        raise WorkbookError(
            f"{MODEL}: segments must be whole numbers (H, W) = {image.shape[:2]} like the image, "
            f"not {segments.dtype} {segments.shape}; compute them on this very image"
        )


def _check_probabilities(segments: np.ndarray, probabilities: np.ndarray) -> None:
    if probabilities.ndim != 2 or not probabilities.size:
        raise WorkbookError(
            f"{MODEL}: probabilities must be (K, S), not {probabilities.shape}; "
            "average the class maps over the superpixels first"
        )
    count = probabilities.shape[1]
    if segments.min() < 0 or segments.max() >= count or not np.bincount(segments.ravel(), minlength=count).all():
        raise WorkbookError(
            f"{MODEL}: segments must be numbered 0..{count - 1} like the columns of the probabilities, none "
            "left out; renumber them with numpy.unique(segments, return_inverse=True)"
        )
    check_range(probabilities, MODEL)
