"""Multi-label classification from image-level labels, DCSM sections 3.2 and 4.2.

A fully convolutional network, VGG-16 in the paper, scores every position of an image; the maximum over the positions is
the score of the class, and a sigmoid cross entropy compares it with the label. Nothing here knows where an object is.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import Dataset
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ClassifierConfig, FeaturesConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.head import head_recipe
from wsseg_core.classify.scores import image_scores, label_loss, pooling_of, precision_by_class
from wsseg_core.classify.training import Hardware, Key, Recipe, fit, new_optimizer, read_checkpoint
from wsseg_core.data.run import Run, project_root
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.data.voc import VocDevkit
from wsseg_core.nets.architectures import architecture_of, build_classifier
from wsseg_core.nets.backbones import parameters_from

NOTEBOOK = "01_training"
Network = TypeVar("Network", bound=nn.Module)
STRIDE = 32  # of the score map; training sizes are multiples of it


class LabelledImages(Dataset):
    """Augmented images with their image-level labels, indexed by (step, index of the image).

    All images of a step share one size, drawn from `resize_range`, so that they make a batch (DCSM 3.2). The ratio
    depends on (seed, step) and the flip on (seed, step, index), never on what was drawn before.
    """

    def __init__(self, devkit: VocDevkit, ids: list[str], size: int, config: ClassifierConfig, seed: int) -> None:
        self.devkit, self.ids, self.size, self.config, self.seed = devkit, ids, size, config, seed
        self.labels = torch.from_numpy(devkit.label_matrix(ids)).float()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        """Image, float32 (3, s, s), and labels, float32 (C,) of 0 and 1."""
        step, index = key
        ratio = np.random.default_rng([self.seed, step]).uniform(*self.config.resize_range)
        size = max(1, round(self.size * ratio / STRIDE)) * STRIDE
        image = resize_and_pad(self.devkit.image(self.ids[index]), size)
        if self.config.flip and np.random.default_rng([self.seed, step, index]).random() < 0.5:
            image = image.flip(2)
        return image, self.labels[index]


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Sigmoid cross entropy, summed over classes and averaged over the images, DCSM equations 1 and 2."""
    images, labels = batch
    return label_loss(image_scores(model(images.to(memory_format=torch.channels_last)), pooling_of(model)), labels)


def train_classifier(run: Run, devices: int = 1) -> list[dict[str, Any]]:
    """Train in the paper's two phases, first the head (VGG: above pool5) and then all, or resume where a run stopped.

    Args:
        run: the run; its validation images measure the average precision along the way.
        devices: processes or GPUs.

    Returns:
        The learning curve of both phases: `phase`, `step`, `loss`, and `ap/<class>` where it was validated.
    """
    config = run.profile.classifier
    ArtifactStore.create(run.artifacts("classifier"), classifier_settings(run), NOTEBOOK)
    model = new_classifier(config, run.devkit.num_classes, run.seed)
    hardware, history = Hardware(config.precision, devices, config.workers), []
    for phase in phases(config):
        parameters = trained_parameters(model, config, phase)
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        recipe = _recipe(run, parameters, phase)
        if phase == "head" and run.profile.features.sizes:
            recipe = head_recipe(run, model, recipe)
        curve = fit(model, recipe, checkpoint_path(run, phase), hardware, f"training ({phase} layers)")
        history += [{"phase": phase} | row for row in curve]
    return history


def phases(config: ClassifierConfig) -> dict[str, int]:
    """The phases of the training and their steps, in their order; those without a step are left out.

    Raises:
        WorkbookError: none is left.
    """
    steps = {"head": config.head_steps, "all": config.steps}
    taken = {phase: count for phase, count in steps.items() if count}
    if not taken:
        raise WorkbookError("classifier.head_steps and classifier.steps are both 0; raise one of them in the profile")
    return taken


def trained_parameters(model: nn.Module, config: ClassifierConfig, phase: str) -> list[nn.Parameter]:
    """What a phase changes."""
    if phase == "head":
        return architecture_of(config).head_parameters(model)
    parameters = list(model.parameters()) if config.train_from == 1 else parameters_from(model, config.train_from)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and config.frozen_batch_norm]
    kept = {id(parameter) for norm in norms for parameter in norm.parameters()}
    return [parameter for parameter in parameters if id(parameter) not in kept]


def classifier_settings(run: Run) -> dict[str, Any]:
    """What the trained weights depend on."""
    config = asdict(run.profile.classifier)
    for name in ("threshold", "workers", "checkpoint_every", "validate_every"):
        del config[name]
    # A head that learns from features sees them at these sizes, and not scaled as images are.
    stored = {"features": run.profile.features.sizes} if run.profile.features.sizes else {}
    return run.settings("classify.classifier", classes=run.devkit.classes, classifier=config, **stored)


def checkpoint_path(run: Run, phase: str = "") -> Path:
    """File of the training state after a phase, the last one when left out."""
    return run.artifacts("classifier") / f"{phase or list(phases(run.profile.classifier))[-1]}.ckpt"


def _recipe(run: Run, parameters: list[nn.Parameter], phase: str) -> Recipe:
    config = run.profile.classifier
    steps = phases(config)[phase]
    optimizer, schedule = make_optimizer(config, parameters, steps)
    return Recipe(
        loss=classification_loss,
        dataset=LabelledImages(run.devkit, run.train_ids, run.profile.data.image_size, config, run.seed),
        optimizer=optimizer,
        schedule=schedule,
        steps=steps,
        batch_size=config.batch_size,
        seed=run.seed,
        validate=partial(average_precisions, run=run),
        validate_every=config.validate_every,
        checkpoint_every=config.checkpoint_every,
        settings=classifier_settings(run) | {"phase": phase},
    )


def new_classifier(config: ClassifierConfig, num_classes: int, seed: int) -> nn.Module:
    """An untrained network: random, with ImageNet's weights, or with those of a checkpoint.

    Raises:
        WorkbookError: an unknown architecture, or weights that are missing, cannot be downloaded, or belong to another
            architecture.
    """
    architecture = architecture_of(config)
    torch.manual_seed(seed)
    model = build_classifier(config, num_classes)
    if config.weights == "imagenet":
        try:
            architecture.load_imagenet_weights(model, architecture.imagenet_weights())
        except ValueError as error:
            raise WorkbookError(
                f"classifier.weights = 'imagenet' does not fit: {error}; use weights = 'random'"
            ) from None
    elif config.weights != "random":
        load_weights(model, project_root() / config.weights)
    return model


def other_network(run: Run) -> Run:
    """The same run with the profile's second network as its classifier, in a folder below its own.

    A network that starts at random is trained as a whole from the first step.
    """
    other = run.profile.other_network
    classifier = replace(
        run.profile.classifier,
        architecture=other.architecture,
        width=other.width,
        weights=other.weights,
        head_steps=0 if other.weights == "random" else run.profile.classifier.head_steps,
        steps=other.steps,
    )
    saliency = replace(run.profile.saliency, layers=other.layers, ablations=False)
    base = run.profile.data.image_size
    features = FeaturesConfig((base,) if base in run.profile.features.sizes else ())
    profile = replace(run.profile, classifier=classifier, saliency=saliency, features=features)
    return replace(run, profile=profile, folder=run.folder / other.architecture.replace(":", "_"))


def load_weights(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load the network of a checkpoint, in place, and return the whole checkpoint.

    Raises:
        WorkbookError: no checkpoint there, or one of another architecture.
    """
    state = read_checkpoint(path)
    shapes = [
        {name: tuple(value.shape) for name, value in table.items()} for table in (state["model"], model.state_dict())
    ]
    for name in {**shapes[0], **shapes[1]}:
        found, wanted = shapes[0].get(name, "absent"), shapes[1].get(name, "absent")
        if found != wanted:
            raise WorkbookError(
                f"{path}: weights of another architecture ({name} is {found}, the network here has {wanted}); "
                "use the profile that they were trained with"
            )
    model.load_state_dict(state["model"])
    return state


def make_optimizer(
    config: ClassifierConfig, parameters: list[nn.Parameter], steps: int, stage: str = "classifier"
) -> tuple[Optimizer, LRScheduler]:
    """SGD at a constant rate (DCSM 4.2), or AdamW in one cycle, which trains from scratch in minutes.

    Args:
        config: optimiser, schedule and their values.
        parameters: to train.
        steps: of the optimiser in all.
        stage: table of the profile that the values are from.

    Raises:
        WorkbookError: an unknown optimiser or schedule.
    """
    rate = config.learning_rate
    group = {"params": parameters, "lr": rate}
    optimizer = new_optimizer(config.optimizer, [group], config.momentum, config.weight_decay, stage)
    if config.schedule == "constant":
        return optimizer, LambdaLR(optimizer, _constant)
    if config.schedule == "one_cycle":
        return optimizer, OneCycleLR(optimizer, rate, total_steps=steps + 1)
    raise WorkbookError(f"{stage}.schedule {config.schedule!r} is unknown; use 'constant' or 'one_cycle'")


def _constant(step: int) -> float:
    return 1.0


def load_classifier(run: Run) -> nn.Module:
    """The trained network of a run, in evaluation mode.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    config = replace(run.profile.classifier, weights="random")
    model = new_classifier(config, run.devkit.num_classes, run.seed)
    steps = list(phases(config).values())[-1]
    return load_trained(model, checkpoint_path(run), classifier_settings(run), steps, NOTEBOOK)


def load_trained(model: Network, path: Path, settings: Mapping[str, Any], steps: int, made_by: str) -> Network:
    """Give a network of this workbook the weights of its training, in place, and put it into evaluation mode.

    Args:
        model: of the right architecture.
        path: of the checkpoint.
        settings: under which it must have been trained.
        steps: after which its training is over.
        made_by: the notebook that trains it.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    ArtifactStore.open(path.parent, made_by, settings)
    if load_weights(model, path)["step"] < steps:
        raise WorkbookError(f"{path}: training did not finish; run notebook {made_by} again, it will resume")
    return model.eval()


def classifier_from_checkpoint(path: Path) -> tuple[nn.Module, list[str]]:
    """The network of a checkpoint and the names of its classes, without the run that trained it.

    Raises:
        WorkbookError: no checkpoint of a classifier.
    """
    settings = read_checkpoint(path)["settings"]
    known = {field.name for field in fields(ClassifierConfig)}
    if not {"classifier", "classes"} <= settings.keys() or not settings["classifier"].keys() <= known:
        raise WorkbookError(f"{path}: weights of another network; give the classifier's all.ckpt or head.ckpt")
    config = ClassifierConfig(**settings["classifier"] | {"weights": "random"})
    model = new_classifier(config, len(settings["classes"]), seed=0)
    load_weights(model, path)
    return model.eval(), settings["classes"]


def class_probabilities(model: nn.Module, devkit: VocDevkit, ids: list[str], size: int, batch_size: int) -> np.ndarray:
    """Sigmoid scores of images at one input size, float32 (n, C) in [0, 1]."""
    like = next(model.parameters())  # for its device and precision
    rows = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(ids), batch_size), desc="classifying", mininterval=1.0):
            images = [resize_and_pad(devkit.image(image_id), size) for image_id in ids[start : start + batch_size]]
            score_map = model(torch.stack(images).to(like).to(memory_format=torch.channels_last))
            rows.append(image_scores(score_map, pooling_of(model)).sigmoid().float().cpu().numpy())
    return np.concatenate(rows)


def average_precisions(model: nn.Module, run: Run) -> dict[str, float]:
    """Average precision of every class on the validation images, `ap/<class>` in [0, 1]; NaN for an absent class."""
    size = run.profile.data.image_size
    return precision_by_class(run, class_probabilities(model, run.devkit, run.val_ids, size, batch_size=32))


def mean_average_precision_interval(
    labels: np.ndarray, scores: np.ndarray, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean average precision over the classes, with the 95 % interval of a bootstrap over images.

    A plain tuple and no `metrics.Interval`: what trains does not import the module that reads masks.

    Args:
        labels: (n, C) of 0 and 1.
        scores: float (n, C), higher where the class is more likely.
        samples: resamples of the images.
        seed: of the resamples.

    Returns:
        The value and the ends of its interval, in [0, 1]. A class without an image is left out, in a resample too.
    """
    count = len(labels)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    weights = np.vstack([np.ones(count), drawn])  # (1 + samples, n), how often each image counts
    by_class = np.array([_weighted_precision(*pair, weights) for pair in zip(labels.T, scores.T, strict=True)])
    known = np.isfinite(by_class)  # (C, 1 + samples)
    total, classes = np.where(known, by_class, 0).sum(0), known.sum(0)
    value, *draws = np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(value), float(low), float(high)


def _weighted_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of one class under many weightings of the images (samples, n); NaN without a positive."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]), 1))  # of the images that share a score
    found = np.cumsum(weights[:, order] * labels[order], axis=1)[:, last]  # (samples, thresholds)
    shown = np.cumsum(weights[:, order], axis=1)[:, last]
    gained = np.diff(found, axis=1, prepend=0) * found / np.maximum(shown, 1)
    return np.divide(gained.sum(1), found[:, -1], out=np.full(len(weights), np.nan), where=found[:, -1] > 0)
