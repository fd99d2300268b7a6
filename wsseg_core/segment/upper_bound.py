"""The supervised upper bound: what a segmentation network would reach if it were shown the true masks.

No method of this workbook may use them. What is written here stands in the tables as the ceiling above all seeds, and
only where a profile asks for it. Nothing that learns from labels imports this module.
"""

from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run

NAME = "supervised"  # of the masks, and of the network that learns from them


def true_masks(run: Run, made_by: str) -> ArtifactStore:
    """Bring the true masks of the training images into the form of seeds; for an evaluation cell alone.

    Args:
        run: the run.
        made_by: the notebook that asks for them.

    Returns:
        The store `artifacts/seeds/supervised`, for `segmentation.train_segmentation`. Of every image: `mask`, uint8
        (H, W), 0 background, c + 1 for class c, 255 void.

    Raises:
        WorkbookError: the profile does not ask for it, or an image has no mask.
    """
    if not run.profile.segmentation.supervised:
        raise WorkbookError(
            f"profile {run.profile.name!r} does not train on true masks; set segmentation.supervised = true in it "
            "if you want the upper bound"
        )
    store = ArtifactStore.create(run.artifacts("seeds") / NAME, run.settings("segment.upper_bound"), made_by)
    masks = VocMasks(run.devkit)
    for image_id in tqdm(store.missing(run.train_ids), desc="true masks", mininterval=1.0):
        store.save(image_id, mask=masks.mask(image_id))
    return store
