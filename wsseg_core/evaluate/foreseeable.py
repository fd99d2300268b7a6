"""How foreseeable are the errors of masks? Where pairs stand by the condition under which refinement can pay.

SSDD (Shimoda & Yanai, ICCV 2019) rests on errors that have no rule. Whether those of some masks have one is measured
here by a reader that is shown the true errors of half of the images, and asked from the image alone, without its mask,
where those of the other half are: the area under its ROC curve, over all cells of the grid. The authors do not measure
it; nothing that learns masks reads the answer.

The reader is linear: logistic regression over the principal components of the trunk's three taps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.classify.classifier import load_classifier
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.evaluate.change_regions import BINS, area_interval, area_under_curve
from wsseg_core.evaluate.crf_search import tuning_ids
from wsseg_core.evaluate.metrics import bootstrap_sums
from wsseg_core.nets.backbones import resized
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import Encoder, resize_masks
from wsseg_core.refine.mask_pairs import Pair, mask_pair
from wsseg_core.refine.static_stage import refinement_size
from wsseg_core.segment.predictions import input_size
from wsseg_core.segment.retraining import scaled

COMPONENTS = 64
COLUMNS = ("pair", *(f"{mask} {word}" for mask in ("K", "A") for word in ("foreseen", "low", "high")))


def foreseeable_pairs(run: Run, pairs: Mapping[str, Pair | None], truth: Callable[[str], np.ndarray]) -> pd.DataFrame:
    """How well the errors of both masks of each pair are foreseen, on the images of `tuning_ids`.

    Args:
        run: the run; its classifier is trained.
        pairs: by name; None for SSDD's own.
        truth: the true mask of an image, uint8 (H, W), 0..C or 255.

    Returns:
        One row a pair: `pair`, and of K and of A the area under the curve, `foreseen`, with its 95 % interval, `low`
        and `high`. 1/2: nothing is foreseen. NaN where there are no true masks, or no errors.

    Raises:
        WorkbookError: no classifier, or a mask is missing.
    """
    ids = tuning_ids(run)
    looks = _looks(run, ids)
    found: dict[ArtifactStore, tuple[float, ...]] = {}
    rows = []
    for name, pair in pairs.items():
        stores = pair or mask_pair(run)
        for store in stores:
            if store not in found:
                masks = [store.load(image_id)["mask"] for image_id in ids]
                found[store] = _foreseen(run, looks, masks, [truth(image_id) for image_id in ids])
        rows.append((name, *found[stores[0]], *found[stores[1]]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@torch.no_grad()
def _looks(run: Run, ids: Sequence[str]) -> list[np.ndarray]:
    """What the trunk sees of each image, float32 (COMPONENTS or fewer, h, w): the taps that segmentation reads."""
    trunk = fold_batch_norm(load_classifier(run))
    encoder, maps = Encoder(trunk, taps=True, frozen=run.profile.segmentation.frozen_trunk).eval(), []
    for image_id in ids:
        image = run.devkit.image(image_id)
        _, taps = encoder(scaled(image, input_size(image, refinement_size(run.profile)))[None])
        maps.append(torch.cat([resized(tap, taps[0].shape[2:]) for tap in taps], 1)[0].numpy())
    cells = np.concatenate([values.reshape(len(values), -1).T for values in maps])
    reduce = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *cells.shape), whiten=True, random_state=0)).fit(cells)
    return [
        reduce.transform(values.reshape(len(values), -1).T).T.reshape(-1, *values.shape[1:]).astype(np.float32)
        for values in maps
    ]


def _foreseen(
    run: Run, looks: Sequence[np.ndarray], masks: Sequence[np.ndarray], truths: Sequence[np.ndarray]
) -> tuple[float, ...]:
    """The area and its interval: each half of the images is read by who has seen the errors of the other."""
    read = [_cells(*of_image) for of_image in zip(looks, masks, truths, strict=True)]
    counts = np.zeros((len(read), 2, BINS), int)
    for half in (0, 1):
        x, wrong = (np.concatenate(values) for values in zip(*read[1 - half :: 2], strict=True))
        if len(np.unique(wrong)) < 2:
            return (np.nan,) * 3
        reader = LogisticRegression(max_iter=200).fit(x, wrong)
        for index in range(half, len(read), 2):
            counts[index] = _histograms(reader, *read[index])
    drawn = area_under_curve(bootstrap_sums(counts, run.profile.sweeps.bootstrap_samples, run.seed))
    return astuple(area_interval(counts.sum(0), drawn))


def _cells(look: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the cells of an image that are not void: what is read, float32 (n, components), and what is wrong, (n,)."""
    both = resize_masks(torch.from_numpy(np.stack([mask, truth])), look.shape[1:]).flatten(1).numpy()
    counted = (both != VOID).all(0)
    return look.reshape(len(look), -1).T[counted], (both[0] != both[1])[counted]


def _histograms(reader: LogisticRegression, x: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Histograms of the probability of an error, of right cells and of wrong ones, int64 (2, BINS)."""
    places = np.minimum(reader.predict_proba(x)[:, 1] * BINS, BINS - 1).astype(int)
    return np.stack([np.bincount(places[of], minlength=BINS) for of in (~wrong, wrong)])
