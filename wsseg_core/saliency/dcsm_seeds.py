"""DCSM's masks of the training images, drawn with the labels known: seeds that need neither CAM nor affinities.

Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016, whose
masks are here what PSA's are to SSDD: pseudo labels for a segmentation network.

Maps of all training images would fill a disk and are used once, so that none is kept. Each worker process takes a
batch of images all the way from the classifier to the masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.classify.classifier import classifier_settings, image_scores, load_classifier
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import ImageMaps, Setting, dcsm_setting, live_score_map
from wsseg_core.saliency.gradients import prepare, saliency_maps

NAME = "dcsm_crf"  # of the masks: DCSM with the CRF values of its paper


def dcsm_masks(run: Run, ids: Sequence[str], made_by: str, workers: int | None = None) -> ArtifactStore:
    """Write DCSM's masks of images with known labels; images that are on disk already are left alone.

    Args:
        run: the run; its classifier is trained.
        ids: images.
        made_by: the notebook that asks for them.
        workers: processes, each with a network of its own (on a GPU, where there is one); all cores when left out, the
            calling process alone for a few images.

    Returns:
        The store `artifacts/seeds/dcsm_crf`. Of every image: `mask`, uint8 (H, W), 0 background, c + 1 for class c.

    Raises:
        WorkbookError: no classifier, or one of another run.
    """
    setting = dcsm_setting(run.profile, NAME, crf=True)
    values = {"classifier": classifier_settings(run), "precision": run.profile.saliency.precision}
    settings = run.settings(
        "saliency.dcsm_seeds", seeds=asdict(setting), base_size=run.profile.data.image_size, **values
    )
    store = ArtifactStore.create(run.artifacts("seeds") / NAME, settings, made_by)
    missing, size = store.missing(ids), run.profile.saliency.batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    work = partial(_draw_batch, run=run, setting=setting, store=store)
    for _ in parallel_map(
        work, batches, description=f"masks ({NAME}), batches of {size}", workers=workers, few=FEW_IMAGES // size
    ):
        pass
    return store


def _draw_batch(ids: Sequence[str], run: Run, setting: Setting, store: ArtifactStore) -> None:
    for image_id, maps in zip(ids, batch_maps(run, _model(run), ids, setting), strict=True):
        store.save(image_id, mask=maps.mask(setting))


@lru_cache(maxsize=1)  # one for each worker, whatever the number of its batches
def _model(run: Run) -> nn.Module:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return prepare(fold_batch_norm(load_classifier(run)), run.profile.saliency.precision).to(device)


def batch_maps(run: Run, model: nn.Module, ids: Sequence[str], setting: Setting) -> list[ImageMaps]:
    """Maps of a few images with known labels, all of them extracted in one pass for each input size.

    Args:
        run: the run.
        model: the classifier as `saliency.prepare` returns it.
        ids: images.
        setting: what is extracted; only this one, and others that need no more, can be drawn.

    Returns:
        The maps of each image.
    """
    extracted: dict[int, Mapping[str, Tensor]] = {}  # by input size, (B, K, h, h) by layer
    batch = []
    for row, image_id in enumerate(ids):
        image, known = run.devkit.image(image_id), run.devkit.labels(image_id) > 0
        score_map = live_score_map(model, image, run.profile.data.image_size)
        probabilities = image_scores(score_map[None])[0].sigmoid().numpy()
        batch.append(ImageMaps(image, probabilities, known, partial(_of_image, extracted, row)))
    count = max([setting.min_candidates, *(maps.targets for maps in batch)])
    classes = torch.from_numpy(np.stack([maps.ranking[:count] for maps in batch]))  # (B, K)
    layers, device = [layer for group in setting.layers for layer in group], next(model.parameters()).device
    for size in setting.sizes:
        images = torch.stack([resize_and_pad(maps.image, size) for maps in batch])
        extracted[size] = saliency_maps(model, images.to(device), classes.to(device), layers, setting.guided)
    return batch


def _of_image(
    extracted: Mapping[int, Mapping[str, Tensor]],
    row: int,
    ranking: np.ndarray,
    guided: bool,
    size: int,
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """Raw maps of one image of the batch, float32 (K, h, h) by layer; what else `dcsm.ReadMaps` asks is settled."""
    return {layer: extracted[size][layer][row].cpu() for layer in layers}
