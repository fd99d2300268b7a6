"""How well errors are foreseen: made ones that can be, and made ones that cannot."""

import numpy as np
import pytest
from conftest import NARROW, write_tiny_devkit

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import DataConfig, Profile, SegmentationConfig, SweepConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate.foreseeable import _foreseen, foreseeable_pairs
from wsseg_core.evaluate.irregular_seeds import without_void

IMAGES, SIDE = 10, 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("foreseeable")
    write_tiny_devkit(folder / "devkit")
    data = DataConfig(source="voc", devkit=str(folder / "devkit"), train_split="train", image_size=32)
    sweeps = SweepConfig(bootstrap_samples=20, crf_train_images=4)
    run = Run(Profile(data=data, classifier=NARROW, segmentation=SegmentationConfig(crop=32), sweeps=sweeps), 0, folder)
    train_classifier(run)
    return run


def drawn(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Looks, of which the first map says something, and true masks with two labels."""
    rng = np.random.default_rng(seed)
    looks = [rng.normal(size=(5, SIDE, SIDE)).astype(np.float32) for _ in range(IMAGES)]
    return looks, [rng.integers(0, 2, (SIDE, SIDE)).astype(np.uint8) for _ in range(IMAGES)]


def test_errors_that_the_image_tells_are_foreseen(run: Run) -> None:
    looks, truths = drawn(0)
    masks = [np.where(look[0] > 1, 1 - truth, truth) for look, truth in zip(looks, truths, strict=True)]
    value, low, high = _foreseen(run, looks, masks, truths)
    assert low <= value <= high
    assert value > 0.95


def test_errors_at_random_are_not(run: Run) -> None:
    looks, truths = drawn(1)
    rng = np.random.default_rng(2)
    masks = [np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth) for truth in truths]
    assert _foreseen(run, looks, masks, truths)[0] == pytest.approx(0.5, abs=0.05)


def test_void_pixels_do_not_count(run: Run) -> None:
    looks, truths = drawn(0)
    masks = [np.where(look[0] > 1, 1 - truth, truth) for look, truth in zip(looks, truths, strict=True)]
    known = _foreseen(run, looks, masks, truths)
    # Errors that nobody could foresee, all of them where the truth is void.
    wider = [np.pad(values, ((0, 0), (0, 0), (0, SIDE))) for values in looks]
    noise = [np.hstack([mask, np.random.default_rng(3).integers(0, 2, mask.shape, np.uint8)]) for mask in masks]
    void = [np.pad(truth, ((0, 0), (0, SIDE)), constant_values=255) for truth in truths]
    assert _foreseen(run, wider, noise, void) == pytest.approx(known, abs=0.02)


def test_each_pair_has_the_numbers_of_its_two_masks(run: Run) -> None:
    def store(name: str, lost: float) -> ArtifactStore:
        made = ArtifactStore.create(run.artifacts("seeds") / name, {"name": name}, "test")
        for number, image_id in enumerate(run.train_ids):
            truth = without_void(VocMasks(run.devkit).mask(image_id))
            gone = np.random.default_rng(number).random(truth.shape) < lost
            made.save(image_id, mask=np.where(gone, 0, truth).astype(np.uint8))
        return made

    some, right = store("some", 0.5), store("right", 0)
    pairs = {"one": (some, right), "other": (right, some)}
    table = foreseeable_pairs(run, pairs, VocMasks(run.devkit).mask).set_index("pair")
    assert 0 <= table.loc["one", "K foreseen"] <= 1
    assert table.loc["one", "K foreseen"] == table.loc["other", "A foreseen"]
    assert table.loc["one"].filter(like="A ").isna().all()  # a mask without errors
    with pytest.raises(WorkbookError):  # SSDD's own pair was not drawn
        foreseeable_pairs(run, {"own": None}, VocMasks(run.devkit).mask)


def test_without_true_masks_nothing_is_foreseen(run: Run) -> None:
    looks, truths = drawn(0)
    assert np.isnan(_foreseen(run, looks, truths, [np.full_like(truth, 255) for truth in truths])).all()
