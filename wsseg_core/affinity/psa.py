"""From class activation maps to better ones: labels of affinities, their network, and the walk.

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (PSA), CVPR 2018; `pairs` has its equations. Here they are applied to the images of a run, one
stage after the other: what a stage wrote is read by the next; `seeds` draws masks of the maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset
from tqdm import tqdm

from wsseg_core.affinity.cam import NOTEBOOK, load_cams, map_settings, open_cams, training_config
from wsseg_core.affinity.pairs import NEUTRAL, affinity_labels, affinity_loss, walk, walk_stored, with_background
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ClassifierConfig, CrfConfig
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.classify.classifier import classifier_settings, load_classifier, load_trained
from wsseg_core.classify.features import has_dense_features, open_features
from wsseg_core.classify.training import Hardware, Key, Recipe, fit, new_optimizer
from wsseg_core.crf.dense import DenseCrf
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import normalise
from wsseg_core.data.voc import VocDevkit
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import on_grid

NEW_LAYERS = 10  # how many times faster than the backbone they learn, in the released code
DECAY = 0.9  # power of the polynomial by which its learning rates fall to 0


def make_affinity_labels(run: Run, ids: Sequence[str], workers: int | None = None) -> ArtifactStore:
    """Write what is certain in images, section 3.2; images that are on disk already are left alone.

    Departure: the CRF is the profile's, and not one that the released code keeps for this step alone.

    Args:
        run: the run; `cam.extract_cams` has run.
        ids: images.
        workers: processes; all cores when left out.

    Returns:
        The store. Of every image: `labels`, uint8 (H, W): 0 background, c + 1 for class c, 255 neutral.

    Raises:
        WorkbookError: there are no CAMs, or they were made under other settings.
    """
    cams = open_cams(run)
    store = ArtifactStore.create(run.artifacts("affinity_labels"), label_settings(run), NOTEBOOK)
    config = run.profile.affinity
    alphas = (config.low_alpha, config.high_alpha)
    work = partial(_label_image, devkit=run.devkit, cams=cams, store=store, alphas=alphas, crf=run.profile.seed_crf)
    for _ in parallel_map(work, store.missing(ids), description="affinity labels", workers=workers, few=FEW_IMAGES):
        pass
    return store


def _label_image(
    image_id: str,
    devkit: VocDevkit,
    cams: ArtifactStore,
    store: ArtifactStore,
    alphas: tuple[float, float],
    crf: CrfConfig,
) -> None:
    image = devkit.image(image_id)
    classes, cam = load_cams(cams, image_id, image.shape[:2])
    refine = DenseCrf(image, crf)  # its kernels serve both
    low, high = (draw(refine(with_background(cam, alpha).numpy()), classes) for alpha in alphas)
    store.save(image_id, labels=affinity_labels(low, high))


def draw(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """uint8 (H, W), the best of the background and the classes (K,), from float (1 + K, H, W)."""
    return np.concatenate([[0], classes + 1]).astype(np.uint8)[probabilities.argmax(0)]


def label_settings(run: Run) -> dict[str, Any]:
    """What the labels depend on."""
    alphas = {"low_alpha": run.profile.affinity.low_alpha, "high_alpha": run.profile.affinity.high_alpha}
    return run.settings("affinity.psa", cams=map_settings(run), crf=asdict(run.profile.seed_crf), **alphas)


def open_affinity_labels(run: Run) -> ArtifactStore:
    """The labels that `make_affinity_labels` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(run.artifacts("affinity_labels"), NOTEBOOK, label_settings(run))


class AffinityImages(Dataset):
    """Images with their affinity labels, indexed by (step, index of the image).

    A square window of the image at its own scale, at which the walk will see it too, mirrored half of the time; both
    depend on (seed, step, index) alone. Below and to the right of a smaller image is padding: the mean colour, neutral.
    """

    def __init__(
        self, devkit: VocDevkit, ids: Sequence[str], labels: ArtifactStore, size: int, flip: bool, seed: int
    ) -> None:
        self.devkit, self.ids, self.labels = devkit, ids, labels
        self.size, self.flip, self.seed = size, flip, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        """Image, float32 (3, size, size), normalised, and labels, uint8 (size, size)."""
        step, index = key
        image = normalise(self.devkit.image(self.ids[index]))
        labels = torch.from_numpy(self.labels.load(self.ids[index])["labels"])
        rng = np.random.default_rng([self.seed, step, index])
        top, left = (int(rng.integers(max(0, side - self.size) + 1)) for side in labels.shape)
        window = (..., slice(top, top + self.size), slice(left, left + self.size))
        image, labels = image[window], labels[window]
        if self.flip and rng.random() < 0.5:
            image, labels = image.flip(-1), labels.flip(-1)
        padding = (0, self.size - labels.shape[1], 0, self.size - labels.shape[0])
        return F.pad(image, padding), F.pad(labels, padding, value=NEUTRAL)


class AffinityFeatures(Dataset):
    """The stored features of images with their affinity labels, indexed by (step, index of the image).

    An image is seen whole, padded below and to the right, and its maps mirrored half of the time, by (seed, step,
    index) alone.
    """

    def __init__(self, run: Run, model: AffinityNet, labels: ArtifactStore) -> None:
        self.run, self.labels = run, labels
        self.names, self.store = model.backbone.names, open_features(run, model.backbone.trunk)

    def __len__(self) -> int:
        return len(self.run.train_ids)

    def __getitem__(self, key: Key) -> tuple[list[Tensor], Tensor]:
        """Maps, float32 (channels, h, w) each, and labels on the grid of the finest, uint8 (h, w)."""
        step, index = key
        image_id, profile = self.run.train_ids[index], self.run.profile
        maps = self.store.load(image_id, profile.features.dense_size, self.names)
        labels = torch.from_numpy(self.labels.load(image_id)["labels"])
        labels = on_grid(labels[None], maps[0].shape[1], NEUTRAL)[0]
        if profile.classifier.flip and np.random.default_rng([self.run.seed, step, index]).random() < 0.5:
            maps, labels = [values.flip(2) for values in maps], labels.flip(1)
        return maps, labels


def stored_affinity(run: Run) -> bool:
    """Whether the network learns, and lets the maps walk, on stored features."""
    return run.profile.affinity.frozen_trunk and has_dense_features(run.profile)


def pixels_per_position(run: Run, size: Sequence[int]) -> float:
    """Stride of the walk in an image of (H, W)."""
    config = run.profile.affinity
    if not stored_affinity(run):
        return config.stride
    return max(size) * config.stride / run.profile.features.dense_size


def train_affinity(run: Run, devices: int = 1) -> list[dict[str, Any]]:
    """Train the affinity network on the labels of the training images, or resume where a run stopped.

    The optimiser is that of the CAMs, as are the side of the images and the mirroring.

    Args:
        run: the run; `make_affinity_labels` has run on its training images.
        devices: processes or GPUs.

    Returns:
        The learning curve: `step`, `loss`, `learning_rate` (of the backbone).

    Raises:
        WorkbookError: there is no classifier or there are no labels, or they were made under other settings.
    """
    config, labels = _training_config(run), open_affinity_labels(run)
    classifier = load_classifier(run)
    model = _affinity_net(run, classifier)
    ArtifactStore.create(checkpoint_path(run).parent, network_settings(run), NOTEBOOK)
    optimizer, schedule = make_affinity_optimizer(config, model)
    dataset: Dataset[Any] = (
        AffinityFeatures(run, model, labels)
        if stored_affinity(run)
        else AffinityImages(run.devkit, run.train_ids, labels, run.profile.cam.image_size, config.flip, run.seed)
    )
    recipe = Recipe(
        loss=partial(affinity_loss, radius=run.profile.affinity.radius),
        dataset=dataset,
        optimizer=optimizer,
        schedule=schedule,
        steps=config.steps,
        batch_size=config.batch_size,
        seed=run.seed,
        checkpoint_every=config.checkpoint_every,
        settings=network_settings(run),
    )
    hardware = Hardware(config.precision, devices, config.workers)
    return fit(model, recipe, checkpoint_path(run), hardware, "training (pixel affinity)")


def _training_config(run: Run) -> ClassifierConfig:
    """The values of `affinity`, and those of the CAMs for what it does not say."""
    own = run.profile.affinity
    return replace(training_config(run), learning_rate=own.learning_rate, batch_size=own.batch_size, steps=own.steps)


def make_affinity_optimizer(config: ClassifierConfig, model: AffinityNet) -> tuple[Optimizer, LRScheduler]:
    """New layers learn ten times as fast as the backbone; both rates fall as (1 − step / steps)^0.9, as released."""
    groups = [
        {"params": list(model.backbone.parameters()), "lr": config.learning_rate},
        {"params": [*model.embeddings.parameters(), *model.mix.parameters()], "lr": NEW_LAYERS * config.learning_rate},
    ]
    optimizer = new_optimizer(config.optimizer, groups, config.momentum, config.weight_decay, "cam")
    return optimizer, LambdaLR(optimizer, lambda step: (1 - step / config.steps) ** DECAY)


def _affinity_net(run: Run, classifier: nn.Module) -> AffinityNet:
    torch.manual_seed(run.seed)
    config = run.profile.affinity
    start = fold_batch_norm(classifier) if config.frozen_trunk else classifier
    return AffinityNet(start, config.stride, config.width, config.frozen_trunk)


def network_settings(run: Run) -> dict[str, Any]:
    """What the trained weights depend on."""
    names = ("stride", "width", "frozen_trunk", "radius", "learning_rate", "batch_size", "steps")
    own = {name: getattr(run.profile.affinity, name) for name in names}
    own["stored"] = run.profile.features.dense_size if stored_affinity(run) else 0
    return run.settings("affinity.psa", labels=label_settings(run), classifier=classifier_settings(run), affinity=own)


def checkpoint_path(run: Run) -> Path:
    """File of the training state."""
    return run.artifacts("affinity") / "affinity.ckpt"


def load_affinity(run: Run) -> AffinityNet:
    """The trained network of a run, in evaluation mode.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    model = _affinity_net(run, load_classifier(run))
    return load_trained(model, checkpoint_path(run), network_settings(run), run.profile.affinity.steps, NOTEBOOK)


def extract_walks(run: Run, model: AffinityNet, ids: Sequence[str]) -> ArtifactStore:
    """Let the CAMs of images walk, section 3.3; images that are on disk already are left alone.

    Args:
        run: the run; `cam.extract_cams` has run.
        model: what `load_affinity` gives, on any device, as it is or through `fold_batch_norm`.
        ids: images.

    Returns:
        The store. Of every image: `classes`, int64 (K,), and `walked`, float16 (1 + K, h, w) in [0, 1], the background
        first, at the positions of the network (`affinity.upsample`).

    Raises:
        WorkbookError: there are no CAMs, or they were made under other settings.
    """
    cams, walk_image = open_cams(run), walker(run, model)
    store = ArtifactStore.create(run.artifacts("walks"), walk_settings(run), NOTEBOOK)
    for image_id in tqdm(store.missing(ids), desc="random walks", mininterval=1.0):
        classes, cam = load_cams(cams, image_id, run.devkit.image(image_id).shape[:2])
        store.save(image_id, classes=classes, walked=walk_image(image_id, cam).half().cpu().numpy())
    return store


def walker(run: Run, model: AffinityNet) -> Callable[..., Tensor]:
    """How CAMs of the run's images walk: along the affinities of stored features where the network learnt from them.

    Args:
        run: the run.
        model: see `extract_walks`.

    Returns:
        A function of an image id and its CAMs, float (K, H, W) in [0, 1]; and of alpha of the background and the steps
        t, the profile's when left out. It returns what `pairs.walk` does, and raises its errors.
    """
    config, size = run.profile.affinity, run.profile.features.dense_size
    features = open_features(run, model.backbone.trunk) if stored_affinity(run) else None

    def walk_image(
        image_id: str, cam: Tensor, alpha: float = run.profile.cam.alpha, steps: int = config.walk_steps
    ) -> Tensor:
        values = (alpha, config.beta, steps, config.radius)
        if features:
            return walk_stored(model, features.load(image_id, size, model.backbone.names), cam, *values)
        return walk(model, run.devkit.image(image_id), cam, *values)

    return walk_image


def walk_settings(run: Run) -> dict[str, Any]:
    """What the walked maps depend on."""
    affinity = run.profile.affinity
    own = {"alpha": run.profile.cam.alpha, "beta": affinity.beta, "steps": affinity.walk_steps}
    return run.settings("affinity.psa", "nets.folding", cams=map_settings(run), network=network_settings(run), walk=own)


def open_walks(run: Run) -> ArtifactStore:
    """The walked maps that `extract_walks` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(run.artifacts("walks"), NOTEBOOK, walk_settings(run))
