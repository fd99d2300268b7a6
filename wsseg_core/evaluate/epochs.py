"""The scores of self-training: of the labels on the training images and of the networks on val, epoch by epoch."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from wsseg_core.affinity import cam
from wsseg_core.data.run import Run
from wsseg_core.evaluate.metrics import Scores
from wsseg_core.evaluate.scoring import score_boundaries, score_settings
from wsseg_core.evaluate.stored_masks import StoredMasks, StoredSetting
from wsseg_core.refine import dynamic_stage, static_stage
from wsseg_core.refine.self_training import (
    EQUAL_STEPS,
    NOTEBOOK,
    SelfTrainingSetting,
    epoch_labels,
    equal_steps_run,
    labels_name,
    network_name,
    self_training_run,
    self_training_settings,
)
from wsseg_core.segment.predictions import SegmentationMaps, segmentation_setting


def self_training_scores(run: Run) -> dict[str, Scores]:
    """Score what notebook 09 trained; what is scored already is read.

    Returns:
        Scores without a CRF. `net_<name>_epoch<e>` of every network on val in the test protocol, and
        `<name>_epoch<e>_seed` of the labels on train in the seed protocol, epoch 0 being the seeds. The last epoch is
        also there as `net_<name>` and `<name>_seed`, and the first of the talk's loop as `net_selftrain_first`;
        `net_equal_steps` and `net_equal_steps_static` are the networks of `train_equal_steps`.

    Raises:
        WorkbookError: a network or labels are missing, or were made under other settings.
    """
    scores: dict[str, Scores] = {}
    for setting in self_training_settings():
        networks, labels = _network_scores(run, setting), _label_scores(run, setting)
        scores |= networks | labels
        scores[f"net_{setting.name}"] = list(networks.values())[-1]
        scores[f"{setting.name}_seed"] = list(labels.values())[-1]
    for name in EQUAL_STEPS:
        scores |= _score_network(equal_steps_run(run), name)
    return scores | {"net_selftrain_first": scores["net_selftrain_epoch1"]}


def best_epoch(run: Run, scores: Mapping[str, Scores], name: str) -> int | None:
    """The epoch whose network did best on val, an oracle: it is chosen by the masks that score it.

    Args:
        run: the run.
        scores: what `self_training_scores` gives.
        name: of the setting.

    Returns:
        From 1; None where no image has a mask.
    """
    found = [scores[f"net_{name}_epoch{epoch}"].mean_iou for epoch in range(1, run.profile.self_training.epochs + 1)]
    return int(np.argmax(found)) + 1 if np.isfinite(found).all() else None


def compared_networks(run: Run) -> dict[str, SegmentationMaps]:
    """What the networks that notebook 09 compares draw of val, by the names of their scores without a CRF."""
    looped, fixed, last = self_training_run(run), equal_steps_run(run), run.profile.self_training.epochs
    settings = self_training_settings()
    maps = {row.name: SegmentationMaps(looped, network_name(row, last), NOTEBOOK) for row in settings}
    maps |= {name: SegmentationMaps(fixed, name, NOTEBOOK) for name in EQUAL_STEPS}
    earlier = {"psa": cam.NOTEBOOK, "static": static_stage.NOTEBOOK, "dynamic": dynamic_stage.NOTEBOOK}
    if run.profile.segmentation.supervised:
        earlier["supervised"] = static_stage.NOTEBOOK
    maps |= {name: SegmentationMaps(run, name, made_by) for name, made_by in earlier.items()}
    return {f"net_{name}": source for name, source in maps.items()}


def steps_of(run: Run, name: str) -> int:
    """How many steps a network of `compared_networks` has learnt from masks, all stages together."""
    profile = run.profile
    if name.startswith(("net_selftrain", "net_equal_steps")):
        return profile.self_training.epochs * profile.self_training.steps
    return profile.segmentation.steps + (profile.dynamic.steps if name == "net_dynamic" else 0)


def border_scores(run: Run) -> dict[str, Scores]:
    """Score `compared_networks` near true borders alone; what is scored already is read.

    Returns:
        `<name>_borders` of each, whose mean IoU is its boundary IoU.

    Raises:
        WorkbookError: a network is missing, or was trained under other settings.
    """
    borders: dict[str, Scores] = {}
    for name, source in compared_networks(run).items():
        row, split = segmentation_setting(run.profile, name), run.profile.data.val_split
        made = score_boundaries(run, f"09_borders_{name}", run.val_ids, split, [row], NOTEBOOK, source)
        borders[f"{name}_borders"] = replace(made[name], name=f"{name}_borders")
    return borders


def _network_scores(run: Run, setting: SelfTrainingSetting) -> dict[str, Scores]:
    own = self_training_run(run)
    scores: dict[str, Scores] = {}
    for epoch in range(1, run.profile.self_training.epochs + 1):
        name = f"net_{labels_name(setting, epoch)}"
        (made,) = _score_network(own, network_name(setting, epoch)).values()  # the first one has another name
        scores[name] = replace(made, name=name)
    return scores


def _score_network(own: Run, name: str) -> dict[str, Scores]:
    row, maps = segmentation_setting(own.profile, f"net_{name}"), SegmentationMaps(own, name, NOTEBOOK)
    return score_settings(own, f"09_net_{name}", own.val_ids, own.profile.data.val_split, [row], NOTEBOOK, maps)


def _label_scores(run: Run, setting: SelfTrainingSetting) -> dict[str, Scores]:
    stores = epoch_labels(run, setting)
    rows = [StoredSetting(f"{setting.name}_epoch{epoch}_seed", str(epoch)) for epoch in stores]
    source = StoredMasks(run, {str(epoch): store for epoch, store in stores.items()})
    split, name = run.profile.data.train_split, f"09_labels_{setting.name}"
    return score_settings(run, name, run.train_ids, split, rows, NOTEBOOK, source)
