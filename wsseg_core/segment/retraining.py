"""A segmentation network learns from pseudo labels, and draws new masks: the retraining stage.

Every seed, of whatever method, is judged by the network that learns from it: PSA (Ahn & Kwak, CVPR 2018) and SSDD
(Shimoda & Yanai, ICCV 2019) report the seeds on train and this network on val. Network and loss are DeepLab-LargeFOV
(`wsseg_core.nets.segmentation`) over the convolutions of the run's own classifier.

The only masks that are read here are those of the store that `train_segmentation` is given. The supervised upper bound
is the same call with a store of true masks, which an evaluation cell has to make.

Batch norm is frozen, as in SSDD: it is folded into the convolutions before it, whose weights go on learning.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR
from torch.utils.data import Dataset

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import Profile, SegmentationConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import side_by_side
from wsseg_core.classify.classifier import classifier_settings, load_classifier, load_trained
from wsseg_core.classify.features import has_dense_features, open_features
from wsseg_core.classify.training import Hardware, Key, Recipe, fit, new_optimizer
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import normalise, resize_and_pad
from wsseg_core.data.voc import VocDevkit
from wsseg_core.nets.backbones import FrozenBackbone
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import SegmentationNet, on_grid, resize_masks, segmentation_loss

HEAD_RATE = 10  # learning rate of the head / of the encoder (PSA, SSDD)
MOMENTUM = 0.9
LONG = 50  # steps; a shorter training is over before processes have started
SCHEDULES: dict[str, Callable[[Optimizer, int], LRScheduler]] = {  # both reach 0 at the last step
    "polynomial": lambda optimizer, steps: PolynomialLR(optimizer, steps, power=0.9),
    "cosine": CosineAnnealingLR,
}

Item = TypeVar("Item")
Result = TypeVar("Result")


class PseudoLabelled(Dataset):
    """Augmented images with their pseudo labels, indexed by (step, index of the image).

    An image is scaled so that its longest side is `crop` times a ratio from `resize_range`; a square of `crop` pixels
    is cut from it at random, or the image laid into it at random along a side that is shorter, and mirrored every
    second time (PSA's recipe, which SSDD shares). All of it depends on (seed, step, index) alone.

    Args:
        devkit: where the images and their labels are.
        ids: of the images.
        masks: one store for each kind of masks. Of every image `mask`, uint8 (H, W) at the size of the image, 0..C or
            255 for void.
        config: crop and range.
        seed: of the augmentation.
    """

    def __init__(
        self,
        devkit: VocDevkit,
        ids: Sequence[str],
        masks: Sequence[ArtifactStore],
        config: SegmentationConfig,
        seed: int,
    ) -> None:
        self.devkit, self.ids, self.masks, self.config, self.seed = devkit, ids, masks, config, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        """An image, its masks and its labels, all of them augmented alike.

        Returns:
            Image, float32 (3, crop, crop), normalised; masks, uint8 (M, crop, crop) for M kinds; image-level labels,
            bool (C,), also of what lies outside of the crop.

        Raises:
            WorkbookError: the image has no mask of a kind, or one of another size.
        """
        step, index = key
        image_id = self.ids[index]
        image = self.devkit.image(image_id)
        masks = torch.stack([torch.from_numpy(load_mask(store, image_id, image.shape[:2])) for store in self.masks])
        rng = np.random.default_rng([self.seed, step, index])
        ratio = self.config.crop * rng.uniform(*self.config.resize_range) / max(image.shape[:2])
        height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
        padding = crop_padding((height, width), self.config.crop, rng)
        pixels = F.pad(scaled(image, (height, width)), padding)  # with 0, after normalisation the mean colour
        masks = F.pad(resize_masks(masks, (height, width)), padding, value=VOID)
        if rng.random() < 0.5:
            pixels, masks = pixels.flip(2), masks.flip(2)
        return pixels, masks, torch.from_numpy(self.devkit.labels(image_id) > 0)


class StoredPseudoLabelled(Dataset):
    """The stored features of images with their pseudo labels, indexed by (step, index of the image).

    An image is seen whole, padded below and to the right, at one size; every second time its maps are mirrored. That
    depends on (seed, step, index) alone.

    Args:
        run: the run.
        encoder: what reads the features.
        masks: see `PseudoLabelled`.
        images: give the padded images too, and the masks at their size.
    """

    def __init__(self, run: Run, encoder: nn.Module, masks: Sequence[ArtifactStore], images: bool = False) -> None:
        self.run, self.masks, self.images = run, masks, images
        backbone = cast(FrozenBackbone, encoder.backbone)
        self.names, self.store = backbone.names, open_features(run, backbone.trunk)

    def __len__(self) -> int:
        return len(self.run.train_ids)

    def __getitem__(self, key: Key) -> tuple[Any, ...]:
        """Maps, masks and labels of an image.

        Returns:
            Maps, float32 (channels, h, w) each; masks on the grid of the finest, uint8 (M, h, w) for M kinds;
            image-level labels, bool (C,). With `images`, as `PseudoLabelled` gives them and the maps behind: the padded
            image, float32 (3, s, s), normalised; masks, uint8 (M, s, s); labels; each map.

        Raises:
            WorkbookError: the image has no mask of a kind, or one of another size.
        """
        step, index = key
        image_id = self.run.train_ids[index]
        devkit, size = self.run.devkit, self.run.profile.features.dense_size
        maps, pixels = self.store.load(image_id, size, self.names), devkit.size(image_id)
        masks = torch.stack([torch.from_numpy(load_mask(store, image_id, pixels)) for store in self.masks])
        masks = on_grid(masks, size if self.images else maps[0].shape[1], VOID)
        mirrored = np.random.default_rng([self.run.seed, step, index]).random() < 0.5
        if mirrored:
            maps, masks = [values.flip(2) for values in maps], masks.flip(2)
        labels = torch.from_numpy(devkit.labels(image_id) > 0)
        if not self.images:
            return maps, masks, labels
        image = resize_and_pad(devkit.image(image_id), size)
        return image.flip(2) if mirrored else image, masks, labels, *maps


def learns_from_features(profile: Profile) -> bool:
    """Whether the networks of a profile learn from the stored features of a trunk that does not."""
    return profile.segmentation.frozen_trunk and has_dense_features(profile)


def train_each(run: Run, train: Callable[[Item], Result], items: Sequence[Item], description: str) -> list[Result]:
    """Train several networks that do not need each other.

    Small ones are trained beside each other (`parallel.side_by_side`): those of a head alone, which would not keep the
    cores busy, on a machine without a GPU. Others would not fit into memory together.

    Args:
        run: the run.
        train: what to do with one item; picklable, as the items are.
        items: what there is to train.
        description: what the progress bar says.

    Returns:
        What `train` gave, in the order of `items`.
    """
    small = learns_from_features(run.profile) and not torch.cuda.is_available()
    long = run.profile.segmentation.steps >= LONG
    return side_by_side(train, items, description=description, workers=None if small and long else 1)


def load_mask(store: ArtifactStore, image_id: str, size: tuple[int, ...]) -> np.ndarray:
    """The mask of an image of `size` (H, W), uint8 (H, W), 0..C or 255.

    Raises:
        WorkbookError: the image has none in this store, or one of another size.
    """
    mask = store.load(image_id)["mask"]
    if mask.shape != size:
        raise WorkbookError(
            f"{store.path(image_id)}: the mask is {mask.shape}, its image {size}; "
            f"run notebook {store.record['made_by']} again"
        )
    return mask


def crop_padding(size: tuple[int, int], crop: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """What to add on the left, right, top and bottom of (H, W) pixels to make it a square at a random place.

    Args:
        size: (H, W).
        crop: side of the square.
        rng: draws the place.

    Returns:
        As `torch.nn.functional.pad` takes it: negative where something is cut off instead.
    """
    (left, right), (top, bottom) = (_margins(crop - length, rng) for length in reversed(size))
    return left, right, top, bottom


def _margins(room: int, rng: np.random.Generator) -> tuple[int, int]:
    before = int(rng.integers(min(room, 0), max(room, 0), endpoint=True))
    return before, room - before


def scaled(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """An image, uint8 (H, W, 3), normalised, at another size: float32 (3, h, w)."""
    return F.interpolate(normalise(image)[None], size, mode="bilinear", antialias=True)[0]


def train_segmentation(
    run: Run, name: str, masks: ArtifactStore | Sequence[ArtifactStore], made_by: str, devices: int = 1, start: str = ""
) -> list[dict[str, Any]]:
    """Train a network on the pseudo labels of the run's training images, or resume where a run stopped.

    What belongs to the machine (precision, workers) and the interval of the checkpoints are the classifier's.

    Args:
        run: the run; its classifier gives the convolutions to start from.
        name: of the folder under `artifacts/segmentation`, one for each kind of masks.
        masks: see `PseudoLabelled`; of several kinds each counts alike. Their settings are kept with the network, which
            is trained anew on others.
        made_by: the notebook that trains.
        devices: processes or GPUs.
        start: name of another network of this notebook, to go on from; from the classifier when left out.

    Returns:
        The learning curve: `step`, `loss`, and `learning_rate` (the encoder's).

    Raises:
        WorkbookError: no classifier, an image without a mask, or masks that are void everywhere.
    """
    config, common = run.profile.segmentation, run.profile.classifier
    stores = [masks] if isinstance(masks, ArtifactStore) else list(masks)
    for store in stores:
        check_pseudo_labels(store, run.train_ids)
    records = [store.record for store in stores]
    settings = network_settings(run) | {"masks": records[0] if len(records) == 1 else records}
    if start:
        settings["start"] = digest(ArtifactStore.open(network_folder(run, start), made_by).record)
    ArtifactStore.create(network_folder(run, name), settings, made_by)
    model = load_segmentation(run, start, made_by) if start else new_network(run, load_classifier(run))
    recipe = pseudo_label_recipe(run, _loss, stores, config, (model.encoder, [model.head]), settings)
    hardware = Hardware(common.precision, devices, common.workers)
    return fit(model, recipe, checkpoint_path(run, name), hardware, f"training {name}")


def train_networks(run: Run, masks: Mapping[str, ArtifactStore], made_by: str) -> dict[str, list[dict[str, Any]]]:
    """`train_segmentation` for masks of several kinds, see `train_each`; the learning curves by the names of the masks.

    Raises:
        WorkbookError: the errors of `train_segmentation`.
    """
    curves = train_each(run, partial(_train_named, run, made_by), list(masks.items()), "networks")
    return dict(zip(masks, curves, strict=True))


def _train_named(run: Run, made_by: str, named: tuple[str, ArtifactStore]) -> list[dict[str, Any]]:
    return train_segmentation(run, *named, made_by)


def digest(record: Mapping[str, Any]) -> str:
    """A short mark of how a store was made, for what depends on it: records within records grow without end."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def check_pseudo_labels(masks: ArtifactStore, ids: Sequence[str]) -> None:
    """Refuse masks that would stop the training on its way, or teach nothing; a few that are all void do no harm."""
    remedy = f"run notebook {masks.record['made_by']} again"
    if missing := masks.missing(ids):
        raise WorkbookError(
            f"{masks.path(missing[0])}: no pseudo label, as for {len(missing)} of {len(ids)} training images; {remedy}"
        )
    if not any((masks.load(image_id)["mask"] != VOID).any() for image_id in ids):
        raise WorkbookError(f"{masks.folder}: every pixel of every mask is void, which teaches nothing; {remedy}")


def new_network(run: Run, classifier: nn.Module) -> SegmentationNet:
    """The network over the convolutions of a classifier; its head starts at random."""
    torch.manual_seed(run.seed)
    return segmentation_net(run.profile.segmentation, run.devkit.num_classes, classifier)


def segmentation_net(config: SegmentationConfig, num_classes: int, classifier: nn.Module) -> SegmentationNet:
    """The same without a run: for C classes, with the values of a profile."""
    backbone = fold_batch_norm(classifier)
    sizes = config.channels, config.dilation, config.dropout
    return SegmentationNet(num_classes, backbone, *sizes, config.head, config.frozen_trunk)


def pseudo_label_recipe(
    run: Run,
    loss: Callable[[nn.Module, Any], Tensor],
    masks: Sequence[ArtifactStore],
    config: SegmentationConfig,
    parts: tuple[nn.Module, Sequence[nn.Module]],
    settings: Mapping[str, Any],
    images: bool = False,
) -> Recipe:
    """How every stage learns from pseudo labels of the run's training images.

    Args:
        run: the run.
        loss: of a batch of `PseudoLabelled`.
        masks: see `PseudoLabelled`.
        config: of the stage.
        parts: what is trained: the encoder, and heads and detectors; see `decaying_optimizer`.
        settings: what the result depends on.
        images: the loss needs the images themselves beside the features of a frozen trunk.
    """
    optimizer, schedule = decaying_optimizer(config, *parts)
    dataset: Dataset[Any] = (
        StoredPseudoLabelled(run, parts[0], masks, images)
        if learns_from_features(run.profile)
        else PseudoLabelled(run.devkit, run.train_ids, masks, config, run.seed)
    )
    return Recipe(
        loss=loss,
        dataset=dataset,
        optimizer=optimizer,
        schedule=schedule,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=run.seed,
        checkpoint_every=run.profile.classifier.checkpoint_every,
        settings=settings,
    )


def decaying_optimizer(
    config: SegmentationConfig, encoder: nn.Module, others: Sequence[nn.Module]
) -> tuple[Optimizer, LRScheduler]:
    """SGD (SSDD) or AdamW, ten times faster in heads and detectors than in the encoder, decaying to 0.

    PSA's and SSDD's code double the rate of the biases and do not decay them; here they are like all weights. SSDD's
    makes its optimiser anew at every step, so that its momentum never counts; here it does.

    Raises:
        WorkbookError: an unknown optimiser or schedule.
    """
    if config.schedule not in SCHEDULES:
        raise WorkbookError(f"segmentation.schedule {config.schedule!r} is unknown; use one of {', '.join(SCHEDULES)}")
    rate = config.learning_rate
    groups = [
        {"params": list(encoder.parameters()), "lr": rate},
        {"params": [weight for module in others for weight in module.parameters()], "lr": HEAD_RATE * rate},
    ]
    optimizer = new_optimizer(config.optimizer, groups, MOMENTUM, config.weight_decay, "segmentation")
    return optimizer, SCHEDULES[config.schedule](optimizer, config.steps)


def _loss(model: nn.Module, batch: tuple[Any, Tensor, Tensor]) -> Tensor:
    """Over the scores of all stages that have any, and the mean over the kinds of masks."""
    images, masks, _ = batch
    said = model(images)
    kinds = masks.unbind(1)
    losses = [segmentation_loss(scores, kind) for scores in (said.scores, *said.sides) for kind in kinds]
    return torch.stack(losses).sum() / len(kinds)


def load_segmentation(run: Run, name: str, made_by: str) -> SegmentationNet:
    """The network that `train_segmentation` left under a name, in evaluation mode.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    model = new_network(run, load_classifier(run))
    steps = run.profile.segmentation.steps
    return load_trained(model, checkpoint_path(run, name), network_settings(run), steps, made_by)


def checkpoint_path(run: Run, name: str) -> Path:
    """File of the training state of a network."""
    return network_folder(run, name) / "network.ckpt"


def network_folder(run: Run, name: str) -> Path:
    """Folder of a network."""
    return run.artifacts("segmentation") / name


def network_settings(run: Run) -> dict[str, Any]:
    """What every network depends on; its masks come on top."""
    config = asdict(run.profile.segmentation)
    del config["scales"], config["supervised"]
    if learns_from_features(run.profile):
        config["stored"] = run.profile.features.dense_size
    return run.settings("segment.retraining", classifier=classifier_settings(run), segmentation=config)
