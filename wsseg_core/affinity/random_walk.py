"""Random walk of class maps along pixel affinities, sparse from end to end.

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (PSA), CVPR 2018, section 3.3. With a_ij the affinity of two pixels less than a radius apart,

    A_ij = a_ij^beta,  A_ii = 1,  T = A D^-1  with  D_jj = sum_i A_ij,  M' = M T^t

where a row of M is a class map; the paper prints the transpose. The released code squares the dense N×N matrix T
log2(t) times, N the number of pixels: N^3 operations and N^2 numbers. Here T has at most 69 entries a column at radius
5 and only ever multiplies K maps, in time and memory linear in N.

T^t itself takes fewer than t products. A is symmetric, so the eigenvalues of T lie in [-1, 1], where a power is a
mean of Chebyshev polynomials over the place |s| that a coin-tossing walk on a line reaches in t steps,

    x^t = sum_k P(|s| = k) C_k(x),    C_0 = 1,  C_1 = x,  C_k+1 = 2 x C_k - C_k-1,

and that walk is hardly ever further out than a few sqrt(t): 98 products do the work of 256 (Sachdeva & Vishnoi, "Faster
algorithms via approximation theory", 2014, section 3).

Departure: the released code forgets the pairs that would begin in the outermost radius - 1 columns or lowest rows; here
every pixel has all the neighbours that the grid has.
"""

import math
import warnings
from types import EllipsisType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg_core.base.errors import WorkbookError

Window: TypeAlias = tuple[EllipsisType, slice, slice]

RADIUS, BETA, STEPS = 5, 8.0, 256  # published values: pixels of the grid, power of the affinity, t
MISSED = 1e-9  # probability of the far places of the walk on a line that are left out


def neighbour_offsets(radius: int) -> list[tuple[int, int]]:
    """One offset (dy, dx) for each pair of opposite neighbours less than `radius` away, from left to right, then down.

    Raises:
        WorkbookError: a radius of less than 2, within which a pixel is alone.
    """
    if radius < 2:
        raise WorkbookError(f"affinity radius {radius}: use 2 or more, a pixel has no neighbour nearer than 1")
    plane = [(dy, dx) for dy in range(radius) for dx in range(1 - radius, radius) if dy**2 + dx**2 < radius**2]
    return [offset for offset in plane if offset > (0, 0)]


def pair_indices(h: int, w: int, radius: int = RADIUS) -> Tensor:
    """Both pixels of every pair of neighbours in a grid, int64 (2, pairs): offset by offset, each row by row."""
    pixels = torch.arange(h * w).view(h, w)
    windows = [_windows(h, w, *offset) for offset in neighbour_offsets(radius)]
    return torch.cat([torch.stack([pixels[first].flatten(), pixels[second].flatten()]) for first, second in windows], 1)


def affinities(features: Tensor, radius: int = RADIUS) -> Tensor:
    """Affinity of every pair of neighbours: exp(−mean_d |f_i − f_j|), section 3.2.

    Args:
        features: float (..., D, h, w). Differences are taken offset by offset, never of all pairs at once.
        radius: of the neighbourhood, pixels of the grid.

    Returns:
        float (..., pairs) in (0, 1], pairs as `pair_indices` orders them; none in a grid of one pixel.
    """
    return torch.exp(-_PairDistances.apply(features, radius))


class _PairDistances(torch.autograd.Function):
    """Mean absolute difference of the features of every pair: float (..., D, h, w) to (..., pairs).

    Of a slice, autograd's own gradient is a whole map of zeros with the slice filled in, two for each offset; here each
    adds to one map, and no difference is kept for the way back.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(features)
        h, w = features.shape[-2:]
        ctx.windows = [_windows(h, w, *offset) for offset in neighbour_offsets(radius)]
        distances = [(features[second] - features[first]).abs_().mean(-3).flatten(-2) for first, second in ctx.windows]
        return torch.cat(distances, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        result, start = torch.zeros_like(features), 0
        gradient = gradient / features.shape[-3]
        for first, second in ctx.windows:
            change = (features[second] - features[first]).sign_()
            rows, columns = change.shape[-2:]
            change *= gradient[..., None, start : start + rows * columns].unflatten(-1, (rows, columns))
            result[second] += change
            result[first] -= change
            start += rows * columns
        return result, None


@torch.no_grad()
def transition_matrix(affinity: Tensor, h: int, w: int, radius: int = RADIUS, beta: float = BETA) -> Tensor:
    """Transition probabilities T of the walk on a grid; no gradient passes through them.

    Args:
        affinity: float (pairs,) in [0, 1], as `affinities` gives it for one image.
        h: rows of the grid.
        w: columns of the grid.
        radius: that of the affinities.
        beta: at least 0; the larger, the less is carried over weak affinities. 0 weighs all neighbours alike.

    Returns:
        Sparse float (h·w, h·w) whose columns add up to 1, on the device and in the precision of `affinity`. It is
        stored by columns, so that its transpose, by which the walk multiplies, is a CSR matrix without a copy.

    Raises:
        WorkbookError: affinities of another grid, or outside [0, 1], or a beta that is negative.
    """
    offsets = neighbour_offsets(radius)
    windows = [_windows(h, w, *offset) for offset in offsets]
    grid = affinity.new_zeros(h, w)
    sizes = [grid[first].numel() for first, _ in windows]
    _check(affinity, sum(sizes), h, w, beta)
    centre = len(offsets)
    weights = affinity.new_zeros(2 * centre + 1, h, w)  # one plane an offset, in the order of the pixel numbers
    weights[centre] = 1
    for k, (pairs, (first, second)) in enumerate(zip(affinity.pow(beta).split(sizes), windows, strict=True), start=1):
        weights[centre + k][first] = pairs.view_as(grid[first])
        weights[centre - k][second] = pairs.view_as(grid[second])
    ahead = torch.tensor([dy * w + dx for dy, dx in offsets], dtype=torch.int32, device=affinity.device)
    shifts = torch.cat([-ahead.flip(0), ahead.new_zeros(1), ahead])  # from a pixel's number to those of its neighbours
    return _sparse((weights / weights.sum(0)).flatten(1).T.contiguous(), shifts)


def random_walk(transition: Tensor, maps: Tensor, steps: int = STEPS) -> Tensor:
    """Let class maps spread: M T^t, as a sum of Chebyshev polynomials of T (see the top of this file).

    Each new value is a weighted mean of old ones, so that, but for rounding, the range of a map never grows.

    Args:
        transition: sparse (h·w, h·w), from `transition_matrix`.
        maps: float (K, h, w), in the precision and on the device of the matrix; K may be 0.
        steps: t.

    Returns:
        float (K, h, w). What is left out moves a value by less than 1e-9 · sqrt(69 h w) times the largest one.

    Raises:
        WorkbookError: maps of another grid, or a negative number of steps.
    """
    if steps < 0 or maps[:1].numel() not in (0, len(transition)):
        raise WorkbookError(
            f"random walk of {steps} steps over {len(transition)} pixels: maps are {tuple(maps.shape)}; give "
            "0 steps or more, and maps (K, h, w) of the grid that the affinities are from"
        )
    onward = transition.t()
    current = maps.flatten(1).T.contiguous()  # (h·w, K), C_0 of the transition applied to the maps
    following = onward @ current
    total = torch.zeros_like(current)
    for weight in _chebyshev_weights(steps):
        total.add_(current, alpha=weight)
        current, following = following, torch.addmm(current, onward, following, beta=-1, alpha=2)
    return total.T.reshape(maps.shape)


def _chebyshev_weights(steps: int) -> list[float]:
    """P(|s| = k) for k = 0, 1, ..., s the sum of `steps` tosses of ±1, until only `MISSED` is left."""
    weights, left = [], 1.0
    for k in range(steps + 1):
        ways = 0 if (steps - k) % 2 else math.comb(steps, (steps - k) // 2) * (2 if k else 1)
        weights.append(ways / 2**steps)
        left -= weights[-1]
        if left < MISSED:
            break
    return weights


def _windows(h: int, w: int, dy: int, dx: int) -> tuple[Window, Window]:
    """Where in a grid the pairs of an offset begin, and where they end; empty where the offset does not fit."""
    rows, columns = max(0, h - dy), max(0, w - abs(dx))
    left, right = max(0, -dx), max(0, dx)
    return (..., slice(rows), slice(left, left + columns)), (..., slice(dy, dy + rows), slice(right, right + columns))


def _sparse(weights: Tensor, shifts: Tensor) -> Tensor:
    """A square matrix stored by columns; column j holds the positive entries of weights[j] in the rows j + shifts."""
    pixels = torch.arange(len(weights), dtype=torch.int32, device=weights.device)
    kept = weights > 0
    starts = F.pad(kept.sum(1).cumsum(0), (1, 0)).int()
    rows = (pixels[:, None] + shifts)[kept]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSC tensor support is in beta")
        return torch.sparse_csc_tensor(starts, rows, weights[kept], (len(weights),) * 2, check_invariants=False)


def _check(affinity: Tensor, pairs: int, h: int, w: int, beta: float) -> None:
    if affinity.shape != (pairs,):
        raise WorkbookError(
            f"transition matrix: affinities are {tuple(affinity.shape)}, a grid of {h}×{w} has ({pairs},); take "
            "height, width and radius of the features that they are from"
        )
    if not ((affinity >= 0) & (affinity <= 1)).all():
        raise WorkbookError("transition matrix: affinities outside [0, 1] or NaN; check that the features are finite")
    if not 0 <= beta < math.inf:
        raise WorkbookError(f"transition matrix: beta = {beta} must be a number of 0 or more; mend it in the profile")
