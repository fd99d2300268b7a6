"""Class activation maps: a classifier that averages over the image, and what it saw where.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CAM), CVPR 2016. The way from scores to maps is
that of Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (PSA), CVPR 2018, section 3.1 and released code: several input sizes, each also mirrored, summed, and
every class divided by its maximum over the image. The maps are seeds of what follows and are made for the known
classes of an image alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CamConfig, ClassifierConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import (
    LabelledImages,
    classifier_settings,
    image_scores,
    load_classifier,
    load_trained,
    make_optimizer,
)
from wsseg_core.classify.features import open_features
from wsseg_core.classify.training import Hardware, Recipe, fit
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.nets.architectures import build_classifier
from wsseg_core.nets.backbones import outline_of
from wsseg_core.nets.cam import CamNet, load_blocks
from wsseg_core.nets.dilation import dilate
from wsseg_core.saliency.subtraction import normalise

NOTEBOOK = "06_cam_and_pixel_affinity"


def cam_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Sigmoid cross entropy, summed over classes and averaged over the images, as for the classifier of DCSM.

    Departure: images are padded to a square as there, and the positions of the padding count in the average; PSA crops.
    """
    images, labels = batch
    scores = image_scores(model(images.to(memory_format=torch.channels_last)), "average")
    return F.binary_cross_entropy_with_logits(scores.float(), labels, reduction="none").sum(1).mean()


def training_config(run: Run) -> ClassifierConfig:
    """How the network is trained: the values of `cam`, and those of `classifier` for what `cam` does not say."""
    cam = run.profile.cam
    return replace(
        run.profile.classifier,
        optimizer=cam.optimizer,
        learning_rate=cam.learning_rate,
        schedule=cam.schedule,
        weight_decay=cam.weight_decay,
        batch_size=cam.batch_size,
        steps=cam.steps,
        resize_range=cam.resize_range,
    )


def train_cam(run: Run, devices: int = 1) -> list[dict[str, Any]]:
    """Train the network on image-level labels, or resume where a run stopped.

    Its blocks start from those of the run's classifier. Departure: PSA's start from ImageNet, as that classifier did.

    Args:
        run: the run.
        devices: processes or GPUs.

    Returns:
        The learning curve: `step`, `loss`, `learning_rate`; nothing where the classifier's own map is taken.

    Raises:
        WorkbookError: the run's classifier is not trained, or does not average where its own map is asked for.
    """
    if run.profile.cam.channels == 0:
        _own_map(run)
        return []
    config, model = training_config(run), new_cam(run)
    load_blocks(model, load_classifier(run))
    ArtifactStore.create(checkpoint_path(run).parent, network_settings(run), NOTEBOOK)
    optimizer, schedule = make_optimizer(config, list(model.parameters()), config.steps, "cam")
    recipe = Recipe(
        loss=cam_loss,
        dataset=LabelledImages(run.devkit, run.train_ids, run.profile.cam.image_size, config, run.seed),
        optimizer=optimizer,
        schedule=schedule,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=run.seed,
        checkpoint_every=config.checkpoint_every,
        settings=network_settings(run),
    )
    hardware = Hardware(config.precision, devices, config.workers)
    return fit(model, recipe, checkpoint_path(run), hardware, "training (class activation maps)")


def new_cam(run: Run) -> CamNet:
    """An untrained network.

    Raises:
        WorkbookError: `cam.blocks` or `cam.stride` that the classifier does not have.
    """
    config, cam, num_classes = run.profile.classifier, run.profile.cam, run.devkit.num_classes
    torch.manual_seed(run.seed)
    stages_only = build_classifier(replace(config, fc_channels=1, fc6_kernel=1), num_classes)
    return CamNet(stages_only, num_classes, cam.blocks, cam.channels, cam.stride)


def network_settings(run: Run) -> dict[str, Any]:
    """What the trained weights depend on."""
    cam = asdict(run.profile.cam)
    for name in ("scales", "alpha", "flip"):
        del cam[name]
    return run.settings("affinity.cam", classes=run.devkit.classes, classifier=classifier_settings(run), cam=cam)


def checkpoint_path(run: Run) -> Path:
    """File of the training state."""
    return run.artifacts("cam") / "cam.ckpt"


def _own_map(run: Run) -> nn.Module:
    """The classifier itself, whose map is a class activation map where it averages over it."""
    config = run.profile.classifier
    if config.pooling != "average":
        raise WorkbookError(
            "class activation maps of the classifier itself (cam.channels = 0) need classifier.pooling = 'average'"
        )
    classifier = load_classifier(run)
    return dilate(classifier, run.profile.cam.stride) if run.profile.cam.stride < config.stride else classifier


def load_cam(run: Run) -> nn.Module:
    """The trained network of a run, or its classifier where `cam.channels` is 0, in evaluation mode.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    if run.profile.cam.channels == 0:
        return _own_map(run)
    return load_trained(new_cam(run), checkpoint_path(run), network_settings(run), run.profile.cam.steps, NOTEBOOK)


def input_sizes(config: CamConfig) -> tuple[int, ...]:
    """Sides of the network's inputs in pixels: the scales of `image_size`, in whole strides."""
    steps = [round(scale * config.image_size / config.stride) for scale in config.scales]
    return tuple(max(1, count) * config.stride for count in steps)


@torch.inference_mode()
def cam_maps(model: nn.Module, images: Sequence[np.ndarray], sizes: Sequence[int], flip: bool = True) -> Tensor:
    """Class activation maps of all classes: ReLU of the scores, summed over sizes and mirrored, over their maximum.

    Args:
        model: what `load_cam` gives, in evaluation mode, on any device.
        images: uint8 (H, W, 3) each, of any sizes.
        sizes: of the padded squares that the network is shown.
        flip: each also mirrored.

    Returns:
        float32 (B, C, h, h) in [0, 1], of the padded square: at the resolution of the largest input, to which the
        others are up-sampled, so that nothing that it saw is lost. A map that is 0 everywhere stays 0.

    Raises:
        WorkbookError: there is no size.
    """
    if not sizes:
        raise WorkbookError("class activation maps at no size; give cam.scales at least one value in the profile")
    return _united([_both_ways(model, images, size, flip) for size in sorted(sizes, reverse=True)])


def _united(views: Sequence[Tensor]) -> Tensor:
    """The sum of maps (B, C, h, h), the largest first, over its maximum."""
    total, *others = views
    for view in others:
        total = total + F.interpolate(view, total.shape[2:], mode="bilinear")
    return normalise(total.flatten(0, 1)).view_as(total)


def _both_ways(model: nn.Module, images: Sequence[np.ndarray], size: int, flip: bool = True) -> Tensor:
    """Maps of the padded squares, and of their mirror images turned back, added: float32 (B, C, h, h)."""
    inputs = torch.stack([resize_and_pad(image, size) for image in images]).to(next(model.parameters()))
    inputs = inputs.to(memory_format=torch.channels_last)
    straight = model(inputs).relu().float()
    return straight + model(inputs.flip(3)).relu().flip(3).float() if flip else straight


def map_settings(run: Run) -> dict[str, Any]:
    """What the maps depend on."""
    cam, precision = run.profile.cam, run.profile.saliency.precision
    own = {"scales": cam.scales, "flip": cam.flip, "precision": precision}
    return run.settings("affinity.cam", "nets.folding", network=network_settings(run), **own)


def extract_cams(run: Run, model: nn.Module, ids: Sequence[str]) -> ArtifactStore:
    """Write the maps of the known classes of images; those that are on disk already are left alone.

    Args:
        run: the run.
        model: what `load_cam` gives, as it is or through `fold_batch_norm` and `saliency.prepare`.
        ids: images; their image-level labels are read.

    Returns:
        The store. Of every image: `classes`, int64 (K,), rising indices of its classes, and `cams`, float16 (K, h, h)
        in [0, 1], as `cam_maps` gives them (25 KB a class at VOC's 112×112); K is 0 for an image without a class.
    """
    store = ArtifactStore.create(run.artifacts("cams"), map_settings(run), NOTEBOOK)
    missing, batch_size = store.missing(ids), run.profile.saliency.batch_size
    of_images = _stored_maps(run, model) if _stored(run) else _seen_maps(run, model)
    with tqdm(total=len(missing), desc="class activation maps", mininterval=1.0) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            for image_id, of_all in zip(batch, of_images(batch).half().cpu().numpy(), strict=True):
                classes = np.flatnonzero(run.devkit.labels(image_id))
                store.save(image_id, classes=classes, cams=of_all[classes])
            bar.update(len(batch))
    return store


def _stored(run: Run) -> bool:
    """Whether the maps can be had from the features of a trunk that did not learn."""
    cam, config, sizes = run.profile.cam, run.profile.classifier, run.profile.features.sizes
    same = cam.channels == 0 and config.steps == 0 and cam.stride >= config.stride
    return same and not cam.flip and set(input_sizes(cam)) <= set(sizes)


def _seen_maps(run: Run, model: nn.Module) -> Callable[[Sequence[str]], Tensor]:
    sizes, flip = input_sizes(run.profile.cam), run.profile.cam.flip
    return lambda ids: cam_maps(model, [run.devkit.image(image_id) for image_id in ids], sizes, flip)


def _stored_maps(run: Run, model: nn.Module) -> Callable[[Sequence[str]], Tensor]:
    store, deep, like = open_features(run, model), outline_of(model).deep, next(model.parameters())
    head = cast(Callable[[Tensor], Tensor], model.head)

    @torch.inference_mode()
    def maps(ids: Sequence[str]) -> Tensor:
        views = []
        for size in sorted(input_sizes(run.profile.cam), reverse=True):
            features = torch.stack([store.map(image_id, size, deep) for image_id in ids])
            views.append(head(features.to(like)).relu().float())
        return _united(views)

    return maps


def open_cams(run: Run) -> ArtifactStore:
    """The maps that `extract_cams` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(run.artifacts("cams"), NOTEBOOK, map_settings(run))


def load_cams(store: ArtifactStore, image_id: str, size: tuple[int, int]) -> tuple[np.ndarray, Tensor]:
    """Read back what `extract_cams` wrote, at the pixels of the image.

    Args:
        store: from `open_cams`.
        image_id: of the image.
        size: (H, W) of the image.

    Returns:
        `classes`, int64 (K,), and the maps, float32 (K, H, W) in [0, 1]. The maximum of each is 1, now that the padding
        is gone, unless it is 0 everywhere. K may be 0.
    """
    arrays = store.load(image_id)
    if len(arrays["classes"]) == 0:  # torch interpolates no empty tensor
        return arrays["classes"], torch.zeros(0, *size)
    return arrays["classes"], normalise(unpad(torch.from_numpy(arrays["cams"]).float(), size))
