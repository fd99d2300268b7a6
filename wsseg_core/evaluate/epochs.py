"""The scores of self-training: of the labels on the training images and of the networks on val, epoch by epoch."""

from wsseg_core.data.run import Run
from wsseg_core.evaluate.metrics import Scores
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.evaluate.stored_masks import StoredMasks, StoredSetting
from wsseg_core.refine.self_training import (
    EQUAL_STEPS,
    NOTEBOOK,
    SelfTrainingSetting,
    epoch_labels,
    equal_steps_run,
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
        `net_equal_steps` is the network of `train_equal_steps`.

    Raises:
        WorkbookError: a network or labels are missing, or were made under other settings.
    """
    scores: dict[str, Scores] = {}
    for setting in self_training_settings():
        networks, labels = _network_scores(run, setting), _label_scores(run, setting)
        scores |= networks | labels
        scores[f"net_{setting.name}"] = list(networks.values())[-1]
        scores[f"{setting.name}_seed"] = list(labels.values())[-1]
    scores |= _score_network(equal_steps_run(run), EQUAL_STEPS)
    return scores | {"net_selftrain_first": scores["net_selftrain_epoch1"]}


def _network_scores(run: Run, setting: SelfTrainingSetting) -> dict[str, Scores]:
    own = self_training_run(run)
    scores: dict[str, Scores] = {}
    for epoch in range(1, run.profile.self_training.epochs + 1):
        scores |= _score_network(own, network_name(setting, epoch))
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
