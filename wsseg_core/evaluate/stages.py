"""The scores of the last stages of one run: seeds, refined seeds, and the networks that learnt from them."""

from collections.abc import Iterator
from typing import Any

from wsseg_core.affinity import cam
from wsseg_core.affinity.seeds import SeedMaps
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.data.run import Run
from wsseg_core.evaluate.metrics import Scores
from wsseg_core.evaluate.pair_trials import pair_masks
from wsseg_core.evaluate.scoring import read_scores
from wsseg_core.evaluate.stored_masks import StoredMasks
from wsseg_core.refine import dynamic_stage, static_stage
from wsseg_core.refine.dynamic_stage import chosen_pair_settings, dynamic_settings, training_settings
from wsseg_core.refine.static_stage import open_refined, static_settings
from wsseg_core.saliency import dcsm_seeds
from wsseg_core.saliency.dcsm import SavedMaps
from wsseg_core.segment.predictions import SegmentationMaps
from wsseg_core.segment.retraining import network_folder


def stage_scores(run: Run) -> dict[str, Scores]:
    """Everything that notebooks 06, 07 and 08 scored on all images, by the names of `wsseg_core.evaluate.claims`.

    Seeds are on the training images in the seed protocol; networks, and DCSM beside them, on val in the test protocol;
    `dcsm_crf_known` is DCSM there with the labels known.

    Raises:
        WorkbookError: one of these notebooks has not run to its end, or some of it under other settings.
    """
    scores = read_scores(run, "06_seeds", run.train_ids, cam.NOTEBOOK, SeedMaps(run))
    scores |= read_scores(run, "06_dcsm", run.val_ids, cam.NOTEBOOK)
    known = SavedMaps(run, known_labels=True)
    scores |= read_scores(run, "06_dcsm_known", run.val_ids, cam.NOTEBOOK, known)
    scores |= read_scores(run, "07_seeds", run.train_ids, static_stage.NOTEBOOK, _refined(run))
    pair = StoredMasks(run, pair_masks(run))
    scores |= read_scores(run, "07_pair_seeds", run.train_ids, static_stage.NOTEBOOK, pair)
    for name, network, made_by, settings in _networks(run):
        ArtifactStore.open(network_folder(run, network), made_by, settings)
        scores |= read_scores(run, name, run.val_ids, made_by, SegmentationMaps(run, network, made_by))
    return scores


def _refined(run: Run) -> StoredMasks:
    stores = {setting.name: open_refined(run, setting) for setting in static_settings(run.profile)}
    settings = run.settings("saliency.dcsm_seeds")
    drawn = ArtifactStore.open(run.artifacts("seeds") / dcsm_seeds.NAME, static_stage.NOTEBOOK, settings)
    return StoredMasks(run, stores | {dcsm_seeds.NAME: drawn})


def _networks(run: Run) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Of every segmentation network: folder of its scores, its name, its notebook, and what it must have learnt from.

    A run that was stopped while it was brought up to date has new masks beside networks that learnt from old ones.
    """
    static, dynamic = static_stage.NOTEBOOK, dynamic_stage.NOTEBOOK
    yield "06_net_psa", "psa", cam.NOTEBOOK, _masks(run, "psa", cam.NOTEBOOK)
    yield "06_net_psa_crf_seeds", "psa_crf", cam.NOTEBOOK, _masks(run, "psa_crf", cam.NOTEBOOK)
    learnt_from = {"static": "static", "dcsm_seeds": dcsm_seeds.NAME}
    if run.profile.segmentation.supervised:
        learnt_from["supervised"] = "supervised"
    for network, masks in learnt_from.items():
        yield f"07_net_{network}", network, static, _masks(run, masks, static)
    refined = pair_masks(run)["pair_static"].record
    yield "07_net_pair_static", "pair_static", static, {"masks": refined}
    own = {"static": (dynamic_settings(), _masks(run, "static", static))}
    for start, (settings, masks) in (own | {"pair_static": (chosen_pair_settings(), {"masks": refined})}).items():
        record = ArtifactStore.open(network_folder(run, start), static).record
        for setting in settings:
            wanted = training_settings(run, setting) | masks | {"start": record}
            yield f"08_net_{setting.name}", setting.name, dynamic, wanted


def _masks(run: Run, name: str, made_by: str) -> dict[str, Any]:
    return {"masks": ArtifactStore.open(run.artifacts("seeds") / name, made_by).record}
