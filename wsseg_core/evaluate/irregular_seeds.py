"""When refinement pays: pairs of masks whose errors are made, from systematic to irregular.

SSDD (Shimoda & Yanai, ICCV 2019) rests on one assumption: what masks get right is regular, what they get wrong is not.
Here it is turned like a knob. Knowledge and advice are *made from the true masks* of training images, so that nothing
of this is a result of weak supervision; it shows what the method can do where its assumption holds.

- The knowledge always takes a rim of context with its objects: a systematic error, the easiest to foresee.
- The advice lacks the rim of its objects, systematic too. A share of these errors, the irregularity, gives way to discs
  at random places: objects that are not there, holes, and parts under another class of the image.

In each image the advice is about as far from the truth at every irregularity. Over all images together its mean IoU may
differ; it is in the table beside what refinement makes of it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.data.images import VOID
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate.crf_search import tuning_ids
from wsseg_core.evaluate.metrics import confusion_matrix, mean_iou
from wsseg_core.evaluate.pair_trials import TRIAL_COLUMNS, pair_trials
from wsseg_core.refine.mask_pairs import Pair
from wsseg_core.refine.static_stage import NOTEBOOK

ERRORS = 0.3  # pixels that are wrong, as a share of those of the objects
RADII = (0.02, 0.05)  # of the discs, as shares of the longer side
COLUMNS = ("irregularity", *TRIAL_COLUMNS[1:])


def without_void(truth: np.ndarray) -> np.ndarray:
    """A mask, uint8 (H, W), in which void pixels have the nearest label; background where all are void."""
    known = truth != VOID
    if not known.any():
        return np.zeros_like(truth)
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return truth[tuple(nearest)]


def with_rim(truth: np.ndarray, share: float) -> np.ndarray:
    """A mask whose objects take the pixels around them, the nearest first: systematic errors.

    Args:
        truth: uint8 (H, W), 0..C.
        share: pixels that are taken, of those of all objects.
    """
    objects = truth > 0
    distance, nearest = ndimage.distance_transform_edt(~objects, return_indices=True)
    taken = _first(np.where(objects, np.inf, distance), share * objects.sum())
    return np.where(taken, truth[tuple(nearest)], truth)


def with_errors(truth: np.ndarray, share: float, irregularity: float, rng: np.random.Generator) -> np.ndarray:
    """A mask whose mean IoU is, as nearly as discs allow, the same at every irregularity.

    Args:
        truth: uint8 (H, W), 0..C.
        share: pixels that are missing where all errors are systematic, of those of all objects; below 1.
        irregularity: the share of these that is not missing; in their place discs at random places are given wrong
            labels, until the mask is as far from the true one. 0 to 1.
        rng: draws the discs.

    Raises:
        WorkbookError: an irregularity out of range.
    """
    if not 0 <= irregularity <= 1:
        raise WorkbookError(f"irregularity = {irregularity:g}: use a number from 0, systematic, to 1, irregular")
    wanted = _agreement(truth, _without_outermost(truth, share))
    mask, classes = _without_outermost(truth, (1 - irregularity) * share), np.unique(truth[truth > 0])
    before = mask
    while _agreement(truth, mask) > wanted:
        before, disc = mask.copy(), _disc(truth.shape, rng) & (mask == truth)
        mask[disc] = _wrong(truth[disc], classes, rng)
    return min(before, mask, key=lambda drawn: abs(_agreement(truth, drawn) - wanted))


def _agreement(truth: np.ndarray, mask: np.ndarray) -> float:
    return float(mean_iou(confusion_matrix(truth, mask, int(truth.max()))))


def _without_outermost(truth: np.ndarray, share: float) -> np.ndarray:
    objects = truth > 0
    depth = np.where(objects, ndimage.distance_transform_edt(objects), np.inf)
    return np.where(_first(depth, share * objects.sum()), 0, truth).astype(np.uint8)


def _first(order: np.ndarray, number: float) -> np.ndarray:
    """The places of the smallest of some values, bool (H, W); never one that is infinite."""
    chosen = np.zeros(order.size, bool)
    chosen[np.argsort(order, axis=None, kind="stable")[: round(number)]] = True
    return chosen.reshape(order.shape) & np.isfinite(order)


def _disc(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    radius = max(1.0, rng.uniform(*RADII) * max(size))
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - rng.integers(size[0])) ** 2 + (x - rng.integers(size[1])) ** 2 <= radius**2


def _wrong(labels: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One class of the image in place of the background, and of the others; in place of itself the background."""
    drawn = rng.choice(classes)
    return np.where(labels == drawn, 0, drawn)


def irregular_pair(run: Run, irregularity: float, errors: float = ERRORS) -> Pair:
    """Knowledge and advice of the training images, made from their true masks; for evaluation cells alone.

    Args:
        run: the run.
        irregularity: of the advice, see `with_errors`.
        errors: the share of both.

    Returns:
        Stores under `artifacts/seeds`. Of every image `mask`, uint8 (H, W), 0..C.

    Raises:
        WorkbookError: an irregularity out of range, or an image without a mask.
    """
    own = {"irregularity": irregularity, "errors": errors, "radii": RADII}
    settings, folder = run.settings("evaluate.irregular_seeds", **own), run.artifacts("seeds")
    share = f"{100 * errors:.0f}"
    knowledge = ArtifactStore.create(folder / f"rim{share}", settings | {"irregularity": None}, NOTEBOOK)
    advice = ArtifactStore.create(folder / f"irregular{100 * irregularity:.0f}_{share}", settings, NOTEBOOK)
    missing = list(dict.fromkeys([*knowledge.missing(run.train_ids), *advice.missing(run.train_ids)]))
    work = partial(_draw, run=run, irregularity=irregularity, errors=errors, knowledge=knowledge, advice=advice)
    for _ in parallel_map(work, missing, description="masks with made errors", chunk=8, few=FEW_IMAGES):
        pass
    return knowledge, advice


def _draw(
    image_id: str, run: Run, irregularity: float, errors: float, knowledge: ArtifactStore, advice: ArtifactStore
) -> None:
    truth = without_void(VocMasks(run.devkit).mask(image_id))
    rng = np.random.default_rng([run.seed, zlib.crc32(image_id.encode())])
    if not knowledge.has(image_id):  # it is that of every irregularity
        knowledge.save(image_id, mask=with_rim(truth, errors))
    advice.save(image_id, mask=with_errors(truth, errors, irregularity, rng))


def irregular_sweep(run: Run, levels: Sequence[float]) -> pd.DataFrame:
    """Train the static stage on made errors of several irregularities, and score what it makes of them.

    Args:
        run: the run; each training takes `sweeps.irregular_steps`.
        levels: irregularities, 0 to 1.

    Returns:
        One row a level: `irregularity`, and what `pair_trials` says of the pair. All NaN where the training images have
        no masks.
    """
    if not can_be_made(run):
        return pd.DataFrame({"irregularity": levels}, columns=list(COLUMNS), dtype=float)
    pairs = {f"{level:g}": irregular_pair(run, level) for level in levels}
    trials = pair_trials(shorter(run), pairs, VocMasks(run.devkit).mask)
    return trials.drop(columns="pair").assign(irregularity=list(levels))[list(COLUMNS)]


def can_be_made(run: Run) -> bool:
    """Whether the training images have true masks to make errors from."""
    masks = VocMasks(run.devkit)
    return not all((masks.mask(image_id) == VOID).all() for image_id in tuning_ids(run))


def shorter(run: Run) -> Run:
    """The run whose networks train for `sweeps.irregular_steps`, and their dynamic stage for no more than that."""
    profile, steps = run.profile, run.profile.sweeps.irregular_steps
    dynamic = replace(
        profile.dynamic,
        steps=min(profile.dynamic.steps, steps),
        warmup_steps=min(profile.dynamic.warmup_steps, steps // 4),
    )
    segmentation = replace(profile.segmentation, steps=steps)
    return replace(run, profile=replace(profile, segmentation=segmentation, dynamic=dynamic))
