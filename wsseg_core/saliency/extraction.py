"""Saliency maps of many images, written once and recombined ever after.

Notebook 02 runs this; what notebooks 03 and 04 vary (alpha, N, blocks, sizes, rule, order, CRF) is computed from these
files. A file holds, for one image at one input size, the maps of its top-scoring classes at every layer, at the layer's
own resolution: up-sampling them would cost a hundred times the space and adds nothing.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ClassifierConfig, Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import class_probabilities, classifier_settings
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.nets.architectures import stages
from wsseg_core.saliency.gradients import INPUT, saliency_maps

NOTEBOOK = "02_saliency_extraction"


@dataclass(frozen=True)
class Extraction:
    """One backward pass an image.

    Attributes:
        name: of the folder under `artifacts/saliency`.
        guided: guided back-propagation, else plain.
        size: side of the input, in pixels.
        layers: where the gradient is read.
        classes: at least so many maps an image, of its top-scoring classes; all that are detected or labelled in any
            case, so that either may decide what is drawn.
    """

    name: str
    guided: bool
    size: int
    layers: tuple[str, ...]
    classes: int


def block_layers(classifier: ClassifierConfig, blocks: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The layers of some stages of a classifier, one group a stage: VGG-16's convolutions, the blocks of others.

    Raises:
        WorkbookError: the network does not have a stage of this number.
    """
    known = stages(classifier)
    if unknown := [block for block in blocks if block not in known]:
        raise WorkbookError(
            f"{classifier.architecture} has no stage {unknown[0]}, only {', '.join(map(str, known))}; "
            "mend saliency.blocks in the profile, or name saliency.layers"
        )
    return tuple(known[block].layers for block in blocks)


def conv_layers(classifier: ClassifierConfig, blocks: Sequence[int]) -> tuple[str, ...]:
    """The layers of `block_layers` in one row, lowest first."""
    return tuple(itertools.chain(*block_layers(classifier, blocks)))


def layer_groups(profile: Profile) -> tuple[tuple[str, ...], ...]:
    """L of equation 5, lowest first: the layers of each stage, or those that the profile names."""
    return profile.saliency.layers or block_layers(profile.classifier, profile.saliency.blocks)


def planned_extractions(profile: Profile) -> list[Extraction]:
    """Everything that the tables of DCSM need, and nothing twice; no lower layers where the profile names its own.

    Without `saliency.ablations` it is what the methods of table 1 need, as for the second network.
    """
    config, few, many = profile.saliency, profile.subtraction.min_candidates, profile.saliency.max_classes
    base, upper = profile.data.image_size, tuple(itertools.chain(*layer_groups(profile)))
    others = [number for number in stages(profile.classifier) if number not in config.blocks]
    lower = () if config.layers else conv_layers(profile.classifier, others)
    ablations = [
        *(Extraction(f"guided-{size}", True, size, upper, few) for size in config.other_sizes),  # table 3
        *(Extraction(f"plain-{size}", False, size, upper, few) for size in config.sizes),  # table 5
        *([Extraction(f"lower-{base}", True, base, lower, few)] if lower else []),  # table 2
    ]
    return [
        *(Extraction(f"guided-{size}", True, size, upper, many) for size in config.sizes),  # tables 1, 2, 4
        *(ablations if config.ablations else []),
        Extraction(f"input-{base}", False, base, (INPUT,), few),  # Simonyan et al., table 1
    ]


def _common_settings(run: Run) -> dict[str, Any]:
    """What all maps and probabilities depend on."""
    modules, precision = ("saliency.gradients", "saliency.extraction", "nets.folding"), run.profile.saliency.precision
    return run.settings(*modules, classifier=classifier_settings(run), precision=precision)


def extraction_settings(run: Run, extraction: Extraction) -> dict[str, Any]:
    """What the maps depend on."""
    return _common_settings(run) | {"extraction": asdict(extraction)}


def classify(run: Run, model: nn.Module, ids: Sequence[str]) -> ArtifactStore:
    """Class probabilities of images at the base size: `probabilities`, float32 (C,) in [0, 1], an image."""
    store = ArtifactStore.create(_probability_folder(run), _common_settings(run), NOTEBOOK)
    missing = store.missing(ids)
    if missing:
        batch_size = run.profile.saliency.batch_size
        rows = class_probabilities(model, run.devkit, missing, run.profile.data.image_size, batch_size)
        for image_id, row in zip(missing, rows, strict=True):
            store.save(image_id, probabilities=row)
    return store


def open_probabilities(run: Run) -> ArtifactStore:
    """The class probabilities that `classify` wrote."""
    return ArtifactStore.open(_probability_folder(run), NOTEBOOK, _common_settings(run))


def _probability_folder(run: Run) -> Path:
    return run.artifacts("class_probabilities")


def extract(run: Run, model: nn.Module, ids: Sequence[str], extraction: Extraction) -> ArtifactStore:
    """Write the saliency maps of images; those that are on disk already are left alone.

    Args:
        run: the run.
        model: the classifier as `saliency.prepare` returns it.
        ids: images.
        extraction: what to compute.

    Returns:
        The store. Of every image: `classes`, int64 (K,), best score first, and for each layer its maps, float16
        (K, h, h) in [0, 1], with `<layer>.scale`, float32 (1,), by which they were divided.
    """
    folder = run.artifacts("saliency") / extraction.name
    store = ArtifactStore.create(folder, extraction_settings(run, extraction), NOTEBOOK)
    missing = store.missing(ids)
    if not missing:
        return store
    probabilities = open_probabilities(run)
    batch_size, device = run.profile.saliency.batch_size, next(model.parameters()).device
    with tqdm(total=len(missing), desc=extraction.name, mininterval=1.0) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            scores = np.stack([probabilities.load(image_id)["probabilities"] for image_id in batch])  # (B, C)
            ranking = np.argsort(-scores, axis=1, kind="stable")  # (B, C)
            drawable = (scores > run.profile.classifier.threshold) | (run.devkit.label_matrix(batch) > 0)
            ranks = np.flatnonzero(np.take_along_axis(drawable, ranking, 1).any(0))
            classes = ranking[:, : max([extraction.classes, *(ranks + 1)])]  # (B, K)
            images = torch.stack([resize_and_pad(run.devkit.image(image_id), extraction.size) for image_id in batch])
            inputs = images.to(device), torch.from_numpy(classes).to(device)
            maps = saliency_maps(model, *inputs, extraction.layers, extraction.guided)
            for row, image_id in enumerate(batch):
                store.save(image_id, classes=classes[row], **_compact({name: m[row] for name, m in maps.items()}))
            bar.update(len(batch))
    return store


def _compact(maps: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Half the bytes without losing small gradients: raw values may lie far below what float16 resolves."""
    arrays = {}
    for name, values in maps.items():
        scale = values.max().clamp(min=torch.finfo(torch.float32).tiny)
        arrays[name] = (values / scale).cpu().numpy().astype(np.float16)
        arrays[f"{name}.scale"] = scale.reshape(1).cpu().numpy()
    return arrays


def open_extraction(run: Run, extraction: Extraction) -> ArtifactStore:
    """The maps that `extract` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    folder = run.artifacts("saliency") / extraction.name
    return ArtifactStore.open(folder, NOTEBOOK, extraction_settings(run, extraction))


def load_maps(store: ArtifactStore, image_id: str, layers: Sequence[str]) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Read back what `extract` wrote: `classes`, int64 (K,), and raw maps by layer, float32 (K, h, h)."""
    arrays = store.load(image_id)
    maps = {name: torch.from_numpy(arrays[name].astype(np.float32) * arrays[f"{name}.scale"]) for name in layers}
    return arrays["classes"], maps
