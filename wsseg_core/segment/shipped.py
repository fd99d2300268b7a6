"""Networks that are shipped with the workbook: what was learnt above a trunk whose weights a package brings.

`weights/<profile>/` holds a file of safetensors for the classifier and, where there is one, for a segmentation network,
each with the tensors in which the trained network differs from its start, in half precision, and `card.json`: classes,
training, scores, licence, and the tables `[classifier]` and `[segmentation]` of the profile, so that the profile may
change. Nothing in it was learnt from a pixel mask.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wsseg_core.base.config import Profile, load_profile, with_tables
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically, write_json
from wsseg_core.classify.classifier import load_classifier, new_classifier
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import SegmentationNet
from wsseg_core.saliency.dcsm import segment_image
from wsseg_core.saliency.gradients import prepare
from wsseg_core.segment.predictions import (
    SegmentationImageMaps,
    grid_log_probabilities,
    inference_sizes,
    segmentation_setting,
)
from wsseg_core.segment.retraining import load_segmentation, segmentation_net

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
CLASSIFIER, NETWORK, CARD = "classifier.safetensors", "segmentation.safetensors", "card.json"
TABLES = ("classifier", "segmentation")  # of the profile, which say what the networks are
FACTS = ("profile", "settings", "classes", "network")  # what every card has


class Shipped(NamedTuple):
    """Networks that are ready for images of any origin.

    Attributes:
        classifier: as `saliency.gradients.prepare` returns it.
        network: in evaluation mode; None where only the classifier is shipped.
        classes: names of the C classes that both can see.
        profile: that of today, with the tables of the training.
        card: what is to be said of them.
    """

    classifier: nn.Module
    network: SegmentationNet | None
    classes: tuple[str, ...]
    profile: Profile
    card: Mapping[str, Any]

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Segment an image, uint8 (H, W, 3), with the best that is shipped, and a CRF.

        Returns:
            uint8 (H, W), 0 for background, else 1 + class index.
        """
        if self.network is None:
            return segment_image(self.classifier, image, self.profile, self.profile.classifier.threshold)
        return network_mask(self.network, image, self.profile)


def network_mask(network: SegmentationNet, image: np.ndarray, profile: Profile) -> np.ndarray:
    """What a network draws of an image, uint8 (H, W, 3), with a CRF: uint8 (H, W), 0 or 1 + class index."""
    log_probabilities = grid_log_probabilities(network, image, inference_sizes(profile.segmentation))
    maps = SegmentationImageMaps(image, log_probabilities, np.ones(network.num_classes, bool))
    return maps.mask(segmentation_setting(profile, "network", crf=True))


def load_shipped(name: str = "animals", folder: Path = WEIGHTS) -> Shipped:
    """The networks in `weights/<name>`.

    Raises:
        WorkbookError: a file is missing or damaged, or its tensors are not those of the network on the card.
    """
    card, profile = _read_card(folder / name / CARD)
    classifier, classes = shipped_classifier(name, folder)
    network = None
    if card["network"]:
        network = segmentation_net(profile.segmentation, len(classes), classifier).eval()
        _add(network, folder / name / NETWORK)
    prepared = prepare(fold_batch_norm(classifier), profile.saliency.precision)
    return Shipped(prepared, network, tuple(classes), profile, card)


def shipped_classifier(name: str = "animals", folder: Path = WEIGHTS) -> tuple[nn.Module, list[str]]:
    """The classifier in `weights/<name>`, as it was trained and in evaluation mode, and the names of its classes.

    Raises:
        WorkbookError: the errors of `load_shipped`.
    """
    card, profile = _read_card(folder / name / CARD)
    model = new_classifier(profile.classifier, len(card["classes"]), seed=0)
    _add(model, folder / name / CLASSIFIER)
    return model.eval(), card["classes"]


def ship(run: Run, network: str, made_by: str, facts: Mapping[str, Any], folder: Path = WEIGHTS) -> Path:
    """Write the trained classifier, and a trained network, of a run into `weights/<profile>`.

    Args:
        run: finished as far as the network.
        network: its name, as of `load_segmentation`; empty for the classifier alone.
        made_by: the notebook that trained the network.
        facts: what the card says beside profile, classes and steps: data, scores, licence.
        folder: that of all weights.

    Raises:
        WorkbookError: the networks are not trained yet, or under other settings.
    """
    profile, classifier = run.profile, load_classifier(run)
    place = folder / profile.name
    start = new_classifier(profile.classifier, run.devkit.num_classes, run.seed)
    _write(place / CLASSIFIER, _difference(classifier, start))
    steps = {"classifier": profile.classifier.head_steps + profile.classifier.steps}
    if network:
        learnt = load_segmentation(run, network, made_by)
        beginning = segmentation_net(profile.segmentation, learnt.num_classes, classifier)
        _write(place / NETWORK, _difference(learnt, beginning))
        steps["segmentation"] = profile.segmentation.steps
    card = {"profile": profile.name, "classes": list(run.devkit.classes), "network": network, "seed": run.seed}
    settings = {table: plain(asdict(getattr(profile, table))) for table in TABLES}
    write_json(place / CARD, card | {"settings": settings, "steps": steps, **facts})
    return place


def _difference(model: nn.Module, start: nn.Module) -> dict[str, Tensor]:
    """The tensors in which a network differs from another of its kind."""
    before = start.state_dict()
    return {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    small = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    write_atomically(path, save({name: value.contiguous() for name, value in small.items()}))


def _add(model: nn.Module, path: Path) -> None:
    """Give a network what `_write` kept of it, in place."""
    state = model.state_dict()
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WorkbookError(f"{path}: missing or damaged ({error}); take it from version control again") from None
    for name, value in stored.items():
        if name not in state or state[name].shape != value.shape:
            raise WorkbookError(
                f"{path}: {name} is of another network than {CARD} describes; take both from version control again"
            )
    model.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in stored.items()})


def _read_card(path: Path) -> tuple[dict[str, Any], Profile]:
    """A card, and the profile with the tables that are on it."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        profile, settings, *_ = (card[fact] for fact in FACTS)
        settings = dict(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbookError(f"{path}: missing or damaged ({error}); take it from version control again") from None
    return card, with_tables(load_profile(profile), settings, str(path))
