"""Self-training, epoch by epoch: a network learns from seeds, and then from what it says about the same images.

The 2019 talk: class activation maps are the first labels; a network after the Discriminative Feature Network
(`wsseg_core.nets.dfn`) is trained for an epoch; what it draws of the training images, limited to the labels of each
image, is what the next epoch learns. It is the loop of Dai et al., "BoxSup", ICCV 2015, with image-level labels in
place of boxes.

What the talk leaves open is a row of the table: whether a CRF comes behind the predictions, whether labels are hard
or soft, whether a floor keeps a class alive, and whether each epoch starts anew. An epoch is a number of steps here,
and the head alone is that of DFN where the trunk does not learn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from wsseg_core.affinity.seeds import seed_masks, seed_setting
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import FEW_IMAGES, FEW_MASKS, parallel_map
from wsseg_core.crf.dense import dense_crf
from wsseg_core.data.run import Run
from wsseg_core.refine import static_stage
from wsseg_core.saliency.dcsm_seeds import dcsm_masks
from wsseg_core.segment.predictions import extract_predictions, inference_sizes, pixel_probabilities, reader
from wsseg_core.segment.retraining import (
    digest,
    load_segmentation,
    network_folder,
    train_each,
    train_networks,
    train_segmentation,
)

NOTEBOOK = "09_self_training"
SEEDS = ("cam", "psa", "dcsm")
EQUAL_STEPS = ("equal_steps", "equal_steps_static")  # networks that the loop is compared with
LEVELS = (0.125, 0.375, 0.625, 0.875)  # of the masks that stand for soft labels


@dataclass(frozen=True)
class SelfTrainingSetting:
    """The loop, or a variant of it; a row of a table.

    Attributes:
        name: of the row, and of its networks and masks.
        seeds: what the first epoch learns: "cam" (the talk), "psa" or "dcsm", the last with its CRF.
        crf: a dense CRF behind the predictions.
        soft: labels with the probabilities of the network, see `soft_masks`, in place of the most probable one.
        floor: a class that shrinks too far keeps its earlier pixels, see `keep_alive`.
        restart: each epoch starts from the classifier, not from the network of the epoch before.

    Raises:
        WorkbookError: other seeds.
    """

    name: str
    seeds: str = "cam"
    crf: bool = False
    soft: bool = False
    floor: bool = True
    restart: bool = False

    def __post_init__(self) -> None:
        if self.seeds not in SEEDS:
            raise WorkbookError(f"{self.name}: seeds {self.seeds!r} are not known; use one of {', '.join(SEEDS)}")


def self_training_settings() -> list[SelfTrainingSetting]:
    """The talk's loop, other seeds, and one change at a time; the same under every profile."""
    own = SelfTrainingSetting("selftrain")
    return [
        own,
        replace(own, name="selftrain_psa", seeds="psa"),
        replace(own, name="selftrain_dcsm", seeds="dcsm"),
        replace(own, name="selftrain_crf_loop", crf=True),
        replace(own, name="selftrain_soft", soft=True),
        replace(own, name="selftrain_no_floor", floor=False),
        replace(own, name="selftrain_restart", restart=True),
    ]


def self_training_run(run: Run) -> Run:
    """The run with the network and the steps of an epoch in place of those of `segmentation`."""
    profile = run.profile
    config = profile.self_training
    network = replace(
        profile.segmentation,
        head="dfn",
        channels=config.channels,
        learning_rate=config.learning_rate,
        steps=config.steps,
        scales=(1.0,),
    )
    return replace(run, profile=replace(profile, segmentation=network))


def network_name(setting: SelfTrainingSetting, epoch: int) -> str:
    """Name of the network after an epoch, 1 to E. The first knows its seeds alone, so that variants share it."""
    return f"selftrain_{setting.seeds}_epoch1" if epoch == 1 else labels_name(setting, epoch)


def labels_name(setting: SelfTrainingSetting, epoch: int) -> str:
    """Name of what the network of an epoch draws."""
    return f"{setting.name}_epoch{epoch}"


def train_epochs(run: Run, setting: SelfTrainingSetting, workers: int | None = None) -> list[dict[str, Any]]:
    """Run the loop to its end, or go on where a run stopped: every epoch is kept.

    Args:
        run: the run; notebooks 06 and 07 have run.
        setting: the loop or a variant.
        workers: processes for the CRFs; all cores when left out.

    Returns:
        The learning curves, with `epoch`, from 1, beside what `train_segmentation` gives.

    Raises:
        WorkbookError: no seeds, or the errors of `train_segmentation`.
    """
    own, history = self_training_run(run), []
    before = first_labels(run, setting)
    masks: Sequence[ArtifactStore] = [before]
    for epoch in range(1, run.profile.self_training.epochs + 1):
        name, start = network_name(setting, epoch), network_name(setting, epoch - 1)
        start = "" if setting.restart or epoch == 1 else start
        history += [{"epoch": epoch} | row for row in train_segmentation(own, name, masks, NOTEBOOK, start=start)]
        extract_predictions(own, name, run.val_ids, NOTEBOOK)
        before, masks = next_labels(own, setting, epoch, before, workers)
    return history


def train_loops(run: Run, settings: Sequence[SelfTrainingSetting]) -> dict[str, list[dict[str, Any]]]:
    """`train_epochs` for the loop and its variants, see `train_each`; the learning curves by name.

    Raises:
        WorkbookError: the errors of `train_epochs`.
    """
    sharing = {setting.seeds: setting for setting in settings}  # the network of the first epoch
    train_each(run, partial(_first_epoch, run), list(sharing.values()), "first epochs")
    curves = train_each(run, partial(train_epochs, run), settings, "self-training")
    return {setting.name: curve for setting, curve in zip(settings, curves, strict=True)}


def _first_epoch(run: Run, setting: SelfTrainingSetting) -> None:
    own, name = self_training_run(run), network_name(setting, 1)
    train_segmentation(own, name, first_labels(run, setting), NOTEBOOK)
    extract_predictions(own, name, run.val_ids, NOTEBOOK)


def first_labels(run: Run, setting: SelfTrainingSetting) -> ArtifactStore:
    """The seeds: of every training image `mask`, uint8 (H, W), within its labels."""
    if setting.seeds == "dcsm":
        return dcsm_masks(run, run.train_ids, static_stage.NOTEBOOK)
    return seed_masks(run, run.train_ids, seed_setting(run.profile, setting.seeds))


def next_labels(
    own: Run, setting: SelfTrainingSetting, epoch: int, before: ArtifactStore, workers: int | None = None
) -> tuple[ArtifactStore, list[ArtifactStore]]:
    """What the network of an epoch draws of the training images, within their labels; what is on disk is left alone.

    Args:
        own: what `self_training_run` gives.
        setting: the loop or a variant.
        epoch: from 1.
        before: what the epoch learnt from, hard.
        workers: processes for the CRFs.

    Returns:
        The hard masks, and what the next epoch learns: they alone, or the masks that stand for soft labels.
    """
    learner, name = network_name(setting, epoch), labels_name(setting, epoch)
    network = ArtifactStore.open(network_folder(own, learner), NOTEBOOK).record
    folder = own.artifacts("self_training")
    config = own.profile.self_training
    values = {"setting": asdict(setting), "floor": config.floor, "network": digest(network)}
    if setting.crf:
        values["crf"] = asdict(own.profile.seed_crf)
    hard, *soft = (
        ArtifactStore.create(folder / kind, own.settings("refine.self_training", kind=kind, **values), NOTEBOOK)
        for kind in (name, *(f"{name}_level{number}" for number in range(len(LEVELS) if setting.soft else 0)))
    )
    if missing := hard.missing(own.train_ids):
        look = reader(own, load_segmentation(own, learner, NOTEBOOK), inference_sizes(own.profile.segmentation))
        said = [(i, look(i).half().numpy()) for i in tqdm(missing, desc=f"predictions of {learner}", mininterval=1.0)]
        work = partial(
            _draw_image, run=own, floor=config.floor if setting.floor else 0.0, before=before, hard=hard, soft=soft,
            crf=own.profile.seed_crf if setting.crf else None,
        )  # fmt: skip
        few = FEW_IMAGES if setting.crf else FEW_MASKS
        for _ in parallel_map(work, said, description=f"labels of {name}", workers=workers, few=few):
            pass
    return hard, soft or [hard]


def _draw_image(
    said: tuple[str, np.ndarray],
    run: Run,
    floor: float,
    before: ArtifactStore,
    hard: ArtifactStore,
    soft: Sequence[ArtifactStore],
    crf: CrfConfig | None,
) -> None:
    image_id, log_probabilities = said
    image, classes = run.devkit.image(image_id), np.flatnonzero(run.devkit.labels(image_id))
    labels = np.concatenate([[0], classes + 1])
    probabilities = pixel_probabilities(torch.from_numpy(log_probabilities)[labels], image.shape[:2]).numpy()
    if crf:
        probabilities = dense_crf(image, probabilities, crf)
    drawn = labels.astype(np.uint8)[probabilities.argmax(0)]
    kept = keep_alive(drawn, before.load(image_id)["mask"], classes + 1, floor)
    for store, mask in zip(soft, soft_masks(probabilities) if soft else [], strict=True):
        # A floor for each mask would take the doubt out: the first ones have few pixels of any class.
        store.save(image_id, mask=np.where(kept != drawn, kept, labels.astype(np.uint8)[mask]))
    hard.save(image_id, mask=kept)  # last: it says that all are there


def soft_masks(probabilities: np.ndarray) -> list[np.ndarray]:
    """Masks whose mean cross entropy is about that of soft labels.

    Each pixel has the row that covers a level of its distribution, where the rows lie one after the other in [0, 1]:
    of a row with probability p about p of the levels are covered. So a training that knows masks alone learns soft
    labels, in steps of 1 / 4.

    Args:
        probabilities: float (K, H, W), with sum 1 over K.

    Returns:
        A mask for each of `LEVELS`, int64 (H, W) in 0..K-1.
    """
    edges = probabilities.cumsum(0)[:-1]
    return [(edges <= level).sum(0) for level in LEVELS]


def keep_alive(drawn: np.ndarray, before: np.ndarray, values: Sequence[int] | np.ndarray, floor: float) -> np.ndarray:
    """Give a class back the pixels that it had, where it kept too few of them.

    A class of the image that the network no longer draws would never be learnt again. BoxSup keeps a region for each
    box; here an area is kept for each label.

    Args:
        drawn: uint8 (H, W), 0 or a class.
        before: uint8 (H, W), what was learnt from; may hold 255, void.
        values: of the classes that the image shows.
        floor: the least share of its earlier area that a class must have, in [0, 1]; 0 lets it vanish.

    Returns:
        uint8 (H, W), in which every class has that share.
    """
    kept, saved = drawn.copy(), set[int]()
    # Pixels given back may be taken from a class that had enough until then, so all are asked again.
    while dying := [v for v in values if v not in saved and (kept == v).sum() < floor * (before == v).sum()]:
        for value in dying:
            kept[before == value] = value
        saved.update(dying)
    return kept


def epoch_labels(run: Run, setting: SelfTrainingSetting) -> dict[int, ArtifactStore]:
    """The hard labels by epoch: 0, the seeds, and after each epoch what its network drew.

    Raises:
        WorkbookError: `train_epochs` has not run to its end.
    """
    folder, epochs = run.artifacts("self_training"), range(1, run.profile.self_training.epochs + 1)
    drawn = {epoch: ArtifactStore.open(folder / labels_name(setting, epoch), NOTEBOOK) for epoch in epochs}
    return {0: first_labels(run, setting)} | drawn


def equal_steps_run(run: Run) -> Run:
    """The run with the same network, and as many steps for one training as the whole loop takes."""
    own, config = self_training_run(run), run.profile.self_training
    longer = replace(own.profile.segmentation, steps=config.steps * config.epochs)
    return replace(own, profile=replace(own.profile, segmentation=longer))


def train_equal_steps(run: Run) -> None:
    """Train the network of the loop on masks that stay as they are, for as many steps; and let it predict.

    More steps are a rival explanation of whatever the loop gains.

    Raises:
        WorkbookError: no such masks, or the errors of `train_segmentation`.
    """
    own = equal_steps_run(run)
    train_networks(own, {name: fixed_labels(run, name) for name in EQUAL_STEPS}, NOTEBOOK)
    for name in EQUAL_STEPS:
        extract_predictions(own, name, run.val_ids, NOTEBOOK)


def fixed_labels(run: Run, name: str) -> ArtifactStore:
    """What a network of `EQUAL_STEPS` learns: PSA's seeds, or what static refinement made of them.

    Raises:
        WorkbookError: notebook 06 or 07 has not run to its end.
    """
    if name == "equal_steps":
        return first_labels(run, SelfTrainingSetting(name, seeds="psa"))
    return static_stage.open_refined(run, static_stage.static_setting(run.profile))
