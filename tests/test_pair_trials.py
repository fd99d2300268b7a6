"""Pairs of masks beside SSDD's own: what a trial says of them, which is chosen, and who reads that."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NARROW, write_tiny_devkit

from wsseg_core.affinity.seeds import ImageSeeds
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import (
    DataConfig,
    DifferenceConfig,
    Profile,
    SegmentationConfig,
    SuperpixelCrfConfig,
    SweepConfig,
    ZoomOutConfig,
)
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate.irregular_seeds import without_void
from wsseg_core.evaluate.irregular_training import dynamic_sweep
from wsseg_core.evaluate.pair_trials import choose_pair, chosen_pair, compared, pair_masks, pair_trials
from wsseg_core.refine.mask_pairs import Pair
from wsseg_core.refine.other_pairs import OWN, PAIRS, ImageSuperpixelSeeds
from wsseg_core.refine.static_stage import NOTEBOOK, open_refined, refine_masks, static_setting, train_static

TRUTH_LOST = 0.5  # share of the object pixels that each mask lacks


pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a classifier, and with true masks."""
    folder = tmp_path_factory.mktemp("pairs")
    write_tiny_devkit(folder / "devkit")
    data = DataConfig(source="voc", devkit=str(folder / "devkit"), train_split="train", image_size=32)
    segmentation = SegmentationConfig(channels=4, dilation=1, crop=32, batch_size=2, steps=2)
    sweeps = SweepConfig(bootstrap_samples=10, crf_train_images=4)
    own = {"segmentation": segmentation, "sweeps": sweeps, "difference": DifferenceConfig(channels=4)}
    run = Run(Profile(data=data, classifier=NARROW, **own), 0, folder / "results")
    train_classifier(run)
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained.folder, tmp_path / "results")
    return replace(trained, folder=tmp_path / "results")


def damaged(run: Run, name: str, seed: int, without: int = 0) -> ArtifactStore:
    """The true masks less some of their object pixels, at random; and less a whole class."""
    store = ArtifactStore.create(run.artifacts("seeds") / name, run.settings("base.artifacts", name=name), NOTEBOOK)
    for number, image_id in enumerate(run.train_ids):
        truth = without_void(VocMasks(run.devkit).mask(image_id))
        lost = np.random.default_rng([seed, number]).random(truth.shape) < TRUTH_LOST
        mask = np.where(lost, 0, truth)
        store.save(image_id, mask=np.where(mask == without, 0, mask).astype(np.uint8))
    return store


@pytest.fixture
def pair(run: Run) -> Pair:
    return damaged(run, "one", 1), damaged(run, "two", 2)


def test_a_trial_knows_the_room_between_two_masks(run: Run, pair: Pair) -> None:
    trials = pair_trials(run, {"made": pair}, VocMasks(run.devkit).mask)
    row = trials.iloc[0]
    assert row["pair"] == "made"
    # Each mask lacks half of the objects, at random, so that both lack a quarter.
    assert row["oracle"] > max(row["K"], row["A"]) + 10
    assert row["oracle"] >= row["refined"]
    assert row["ours"] == pytest.approx(row["refined"] - max(row["K"], row["A"]))
    assert row["beyond no detector"] == pytest.approx(row["refined"] - row["no detector"])
    assert 0 <= row["AUC low"] <= row["AUC"] <= row["AUC high"] <= 1


def test_a_pair_that_cannot_be_compared_is_said_and_left_out(
    run: Run, pair: Pair, capsys: pytest.CaptureFixture
) -> None:
    present = sorted({int(v) for i in run.train_ids for v in np.unique(pair[0].load(i)["mask"])} - {0})
    poorer = damaged(run, "poorer", 2, without=present[0])
    trials = pair_trials(run, {"unlike": (pair[0], poorer), "alike": (pair[0], pair[0])}, VocMasks(run.devkit).mask)
    assert trials.drop(columns="pair").isna().all().all()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("unlike: left out, only one of one and poorer knows the class ")
    assert said[1].startswith("alike: left out, one and one are the same for every image")
    assert not run.artifacts("refinement").exists()


def trials_of(**gains: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame([(name, *of) for name, of in gains.items()], columns=["pair", "ours", "beyond no detector"])


def test_the_pair_that_refinement_makes_the_most_of_is_kept(run: Run, pair: Pair) -> None:
    with pytest.raises(WorkbookError, match=rf"chosen_pair\.json: missing or damaged; run notebook {NOTEBOOK} first"):
        chosen_pair(run)
    pairs = {OWN: None, "made": pair}
    assert choose_pair(run, trials_of(psa_crf=(2.0, -1.0), made=(0.5, 1.0)), pairs) == "made"
    assert chosen_pair(run) == pair
    assert choose_pair(run, trials_of(psa_crf=(np.nan, np.nan), made=(np.nan, np.nan)), pairs) == OWN  # no true mask
    assert chosen_pair(run) is None
    longer = replace(run.profile.segmentation, steps=3)
    with pytest.raises(WorkbookError, match="made under other settings"):
        chosen_pair(replace(run, profile=replace(run.profile, segmentation=longer)))


def test_what_follows_reads_the_masks_of_the_chosen_pair(run: Run, pair: Pair) -> None:
    choose_pair(run, trials_of(made=(1.0, 1.0)), {"made": pair})
    train_static(run, pair=pair)
    refine_masks(run, compared(run.profile), run.train_ids, pair=pair)
    masks = pair_masks(run)
    assert [*masks] == ["pair_knowledge", "pair_advice", "pair_static", "pair_no_detector"]
    assert (masks["pair_knowledge"], masks["pair_advice"]) == pair
    assert masks["pair_static"] == open_refined(run, static_setting(run.profile), pair)
    assert masks["pair_static"].missing(run.train_ids) == []
    for image_id in run.train_ids:  # each pixel is that of one of the two
        k, a, refined = (masks[name].load(image_id)["mask"] for name in [*masks][:3])
        assert ((refined == k) | (refined == a)).all()


def test_without_true_masks_no_seeds_are_made_for_the_dynamic_stage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VocMasks, "mask", lambda self, image_id: np.full((2, 2), 255, np.uint8))
    table = dynamic_sweep(run, [0, 1])
    assert table["irregularity"].tolist() == [0, 1]
    assert table.drop(columns="irregularity").isna().all().all()
    assert not run.artifacts("seeds").exists()


def test_what_the_dynamic_stage_gains_over_each_of_its_controls(run: Run) -> None:
    short = replace(run.profile, sweeps=replace(run.profile.sweeps, irregular_steps=2))
    row = dynamic_sweep(replace(run, profile=short), [1]).iloc[0]
    assert row["ours"] == pytest.approx(row["dynamic"] - row["control"])
    assert row["beyond no detector"] == pytest.approx(row["dynamic"] - row["no detector"])
    assert row["low"] <= row["ours"] <= row["high"]
    assert row["low of it"] <= row["beyond no detector"] <= row["high of it"]


def test_a_superpixel_has_one_label() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    walked = torch.zeros(3, 20, 40)  # the background, and two classes
    walked[0, :, :20], walked[2, :, 20:] = 0.9, 0.8
    walked[2, 0, 0] = 1.0  # one pixel against its superpixel
    seeds = ImageSeeds(image, np.array([1, 0, 0, 1.0], np.float32), np.array([0, 3]), walked[1:], walked, 8.0)
    mask = ImageSuperpixelSeeds(seeds, ZoomOutConfig(superpixels=2)).mask(SuperpixelCrfConfig())
    np.testing.assert_array_equal(mask, np.where(np.arange(40) < 20, 0, 4)[None].repeat(20, 0))


def test_every_pair_has_words_for_its_masks() -> None:
    assert next(iter(PAIRS)) == OWN
    assert all(len(words) == 2 for words in PAIRS.values())
