"""Superpixels, their zoom-out features against a loop over them, and what is learnt and written for a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ZoomOutConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.forward import zoom_out
from wsseg_core.forward.zoom_out import (
    bag_ids,
    extract_bags,
    extract_class_maps,
    load_zoom_out,
    open_class_maps,
    pooling_matrix,
    superpixels,
    train_zoom_out,
    zoom_out_features,
    zoom_out_layers,
)
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.saliency.gradients import prepare

CONFIG = ZoomOutConfig(superpixels=20, compactness=1000.0)  # nearly a grid; noise would be one superpixel otherwise


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes takes longer than the work; test_parallel.py covers them."""
    monkeypatch.setattr("wsseg_core.base.parallel.cpu_count", lambda: 1)


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    zoom = replace(profile.zoomout, compactness=CONFIG.compactness)
    return Run(replace(profile, data=data, zoomout=zoom), 0, tmp_path / "results")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


def slow_pooling(maps: torch.Tensor, segments: np.ndarray) -> np.ndarray:
    """Up-sample maps (channels, h, w) and average them over one superpixel after the other: (S, channels)."""
    large = unpad(maps, segments.shape)
    masks = [torch.from_numpy(segments == number) for number in range(segments.max() + 1)]
    return torch.stack([large[:, mask].mean(1) for mask in masks]).numpy()


def contents(store: ArtifactStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.folder.iterdir())}


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 4), (33, 48), (48, 20)])
@pytest.mark.parametrize("flat", [False, True])
def test_superpixels_are_numbered_without_gaps(shape: tuple[int, int], flat: bool) -> None:
    image = np.full((*shape, 3), 120, np.uint8) if flat else noise(*shape)
    segments = superpixels(image, CONFIG)
    assert (segments.dtype, segments.shape) == (np.int32, shape)
    np.testing.assert_array_equal(np.unique(segments), np.arange(segments.max() + 1))
    assert segments.max() > 0 or shape == (1, 1)


def test_superpixels_follow_the_colours() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 17:] = (250, 200, 40)
    segments = superpixels(image, ZoomOutConfig(superpixels=4))
    assert not set(segments[:, :17].flat) & set(segments[:, 17:].flat)


@pytest.mark.parametrize(
    ("image", "change", "message"),
    [
        (np.zeros((4, 5), np.uint8), {}, "RGB uint8"),
        (np.zeros((4, 5, 3)), {}, "RGB uint8"),
        (np.zeros((0, 5, 3), np.uint8), {}, "RGB uint8"),
        (noise(4, 5), {"superpixels": 0}, "zoomout.superpixels = 0"),
        (noise(4, 5), {"superpixels": 2**16}, "at most 65535"),
        (noise(4, 5), {"compactness": 0.0}, "zoomout.compactness = 0.0"),
        (noise(4, 5), {"calibration_share": 1.0}, "zoomout.calibration_share = 1.0"),
    ],
)
def test_bad_input_gets_one_line(image: np.ndarray, change: dict[str, float], message: str) -> None:
    with pytest.raises(WorkbookError, match=message) as caught:
        superpixels(image, replace(CONFIG, **change))
    assert "\n" not in str(caught.value)


def test_pooling_worked_out_by_hand() -> None:
    """A map [[0, 4], [8, 12]] up-sampled to four rows and columns, of which the last row is padding.

    Up-sampled, the first row is 0, 1, 3, 4, and each row below it adds 2, 6, 8.
    """
    segments = np.array([[0, 0, 1, 1], [2, 0, 1, 1], [2, 2, 2, 2]])
    averages = pooling_matrix(segments, (2, 2)) @ np.array([0.0, 4, 8, 12])
    rows = np.array([[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10]])
    np.testing.assert_allclose(averages, [rows[segments == number].mean() for number in range(3)], rtol=1e-6)
    np.testing.assert_allclose(averages, [4 / 3, 18 / 4, 34 / 5], rtol=1e-6)


@pytest.mark.parametrize("shape", [(30, 40), (41, 17), (16, 16), (1, 7)])
@pytest.mark.parametrize("map_size", [(1, 1), (4, 4), (16, 16), (41, 41), (64, 64), (5, 3)])
def test_pooling_is_up_sampling_and_then_averaging(shape: tuple[int, int], map_size: tuple[int, int]) -> None:
    segments = superpixels(noise(*shape), CONFIG)
    maps = torch.rand(6, *map_size, generator=torch.Generator().manual_seed(1))
    matrix = pooling_matrix(segments, map_size)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(matrix @ maps.flatten(1).numpy().T, slow_pooling(maps, segments), atol=1e-5)


def test_features_are_all_convolutions_after_their_relu(model: nn.Module) -> None:
    image = noise(40, 30)
    segments = superpixels(image, CONFIG)
    features = zoom_out_features(model, image, segments, 64)
    maps, x = [], resize_and_pad(image, 64)[None]
    with torch.inference_mode():
        for name, module in model.named_children():
            x = module(x)
            if name in zoom_out_layers(model):
                maps.append(slow_pooling(x[0], segments))
    assert features.dtype == np.float32
    assert features.shape == (segments.max() + 1, 8 * (2 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 8))
    np.testing.assert_allclose(features, np.concatenate(maps, 1), rtol=1e-4, atol=1e-5)


def test_features_leave_no_hook_behind_even_after_an_exception(model: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        zoom_out_features(model, noise(20, 20), np.zeros((20, 20), int), 8)  # too small for five poolings
    assert not any(module._forward_hooks for module in model.modules())


def test_features_in_half_precision_are_near() -> None:
    plain = FcnVgg16(3, 8, fc_channels=16, fc6_kernel=3)
    image = noise(40, 30)
    segments = superpixels(image, CONFIG)
    exact, rough = (zoom_out_features(prepare(plain, name), image, segments, 64) for name in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert np.abs(rough - exact).max() < 0.05 * exact.max()


def test_another_network_is_refused() -> None:
    with pytest.raises(WorkbookError, match="no backbone in a Sequential"):
        zoom_out_features(nn.Sequential(nn.Conv2d(3, 4, 1)), noise(8, 8), np.zeros((8, 8), int), 8)


def with_zoomout(run: Run, **changes: float) -> Run:
    return replace(run, profile=replace(run.profile, zoomout=replace(run.profile.zoomout, **changes)))


def test_bags_are_drawn_once_and_in_order(run: Run) -> None:
    assert bag_ids(run) == run.train_ids  # fewer images than bags
    some = bag_ids(with_zoomout(run, train_images=4))
    assert len(set(some)) == 4
    assert some == sorted(some, key=run.train_ids.index)
    assert some == bag_ids(with_zoomout(run, train_images=4))


def test_a_rare_class_is_drawn_more_often(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 images one shows a dog and 99 a cat; the two classes have the same chance to be drawn first."""
    labels = np.zeros((100, 2), np.uint8)
    labels[:, 0], labels[7] = 1, (0, 1)
    ids = [str(number) for number in range(100)]
    monkeypatch.setattr(type(run.devkit), "label_matrix", lambda *_: labels)
    monkeypatch.setattr(Run, "train_ids", ids)
    first = [bag_ids(replace(with_zoomout(run, train_images=1), seed=seed)) == ["7"] for seed in range(60)]
    assert 15 < sum(first) < 45


def test_a_bag_holds_some_superpixels_of_its_image(run: Run, model: nn.Module) -> None:
    store = extract_bags(run, model)
    for image_id in run.train_ids:
        image = run.devkit.image(image_id)
        everything = zoom_out_features(model, image, superpixels(image, run.profile.zoomout), 64).astype(np.float16)
        features = store.load(image_id)["features"]
        assert features.dtype == np.float16
        assert len(features) == 5
        assert {row.tobytes() for row in features} <= {row.tobytes() for row in everything}


def test_maps_are_the_probabilities_of_the_superpixels(run: Run, model: nn.Module) -> None:
    svms = train_zoom_out(run, model)
    assert svms.classes == ("cat", "dog", "sheep")
    extract_class_maps(run, model, run.val_ids)
    for image_id in run.val_ids:
        maps, image = open_class_maps(run).load(image_id), run.devkit.image(image_id)
        segments, probabilities = maps["segments"], maps["probabilities"]
        assert (segments.dtype, probabilities.dtype) == (np.uint16, np.float32)
        assert (segments.shape, probabilities.shape) == (image.shape[:2], (segments.max() + 1, 3))
        np.testing.assert_array_equal(probabilities, svms.probabilities(zoom_out_features(model, image, segments, 64)))
        assert probabilities.min() >= 0
        assert probabilities.max() <= 1


def test_only_what_is_missing_is_computed_and_it_is_the_same(
    run: Run, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything() -> list[ArtifactStore]:
        learnt = train_zoom_out(run, model)
        assert not learnt.absent
        learning = ArtifactStore.open(run.artifacts("zoomout"), zoom_out.NOTEBOOK)
        return [extract_bags(run, model), learning, extract_class_maps(run, model, run.val_ids)]

    stores = everything()
    before = [contents(store) for store in stores]
    for store, name in zip(stores, (run.train_ids[2], "dog", run.val_ids[1]), strict=True):
        store.path(name).unlink()
    seen: list[str] = []
    divide, learn = zoom_out._divide, zoom_out.learn_class
    monkeypatch.setattr(zoom_out, "_divide", lambda name, **rest: seen.append(name) or divide(name, **rest))
    monkeypatch.setattr(zoom_out, "learn_class", lambda *rest: seen.append("class") or learn(*rest))
    assert [contents(store) for store in everything()] == before
    assert seen == [run.train_ids[2], "class", run.val_ids[1]]


def test_a_class_that_no_bag_shows_does_not_stop_the_others(run: Run, model: nn.Module) -> None:
    for path in (run.devkit.root / "Annotations").glob("2007*.xml"):
        path.write_text(path.read_text().replace("sheep", "cat"))
    svms = train_zoom_out(run, model)
    assert svms.absent == ("sheep",)
    store = extract_class_maps(run, model, run.val_ids)
    assert all((store.load(image_id)["probabilities"][:, 2] == 0).all() for image_id in run.val_ids)


def test_features_survive_a_change_of_the_svm_and_nothing_else_does(run: Run, model: nn.Module) -> None:
    with pytest.raises(WorkbookError, match="run notebook 05_forward_and_backward_maps first"):
        load_zoom_out(run)
    bags = extract_bags(run, model)
    train_zoom_out(run, model)
    extract_class_maps(run, model, run.val_ids)
    other = with_zoomout(run, cost=1.0)
    assert extract_bags(other, model).record == bags.record
    for read in (load_zoom_out, open_class_maps):
        with pytest.raises(WorkbookError, match=r"zoomout\.cost = 0\.01, but this run uses 1\.0"):
            read(other)
    with pytest.raises(WorkbookError, match=r"zoomout\.superpixels = 20, but this run uses 30"):
        open_class_maps(with_zoomout(run, superpixels=30))
