"""Scores of a run whose maps and networks are made up, but whose stores are what the notebooks leave."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_tiny_devkit
from test_scoring import MadeUpMaps

from wsseg_core.affinity import cam
from wsseg_core.affinity.seeds import seed_settings
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.run import Run
from wsseg_core.evaluate import scoring, stages
from wsseg_core.evaluate.claims import LAST_STAGES
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.evaluate.stages import stage_scores
from wsseg_core.evaluate.stored_masks import StoredMasks, StoredSetting
from wsseg_core.refine import dynamic_stage, static_stage
from wsseg_core.refine.dynamic_stage import chosen_pair_settings, dynamic_settings, training_settings
from wsseg_core.refine.static_stage import static_settings
from wsseg_core.saliency import dcsm_seeds
from wsseg_core.saliency.dcsm import dcsm_setting
from wsseg_core.segment.predictions import SegmentationMaps, extract_predictions, segmentation_setting
from wsseg_core.segment.retraining import network_folder, network_settings, new_network

STATIC, DYNAMIC = static_stage.NOTEBOOK, dynamic_stage.NOTEBOOK
PAIR = ("pair_knowledge", "pair_advice", "pair_static", "pair_no_detector")


class MadeUpSeeds:
    """Stands in for `SeedMaps`: nothing but background, whatever the setting."""

    def __init__(self, run: Run) -> None:
        self.devkit, self.known_labels, self.depends_on = run.devkit, True, {"walks": run.seed}
        self.probabilities = np.zeros(run.devkit.num_classes)

    def of(self, image_id: str) -> "MadeUpSeeds":
        self.shape = self.devkit.image(image_id).shape[:2]
        return self

    def masks(self, settings: Sequence[object]) -> list[np.ndarray]:
        return [np.zeros(self.shape, np.uint8)] * len(settings)


def write_masks(run: Run, name: str, made_by: str, **settings: Any) -> ArtifactStore:
    values = run.settings("saliency.dcsm_seeds") | {"name": name} | settings
    store = ArtifactStore.create(run.artifacts("seeds") / name, values, made_by)
    for image_id in run.train_ids:
        store.save(image_id, mask=np.zeros(run.devkit.image(image_id).shape[:2], np.uint8))
    return store


def open_masks(run: Run, name: str) -> ArtifactStore:
    return ArtifactStore.open(run.artifacts("seeds") / name, STATIC)


def write_network(run: Run, network: str, row: str, made_by: str, settings: dict[str, Any]) -> None:
    """A network that was not trained, what it says, and its scores."""
    ArtifactStore.create(network_folder(run, network), settings, made_by)
    torch.manual_seed(0)
    model = new_network(run, new_classifier(run.profile.classifier, 3, seed=0)).eval()
    extract_predictions(run, network, run.val_ids, made_by, model)
    rows = [segmentation_setting(run.profile, row), segmentation_setting(run.profile, f"{row}_crf", crf=True)]
    maps = SegmentationMaps(run, network, made_by)
    score_settings(run, f"{made_by[:2]}_{row}", run.val_ids, "val", rows, made_by, maps)


def write_run(run: Run) -> None:
    """Everything that notebooks 06 to 08 leave for the tables."""
    rows = [replace(setting, name=f"{setting.name}_seed") for setting in seed_settings(run.profile)]
    score_settings(run, "06_seeds", run.train_ids, "train", rows, cam.NOTEBOOK, MadeUpSeeds(run))
    dcsm = [dcsm_setting(run.profile, "dcsm_crf", crf=True)]
    score_settings(run, "06_dcsm", run.val_ids, "val", dcsm, cam.NOTEBOOK)
    known = [replace(dcsm[0], name="dcsm_crf_known")]
    score_settings(run, "06_dcsm_known", run.val_ids, "val", known, cam.NOTEBOOK, MadeUpMaps(run, known_labels=True))
    names = [*(setting.name for setting in static_settings(run.profile)), dcsm_seeds.NAME]
    stores = {name: write_masks(run, name, STATIC) for name in names}
    rows = [StoredSetting(f"{name}_seed", name) for name in names]
    score_settings(run, "07_seeds", run.train_ids, "train", rows, STATIC, StoredMasks(run, stores))
    pair = {name: write_masks(run, name, STATIC) for name in PAIR}
    rows = [StoredSetting(f"{name}_seed", name) for name in PAIR]
    score_settings(run, "07_pair_seeds", run.train_ids, "train", rows, STATIC, StoredMasks(run, pair))
    for name, row in (("psa", "net_psa"), ("psa_crf", "net_psa_crf_seeds")):
        masks = write_masks(run, name, cam.NOTEBOOK)
        write_network(run, name, row, cam.NOTEBOOK, network_settings(run) | {"masks": masks.record})
    stores["supervised"] = write_masks(run, "supervised", STATIC)
    learnt = {"static": stores["static"], "dcsm_seeds": stores["dcsm_crf"], "supervised": stores["supervised"]}
    for name, store in (learnt | {"pair_static": pair["pair_static"]}).items():
        write_network(run, name, f"net_{name}", STATIC, network_settings(run) | {"masks": store.record})
    own, other = dynamic_settings(), chosen_pair_settings()
    for start, masks, settings in (("static", stores["static"], own), ("pair_static", pair["pair_static"], other)):
        record = ArtifactStore.open(network_folder(run, start), STATIC).record
        for setting in settings:
            wanted = training_settings(run, setting) | {"masks": masks.record, "start": record}
            write_network(run, setting.name, f"net_{setting.name}", DYNAMIC, wanted)


@pytest.fixture(scope="module", autouse=True)
def made_up() -> Iterator[None]:
    """Maps that no network made; and code that is marked once, which takes longest of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsseg_core.data.run.code_fingerprint", lambda modules: ", ".join(modules))
        patch.setattr(scoring, "SavedMaps", MadeUpMaps)
        patch.setattr(stages, "SavedMaps", MadeUpMaps)
        patch.setattr(stages, "SeedMaps", MadeUpSeeds)
        patch.setattr(stages, "open_refined", lambda run, setting: open_masks(run, setting.name))
        patch.setattr(stages, "pair_masks", lambda run: {name: open_masks(run, name) for name in PAIR})
        yield


@pytest.fixture(scope="module")
def written(made_up: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Only read."""
    folder = tmp_path_factory.mktemp("stages")
    write_tiny_devkit(folder / "devkit")
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(folder / "devkit"))
    run = Run(replace(profile, data=data), 0, folder / "results")
    write_run(run)
    return run


@pytest.fixture
def run(written: Run, tmp_path: Path) -> Run:
    """The same, with a folder of links to its stores, any of which may be replaced."""
    for store in written.folder.glob("artifacts/*/*"):
        link = tmp_path / "results" / store.relative_to(written.folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(store)
    return replace(written, folder=tmp_path / "results")


def test_every_row_that_the_claims_of_the_last_stages_need_is_read(run: Run) -> None:
    scores = stage_scores(run)
    assert {name for claim in LAST_STAGES for name in (claim.left, *claim.right)} <= scores.keys()
    assert {"net_supervised_crf", "net_dcsm_seeds", "static_training_bias_seed", "dcsm_crf_seed"} <= scores.keys()
    for name, row in scores.items():
        of_network = name.startswith("net_") or name == "dcsm_crf"
        ids, protocol = (run.val_ids, "test") if of_network else (run.train_ids, "seed")
        ids = run.val_ids if name == "dcsm_crf_known" else ids
        assert (row.image_ids, row.details["protocol"]) == (tuple(ids), protocol)


def test_a_profile_without_upper_bound_has_no_row_of_it(run: Run) -> None:
    segmentation = replace(run.profile.segmentation, supervised=False)
    scores = stage_scores(replace(run, profile=replace(run.profile, segmentation=segmentation)))
    assert "net_dynamic" in scores
    assert not [name for name in scores if "supervised" in name]


@pytest.mark.parametrize("missing", ["scores/08_net_dynamic_fixed_seed", "segmentation/dynamic", "seeds/dcsm_crf"])
def test_a_stage_that_has_not_run_is_named(run: Run, missing: str) -> None:
    (run.artifacts(missing)).unlink()
    with pytest.raises(WorkbookError, match=rf"{missing}: missing; run notebook 0[78]_\w+ first"):
        stage_scores(run)


@pytest.mark.parametrize(("masks", "made_by"), [("psa", cam.NOTEBOOK), ("supervised", STATIC)])
def test_a_network_that_learnt_from_masks_of_before_is_refused(run: Run, masks: str, made_by: str) -> None:
    (run.artifacts("seeds") / masks).unlink()
    write_masks(run, masks, made_by, drawn="anew")
    with pytest.raises(WorkbookError, match=rf"segmentation/{masks}: made with masks.*run notebook {made_by} again"):
        stage_scores(run)


def test_a_dynamic_stage_under_other_values_is_refused(run: Run) -> None:
    steps = run.profile.dynamic.steps
    dynamic = replace(run.profile.dynamic, steps=steps + 1)
    message = rf"segmentation/dynamic: made with .*steps = {steps}, but this run uses {steps + 1}"
    with pytest.raises(WorkbookError, match=message):
        stage_scores(replace(run, profile=replace(run.profile, dynamic=dynamic)))
