"""Two masks of each training image, between which refinement decides: the knowledge K and the advice A of SSDD.

Nothing in the method ties them to "before and after a CRF": any two stores of masks of the same images and classes do.
"""

from collections.abc import Sequence

import numpy as np

from wsseg_core.affinity.seeds import SeedSetting, open_seed_masks, seed_setting
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.segment.retraining import check_pseudo_labels

Pair = tuple[ArtifactStore, ArtifactStore]  # knowledge and advice


def mask_pair(run: Run) -> Pair:
    """The masks of the training images that are merged: PSA's (knowledge), and the same after a CRF (advice).

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    knowledge, advice = (open_seed_masks(run, setting) for setting in pair_settings(run.profile))
    return knowledge, advice


def pair_settings(profile: Profile) -> tuple[SeedSetting, SeedSetting]:
    """What the two masks of `mask_pair` depend on."""
    return seed_setting(profile, "psa"), seed_setting(profile, "psa", crf=True)


def check_pair(pair: Pair, ids: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse two kinds of masks that cannot be compared, or from whose differences nothing can be learnt.

    Args:
        pair: see `mask_pair`.
        ids: of the images.
        class_names: of the C classes.

    Raises:
        WorkbookError: an image that one of them lacks, masks of different sizes, labels beyond C, a class that only one
            of the two knows, or the same mask twice for every image.
    """
    for masks in pair:
        check_pseudo_labels(masks, ids)
    known, alike = [np.zeros(VOID + 1, bool) for _ in pair], True
    names = " and ".join(masks.folder.name for masks in pair)
    for image_id in ids:
        both = [masks.load(image_id)["mask"] for masks in pair]
        if both[0].shape != both[1].shape:
            sizes = " and ".join(str(mask.shape) for mask in both)
            raise WorkbookError(f"{image_id}: the masks of {names} are {sizes}; make both at the size of the image")
        for labels, mask in zip(known, both, strict=True):
            labels[mask] = True
        alike = alike and np.array_equal(both[0], both[1])
    if alike:
        raise WorkbookError(f"{names} are the same for every image, so that no change can be learnt; give two kinds")
    if beyond := np.flatnonzero((known[0] | known[1])[len(class_names) + 1 : VOID]).tolist():
        wrong = beyond[0] + len(class_names) + 1
        raise WorkbookError(
            f"{names} hold the label {wrong}, but there are {len(class_names)} classes; draw them again"
        )
    if single := np.flatnonzero((known[0] != known[1])[1 : len(class_names) + 1]).tolist():
        name = class_names[single[0]]
        raise WorkbookError(f"only one of {names} knows the class {name!r}; make both with the same classes")
