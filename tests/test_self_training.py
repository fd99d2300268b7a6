"""Self-training: what an epoch learns from the one before, by hand, and the whole loop on a tiny devkit."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NARROW, write_tiny_devkit
from hypothesis import given
from hypothesis import strategies as st

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.data.images import VOID
from wsseg_core.data.masks import _never_drawn
from wsseg_core.data.run import Run
from wsseg_core.evaluate import epochs as epoch_scores
from wsseg_core.evaluate.claims import CLAIMS
from wsseg_core.evaluate.metrics import paired_bootstrap
from wsseg_core.evaluate.verdicts import verdict_table
from wsseg_core.refine import self_training
from wsseg_core.refine.self_training import (
    EQUAL_STEPS,
    LEVELS,
    NOTEBOOK,
    SelfTrainingSetting,
    epoch_labels,
    equal_steps_run,
    keep_alive,
    network_name,
    self_training_run,
    self_training_settings,
    soft_masks,
    train_epochs,
    train_equal_steps,
    train_loops,
)
from wsseg_core.segment.predictions import SegmentationMaps
from wsseg_core.segment.retraining import load_segmentation, network_folder

OWN = SelfTrainingSetting("selftrain")


def test_a_class_that_shrinks_too_far_keeps_its_pixels() -> None:
    before = np.array([[1, 1, 1, 1, 2, 2, 0, VOID]], np.uint8)
    drawn = np.array([[1, 0, 0, 0, 0, 2, 2, 2]], np.uint8)
    assert keep_alive(drawn, before, [1, 2], 0.25).tolist() == drawn.tolist()  # a quarter is left
    assert keep_alive(drawn, before, [1, 2], 0.5).tolist() == [[1, 1, 1, 1, 0, 2, 2, 2]]
    vanished = np.zeros_like(drawn)
    assert keep_alive(vanished, before, [1, 2], 0.25).tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]
    assert keep_alive(vanished, before, [1, 2], 0.0).tolist() == vanished.tolist()
    assert keep_alive(vanished, before, [3], 1.0).tolist() == vanished.tolist()  # it never had a pixel


def test_no_class_dies_for_another_to_live() -> None:
    """Class 1 moved to where class 2 was; when 2 gets its pixels back, 1 has none left."""
    before, drawn = np.array([[1, 1, 2, 2]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    assert keep_alive(drawn, before, [1, 2], 0.25).tolist() == before.tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_every_class_has_its_share_and_enough_is_left_alone(seed: int, floor: float) -> None:
    rng = np.random.default_rng(seed)
    before, drawn = (rng.integers(0, 4, (3, 4)).astype(np.uint8) for _ in range(2))
    kept = keep_alive(drawn, before, np.arange(1, 4), floor)
    enough = [(drawn == value).sum() >= floor * (before == value).sum() for value in range(1, 4)]
    assert all((kept == value).sum() >= floor * (before == value).sum() for value in range(1, 4))
    assert not all(enough) or (kept == drawn).all()


def test_a_floor_leaves_the_doubt_of_soft_labels_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class at 60 % everywhere is there in two of four masks; one that vanished is there in all."""
    image_id = run.train_ids[0]
    value = int(np.flatnonzero(run.devkit.labels(image_id))[0]) + 1
    size = run.devkit.image(image_id).shape[:2]
    before = ArtifactStore.create(run.artifacts("before"), {}, NOTEBOOK)
    before.save(image_id, mask=np.full(size, value, np.uint8))
    shown = [value - 1 == row for row in range(run.devkit.num_classes)]
    monkeypatch.setattr(type(run.devkit), "labels", lambda *_: np.array(shown, int))
    for sure, expected in ((0.6, [0, 0, value, value]), (0.4, [value] * 4)):
        stores = [ArtifactStore.create(run.artifacts(f"level{number}_{sure}"), {}, NOTEBOOK) for number in range(5)]
        said = np.full((run.devkit.num_classes + 1, 2, 2), -20.0, np.float32)
        said[0], said[value] = np.log(1 - sure), np.log(sure)
        self_training._draw_image((image_id, said), run, 0.25, before, stores[0], stores[1:], None)
        assert [np.unique(store.load(image_id)["mask"]).tolist() for store in stores[1:]] == [[v] for v in expected]


def test_masks_that_stand_for_soft_labels_by_hand() -> None:
    probabilities = np.array([0.6, 0.25, 0.15]).reshape(
        3, 1, 1
    )  # levels .125 and .375 in the first, .625 in the second
    assert [mask.item() for mask in soft_masks(probabilities)] == [0, 0, 1, 2]
    assert [mask.item() for mask in soft_masks(np.ones((1, 1, 1)))] == [0] * len(LEVELS)


def test_soft_masks_have_each_row_as_often_as_it_is_probable() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (16, 16)).transpose(2, 0, 1)
    shares = np.stack([np.stack(soft_masks(probabilities)) == row for row in range(4)]).mean(1)
    assert np.abs(shares - probabilities).max() <= 1 / len(LEVELS)
    np.testing.assert_allclose(shares.mean((1, 2)), probabilities.mean((1, 2)), atol=0.03)


def write_seeds(run: Run, setting: SelfTrainingSetting) -> ArtifactStore:
    """Seeds that know the image's labels and nothing else."""
    store = ArtifactStore.create(run.artifacts(f"made_up_{setting.seeds}"), {"seeds": setting.seeds}, "06")
    for number, image_id in enumerate(store.missing(run.train_ids)):
        height, width = run.devkit.image(image_id).shape[:2]
        values = np.array([0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)], np.uint8)
        store.save(image_id, mask=np.random.default_rng(number).choice(values, (height, width)))
    return store


@pytest.fixture(scope="module", autouse=True)
def made_up() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(self_training, "first_labels", write_seeds)
        patch.setattr(self_training, "fixed_labels", lambda run, name: write_seeds(run, SelfTrainingSetting(name)))
        yield


@pytest.fixture(scope="module")
def trained(made_up: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The talk's loop, trained where there is no pixel mask; only read."""
    folder = tmp_path_factory.mktemp("loop")
    write_tiny_devkit(folder / "devkit")
    masks, hidden = folder / "devkit/SegmentationClass", folder / "hidden"
    masks.rename(hidden)
    smoke = load_profile("smoke")
    data = replace(smoke.data, source="voc", devkit=str(folder / "devkit"), image_size=32)
    segmentation = replace(smoke.segmentation, crop=32, batch_size=2)
    run = Run(replace(smoke, data=data, classifier=NARROW, segmentation=segmentation), 0, folder / "results")
    train_classifier(run)
    train_epochs(run, OWN)
    hidden.rename(masks)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_segmentation(self_training_run(run), name, NOTEBOOK).state_dict()


def test_every_epoch_leaves_a_network_predictions_and_labels(run: Run) -> None:
    stores = epoch_labels(run, OWN)
    assert list(stores) == [0, 1, 2]
    for image_id in run.train_ids:
        allowed = {0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)}
        for store in stores.values():
            mask = store.load(image_id)["mask"]
            assert mask.shape == run.devkit.image(image_id).shape[:2]
            assert set(np.unique(mask)) <= allowed
    for epoch in (1, 2):
        maps = SegmentationMaps(self_training_run(run), network_name(OWN, epoch), NOTEBOOK)
        assert maps.of(run.val_ids[0]).targets == run.devkit.num_classes


def test_an_epoch_goes_on_from_the_one_before_or_starts_anew(run: Run) -> None:
    restarted = replace(OWN, name="anew", restart=True)
    history = train_epochs(run, restarted)
    assert [row["epoch"] for row in history if "loss" in row] == [1, 1, 2, 2]
    assert network_name(OWN, 1) == network_name(restarted, 1), "the first epoch is the same, and is trained once"
    going, anew = (ArtifactStore.open(network_folder(run, f"{n}_epoch2"), NOTEBOOK) for n in ("selftrain", "anew"))
    assert "start" in going.record["settings"]
    assert "start" not in anew.record["settings"]
    assert not torch.equal(
        weights(run, "selftrain_epoch2")["head.score.bias"], weights(run, "anew_epoch2")["head.score.bias"]
    )


def test_the_loop_and_its_variants_share_the_first_epoch_of_their_seeds(run: Run) -> None:
    restarted = replace(OWN, name="anew", restart=True)
    curves = train_loops(run, [OWN, restarted])
    assert list(curves) == ["selftrain", "anew"]
    assert all({row["epoch"] for row in curve} == {1, 2} for curve in curves.values())
    assert curves["anew"] == train_epochs(run, restarted)


def test_what_is_there_is_not_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = weights(run, "selftrain_epoch2")
    labels = epoch_labels(run, OWN)[2]
    labels.path(run.train_ids[0]).unlink()
    drawn: list[str] = []
    draw = self_training._draw_image
    monkeypatch.setattr(self_training, "_draw_image", lambda said, **more: drawn.append(said[0]) or draw(said, **more))
    train_epochs(run, OWN, workers=1)
    assert drawn == [run.train_ids[0]]
    assert all(torch.equal(value, kept[name]) for name, value in weights(run, "selftrain_epoch2").items())


def test_a_run_that_is_killed_between_epochs_ends_alike(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    again, label = replace(OWN, name="again"), self_training.next_labels

    def killed(*arguments: Any, **more: Any) -> Any:
        label(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(self_training, "next_labels", killed)
        with pytest.raises(KeyboardInterrupt):
            train_epochs(run, again, workers=1)
    first = ArtifactStore.open(run.artifacts("self_training") / "again_epoch1", NOTEBOOK).path(run.train_ids[0])
    made = first.stat().st_mtime_ns
    train_epochs(run, again, workers=1)
    assert first.stat().st_mtime_ns == made
    kept = weights(run, "selftrain_epoch2")
    assert all(torch.equal(value, kept[name]) for name, value in weights(run, "again_epoch2").items())
    for image_id in run.train_ids:
        masks = [epoch_labels(run, setting)[2].load(image_id)["mask"] for setting in (OWN, again)]
        np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("changes", [{"soft": True}, {"crf": True}, {"floor": False}])
def test_variants_run_to_their_end(run: Run, changes: dict[str, bool]) -> None:
    variant = replace(OWN, name="variant", **changes)
    train_epochs(run, variant, workers=1)
    masks = ArtifactStore.open(network_folder(run, "variant_epoch2"), NOTEBOOK).record["settings"]["masks"]
    assert isinstance(masks, list) == bool(changes.get("soft"))


def test_scores_have_every_row_of_the_claims(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_scores, "self_training_settings", lambda: [OWN])
    train_equal_steps(run)
    scores = epoch_scores.self_training_scores(run)
    assert {"net_selftrain_epoch1", "net_selftrain_epoch2", "selftrain_epoch0_seed", "selftrain_seed"} <= scores.keys()
    assert scores["net_selftrain"] is scores["net_selftrain_epoch2"]
    assert scores["net_selftrain_first"] is scores["net_selftrain_epoch1"]
    named = {f"net_{setting.name}" for setting in self_training_settings()}
    named |= {"net_equal_steps", "net_equal_steps_static", "net_selftrain_first"}
    wanted = {name for claim in CLAIMS if claim.id.startswith("selftrain") for name in (claim.left, *claim.right)}
    assert wanted - {"cam_seed", "selftrain_seed", "net_selftrain_borders"} <= named
    assert {"net_equal_steps", "net_equal_steps_static"} <= scores.keys()
    best = epoch_scores.best_epoch(run, scores, "selftrain")
    by_epoch = {epoch: scores[f"net_selftrain_epoch{epoch}"].mean_iou for epoch in (1, 2)}
    assert best is not None
    assert by_epoch[best] == max(by_epoch.values())


def test_as_many_steps_on_fixed_masks(run: Run) -> None:
    train_equal_steps(run)
    own, config = equal_steps_run(run), run.profile.self_training
    assert own.profile.segmentation.steps == config.steps * config.epochs
    for name in EQUAL_STEPS:
        assert SegmentationMaps(own, name, NOTEBOOK).of(run.val_ids[0]).targets == run.devkit.num_classes


def test_borders_are_scored_apart_and_the_rest_is_not_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train_equal_steps(run)
    source = SegmentationMaps(equal_steps_run(run), EQUAL_STEPS[0], NOTEBOOK)
    monkeypatch.setattr(epoch_scores, "compared_networks", lambda _: {"net_equal_steps": source})
    whole, near = epoch_scores.self_training_scores, epoch_scores.border_scores(run)["net_equal_steps_borders"]
    monkeypatch.setattr(epoch_scores, "self_training_settings", lambda: [OWN])
    counts = whole(run)["net_equal_steps"].confusions
    assert near.name == "net_equal_steps_borders"
    assert 0 < near.confusions.sum() <= counts.sum()
    assert (near.confusions <= counts).all()
    assert paired_bootstrap(near, whole(run)["net_equal_steps"], 20).value == pytest.approx(
        near.mean_iou - whole(run)["net_equal_steps"].mean_iou
    )


def test_steps_are_those_of_all_stages(run: Run) -> None:
    profile = run.profile
    looped = profile.self_training.epochs * profile.self_training.steps
    assert [epoch_scores.steps_of(run, f"net_{name}") for name in ("selftrain_soft", *EQUAL_STEPS)] == [looped] * 3
    assert epoch_scores.steps_of(run, "net_psa") == profile.segmentation.steps
    assert epoch_scores.steps_of(run, "net_dynamic") == profile.segmentation.steps + profile.dynamic.steps


def test_without_masks_nothing_is_scored_and_no_epoch_is_best(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = Path(run.devkit.root) / "SegmentationClass"
    masks.rename(masks.with_name("hidden"))
    try:
        _never_drawn.cache_clear()
        train_equal_steps(run)
        monkeypatch.setattr(epoch_scores, "self_training_settings", lambda: [OWN])
        scores = epoch_scores.self_training_scores(run)
    finally:
        masks.with_name("hidden").rename(masks)
        _never_drawn.cache_clear()
    assert not any(row.confusions.any() for row in scores.values())
    assert epoch_scores.best_epoch(run, scores, "selftrain") is None
    ids = [claim.id for claim in CLAIMS if claim.id.startswith("selftrain")]
    assert set(verdict_table(scores, ids)["verdict"]) == {"not measured"}


def test_other_seeds_are_refused() -> None:
    with pytest.raises(WorkbookError, match="mine: seeds 'boxes' are not known; use one of cam, psa, dcsm"):
        SelfTrainingSetting("mine", seeds="boxes")
