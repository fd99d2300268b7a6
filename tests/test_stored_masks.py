"""Masks on disk as a source of scores, against scores worked out by hand."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOID
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate.metrics import SEED_PROTOCOL, Scores
from wsseg_core.evaluate.scoring import read_scores, score_settings
from wsseg_core.evaluate.stored_masks import StoredMasks, StoredSetting

NOTEBOOK = "07_static_refinement"
ROWS = [StoredSetting("true_seed", "true"), StoredSetting("empty_seed", "empty")]


@pytest.fixture
def stores(run: Run) -> dict[str, ArtifactStore]:
    """The true masks, background where they are void, and masks of nothing but background."""
    folder = run.artifacts("seeds")
    stores = {name: ArtifactStore.create(folder / name, {"alpha": 4}, NOTEBOOK) for name in ("true", "empty")}
    for image_id in run.train_ids:
        truth = VocMasks(run.devkit).mask(image_id)
        stores["true"].save(image_id, mask=np.where(truth == VOID, 0, truth).astype(np.uint8))
        stores["empty"].save(image_id, mask=np.zeros_like(truth))
    return stores


def scored(run: Run, source: StoredMasks, rows: list[StoredSetting]) -> dict[str, Scores]:
    return score_settings(run, "07_seeds", run.train_ids, "train", rows, NOTEBOOK, source)


def test_masks_are_scored_as_they_are(run: Run, stores: dict[str, ArtifactStore]):
    scores = scored(run, StoredMasks(run, stores), ROWS)
    assert scores["true_seed"].mean_iou == 100
    truths = [VocMasks(run.devkit).mask(image_id) for image_id in run.train_ids]
    background, known = (sum((mask == value).sum() for mask in truths) for value in (0, VOID))
    whole = sum(mask.size for mask in truths) - known
    assert scores["empty_seed"].mean_iou == pytest.approx(100 * background / whole / 4)  # no class is found
    assert scores["true_seed"].details["protocol"] == SEED_PROTOCOL


def test_a_row_tells_what_lies_behind_its_masks(run: Run, stores: dict[str, ArtifactStore]):
    row = StoredSetting("refined", "true", CrfConfig(iterations=2), "in the advice", (32,))
    details = {name: of.details for name, of in scored(run, StoredMasks(run, stores), [row, *ROWS]).items()}
    assert details["refined"]["crf"].endswith("2 iterations; in the advice")
    assert details["refined"]["sizes"] == [32]
    assert details["true_seed"]["crf"] == "none"


def test_scores_are_read_from_the_same_masks_only(run: Run, stores: dict[str, ArtifactStore]):
    source = StoredMasks(run, stores)
    scored(run, source, ROWS)
    again = read_scores(run, "07_seeds", run.train_ids, NOTEBOOK, StoredMasks(run, dict(stores)))
    assert again["true_seed"].mean_iou == 100
    other = ArtifactStore.create(run.artifacts("seeds") / "empty", {"alpha": 8}, NOTEBOOK)
    with pytest.raises(WorkbookError, match=r"maps.empty.settings.alpha = 4, but this run uses 8"):
        read_scores(run, "07_seeds", run.train_ids, NOTEBOOK, StoredMasks(run, stores | {"empty": other}))


def test_the_classes_of_an_image_are_known(run: Run, stores: dict[str, ArtifactStore]):
    for image_id in run.train_ids:
        probabilities = StoredMasks(run, stores).of(image_id).probabilities
        assert probabilities.dtype == np.float32
        np.testing.assert_array_equal(probabilities, run.devkit.labels(image_id))


def test_masks_survive_the_way_to_a_worker(run: Run, stores: dict[str, ArtifactStore]):
    source = pickle.loads(pickle.dumps(StoredMasks(run, stores)))
    image_id = run.train_ids[0]
    for row, mask in zip(ROWS, source.of(image_id).masks(ROWS), strict=True):
        np.testing.assert_array_equal(mask, stores[row.store].load(image_id)["mask"])


def test_masks_that_are_not_there_are_named(run: Run, stores: dict[str, ArtifactStore]):
    image_id = run.train_ids[0]
    maps = StoredMasks(run, stores).of(image_id)
    with pytest.raises(WorkbookError, match="row: no masks 'tree'; use one of true, empty"):
        maps.mask(replace(ROWS[0], name="row", store="tree"))
    stores["true"].path(image_id).unlink()
    with pytest.raises(WorkbookError, match=f"{image_id}.safetensors: missing or damaged; run notebook {NOTEBOOK}"):
        maps.mask(ROWS[0])
