"""Features of a frozen trunk: what is stored is what the trunk gives, and a head learns from either alike."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import with_running_statistics
from torch import nn

from wsseg_core.affinity import cam, psa
from wsseg_core.affinity.cam import cam_maps, extract_cams, load_cam, train_cam
from wsseg_core.affinity.pairs import walk, walk_stored
from wsseg_core.affinity.psa import extract_walks, load_affinity, make_affinity_labels, train_affinity
from wsseg_core.affinity.seeds import SeedMaps, seed_masks, seed_setting
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ClassifierConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify import classifier, features, head
from wsseg_core.classify.classifier import (
    average_precisions,
    checkpoint_path,
    classifier_from_checkpoint,
    load_classifier,
    new_classifier,
    phases,
    train_classifier,
    trained_parameters,
)
from wsseg_core.classify.features import extract_features, features_folder, map_path, open_features
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.nets.backbones import FrozenBackbone, outline_of
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import SegmentationNet, StagesHead, on_grid
from wsseg_core.refine.dynamic_stage import train_dynamic
from wsseg_core.refine.dynamic_step import DynamicSetting
from wsseg_core.refine.static_stage import load_static, refine_masks, static_setting, train_static
from wsseg_core.segment import predictions, retraining
from wsseg_core.segment.predictions import extract_predictions, pixel_probabilities, stored_log_probabilities
from wsseg_core.segment.retraining import (
    load_segmentation,
    new_network,
    train_each,
    train_networks,
    train_segmentation,
)

SIZES = (64, 96)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit


def with_classifier(run: Run, **values: object) -> Run:
    config = replace(run.profile.classifier, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, classifier=config))


def with_features(run: Run, **values: object) -> Run:
    own = replace(run.profile.features, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, features=own))


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    """A ResNet-18 whose head alone learns, under average pooling, and whose own map is the CAM."""
    profile = load_profile("smoke")
    config = replace(
        profile.classifier,
        architecture="resnet18",
        width=8,
        stride=16,
        pooling="average",
        precision="float32",
        head_steps=4,
        steps=0,
        batch_size=3,
        validate_every=2,
        checkpoint_every=2,
    )
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    own = replace(profile.cam, channels=0, stride=16, image_size=64, scales=(1.0, 1.5), flip=False)
    stored = replace(profile.features, sizes=SIZES, dense_size=64)
    profile = replace(profile, data=data, classifier=config, cam=own, features=stored)
    return Run(profile, 0, tmp_path / "results" / "smoke")


def trunk(run: Run) -> nn.Module:
    return new_classifier(run.profile.classifier, 3, run.seed)


def test_a_head_gets_the_same_tensors_from_the_store_and_from_the_trunk(run: Run) -> None:
    model = with_running_statistics(trunk(run))
    store, outline = extract_features(run, model), outline_of(model)
    live = FrozenBackbone(fold_batch_norm(model).to(memory_format=torch.channels_last), outline.taps)
    for image_id in (run.train_ids[0], run.val_ids[-1]):
        image = resize_and_pad(run.devkit.image(image_id), 64)[None].to(memory_format=torch.channels_last)
        stored = store.load(image_id, 64, outline.taps)
        assert all(torch.equal(one, other[0]) for one, other in zip(stored, live(image), strict=True))
        assert all(values.dtype == torch.float32 and values.std() > 0 for values in stored)
    assert store.map(run.val_ids[0], 96, "layer4").shape == (64, 6, 6)
    with pytest.raises(WorkbookError, match="no features of layer2 at 96 pixels"):
        store.load(run.val_ids[0], 96, ["layer2"])


def test_a_frozen_trunk_stays_what_it_is_in_training() -> None:
    model = with_running_statistics(new_classifier(ClassifierConfig("resnet18", 8, weights="random"), 3, 0))
    backbone = FrozenBackbone(model, ["layer1", "layer4"])
    net = nn.Sequential(backbone).train()
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    before = {name: value.clone() for name, value in backbone.trunk.state_dict().items()}
    assert not any(values.requires_grad for values in net(images))
    assert all(torch.equal(value, before[name]) for name, value in backbone.trunk.state_dict().items())
    assert not any(weight.requires_grad for weight in backbone.parameters())


def test_a_frozen_trunk_is_not_stored_with_the_networks_above_it() -> None:
    config = ClassifierConfig("resnet18", 8, weights="random")
    first, second = (new_classifier(config, 3, seed) for seed in (0, 1))
    here, there = (nn.Sequential(FrozenBackbone(model, ["layer1"]), nn.Conv2d(8, 2, 1)) for model in (first, second))
    stored = here.state_dict()
    assert list(stored) == ["1.weight", "1.bias"]
    before = {name: value.clone() for name, value in there[0].trunk.state_dict().items()}
    there.load_state_dict(stored)
    assert torch.equal(there[1].weight, here[1].weight)
    assert all(torch.equal(value, before[name]) for name, value in there[0].trunk.state_dict().items())
    assert not torch.equal(there[0].trunk.conv1.weight, here[0].trunk.conv1.weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        there.load_state_dict({"1.weight": stored["1.weight"]})


def test_features_that_are_lost_are_made_again_and_those_not_finished_are_not_read(run: Run) -> None:
    store = extract_features(run, trunk(run))
    expected = store.load(run.train_ids[0], 64, ["layer4"])[0]
    features.map_path(features_folder(run), 64, "layer4").unlink()
    with pytest.raises(WorkbookError, match="missing or damaged; run notebook 01_training again"):
        open_features(run, trunk(run))
    again = extract_features(run, trunk(run)).load(run.train_ids[0], 64, ["layer4"])[0]
    assert torch.equal(again, expected)
    marks = features_folder(run) / "64" / features.DONE
    np.save(marks, (np.arange(9) > 0).astype(np.uint8))
    with pytest.raises(WorkbookError, match="64: not of all images yet; run notebook 01_training again"):
        open_features(run, trunk(run))
    extract_features(run, trunk(run))
    assert torch.equal(open_features(run, trunk(run)).load(run.train_ids[0], 64, ["layer4"])[0], expected)


@pytest.mark.parametrize("whole", [True, False], ids=["done", "a row missing"])
@pytest.mark.parametrize("left", [b"", b"\x00" * 64, None], ids=["empty", "zeros", "cut"])
def test_a_damaged_file_is_made_again(run: Run, left: bytes | None, whole: bool) -> None:
    store = extract_features(run, trunk(run))
    expected = [store.load(image_id, 64, ["layer4"])[0] for image_id in run.train_ids]
    path = features.map_path(features_folder(run), 64, "layer4")
    path.write_bytes(path.read_bytes()[:-100] if left is None else left)
    if not whole:
        np.save(features_folder(run) / "64" / features.DONE, (np.arange(9) > 0).astype(np.uint8))
    again = extract_features(run, trunk(run))
    found = [again.load(image_id, 64, ["layer4"])[0] for image_id in run.train_ids]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_size_is_said_before_and_a_full_disk_is_told(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**31, 0, 2**30))
    with pytest.raises(WorkbookError, match=r"features of 9 images need 0\.0 GiB and 1\.0 are free; free disk space"):
        extract_features(run, trunk(run))
    assert not list(features_folder(run).rglob("*.npy"))
    monkeypatch.undo()
    extract_features(run, trunk(run))
    assert "features of 9 images: 0.00 GiB" in capsys.readouterr().out
    bytes_of = {path.stem: path.stat().st_size for path in (features_folder(run) / "64").glob("*.npy")}
    assert bytes_of["layer4"] == 128 + 9 * 64 * 4 * 4 * 2


def test_a_killed_extraction_goes_on_where_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = trunk(run), []
    forward = FrozenBackbone.forward

    def killed(self: FrozenBackbone, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(images.shape[2])
        if len(seen) == 6:
            raise RuntimeError("killed")
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(FrozenBackbone, "forward", killed)
        with pytest.raises(RuntimeError, match="killed"):
            extract_features(run, model)
    monkeypatch.setattr(FrozenBackbone, "forward", lambda self, images: seen.append(1) or forward(self, images))
    store = extract_features(run, model)
    looks = 2 + 3 + 2 + 2 * 9 - 3  # at the shapes of both sizes, at three images, again at the shapes, at the rest
    assert len(seen) == looks + 1  # and the one that was killed
    whole = extract_features(replace(run, folder=run.folder.parent / "again" / "smoke"), model)
    for image_id in (*run.train_ids, *run.val_ids):
        assert torch.equal(store.map(image_id, 96, "layer4"), whole.map(image_id, 96, "layer4"))


def test_features_of_another_trunk_or_of_other_images_are_refused(run: Run) -> None:
    with pytest.raises(WorkbookError, match="missing; run notebook 01_training first"):
        open_features(run, trunk(run))
    extract_features(run, trunk(run))
    open_features(with_classifier(run, learning_rate=0.5, head_steps=9), trunk(run))
    other = with_classifier(run, width=16)
    with pytest.raises(WorkbookError, match=r"trunk.width = 8, but this run uses 16"):
        open_features(other, trunk(other))
    with pytest.raises(WorkbookError, match=r"trunk.seed = 0, but this run uses 1"):
        open_features(replace(run, seed=1), trunk(run))
    fewer = replace(run, profile=replace(run.profile, data=replace(run.profile.data, max_val_images=1)))
    with pytest.raises(WorkbookError, match="ids = "):
        open_features(fewer, trunk(run))
    map_path(features_folder(run), 64, "layer4").write_bytes(b"cut")
    with pytest.raises(WorkbookError, match=r"layer4.npy: missing or damaged; run notebook 01_training again"):
        open_features(run, trunk(run))


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_a_head_learns_from_features_and_leaves_the_trunk_alone(run: Run, pooling: str) -> None:
    run = with_classifier(run, pooling=pooling)
    start, curve = trunk(run).state_dict(), train_classifier(run)
    trained = load_classifier(run)
    assert checkpoint_path(run).name == "head.ckpt"
    other, classes = classifier_from_checkpoint(checkpoint_path(run))
    assert classes == ["cat", "dog", "sheep"]
    assert (other.pooling, torch.equal(other.score.weight, trained.score.weight)) == (pooling, True)
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, start[name])}
    assert changed == {"score.weight", "score.bias"}
    assert curve[-1]["step"] == 4
    live = average_precisions(trained, run)
    stored = {name: value for name, value in curve[-1].items() if name.startswith("ap/")}
    assert stored == pytest.approx(live, abs=0.35, nan_ok=True)  # the rounding may swap two of three images


def test_averages_of_features_train_the_very_head_that_whole_maps_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train_classifier(run)
    averaged = read_checkpoint(checkpoint_path(run))["model"]
    shutil.rmtree(run.artifacts("classifier"))
    monkeypatch.setattr(head, "hasattr", lambda *_: False, raising=False)
    train_classifier(run)
    whole = read_checkpoint(checkpoint_path(run))["model"]
    torch.testing.assert_close(averaged["score.weight"], whole["score.weight"], rtol=1e-3, atol=1e-4)


def test_batch_norm_of_the_trunk_stays_frozen_while_the_head_learns(run: Run) -> None:
    run = with_features(run, sizes=())
    start = trunk(run).state_dict()
    train_classifier(run)
    trained = load_classifier(run).state_dict()
    assert all(torch.equal(trained[name], start[name]) for name in start if not name.startswith("score"))


def test_the_last_stages_may_learn_after_the_head(run: Run) -> None:
    config = replace(run.profile.classifier, steps=2, train_from=5, frozen_batch_norm=True)
    run = replace(run, profile=replace(run.profile, classifier=config))
    start = trunk(run).state_dict()
    train_classifier(run)
    trained = load_classifier(run).state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    assert changed
    assert all(name.startswith(("layer4", "score")) and ".bn" not in name for name in changed)
    with pytest.raises(WorkbookError, match="no stage 9 to train from"):
        trained_parameters(trunk(run), replace(config, train_from=9), "all")
    with pytest.raises(WorkbookError, match="are both 0; raise one"):
        phases(replace(config, head_steps=0, steps=0))


def test_cams_of_the_classifier_itself_come_from_the_store_as_from_the_trunk(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_classifier(run)
    assert train_cam(run) == []
    model = load_cam(run)
    stored = {i: extract_cams(run, model, run.train_ids).load(i) for i in run.train_ids}
    monkeypatch.setattr(cam, "cam_maps", None)
    extract_cams(run, model, run.train_ids)
    for image_id, arrays in stored.items():
        expected = cam_maps(model, [run.devkit.image(image_id)], SIZES, flip=False)[0][arrays["classes"]]
        np.testing.assert_allclose(arrays["cams"], expected, atol=5e-3)
    with pytest.raises(WorkbookError, match=r"need classifier\.pooling = 'average'"):
        train_cam(with_classifier(run, pooling="max"))


def frozen_line(run: Run) -> Run:
    """Pixel affinities and segmentation on stored features, too; and the dynamic stage with a frozen trunk."""
    profile = run.profile
    affinity = replace(profile.affinity, frozen_trunk=True, width=8, radius=2)
    segmentation = replace(
        profile.segmentation,
        frozen_trunk=True,
        head="stages",
        channels=8,
        crop=64,
        resize_range=(1.0, 1.0),
        scales=(1.0,),
    )
    return replace(run, profile=replace(profile, affinity=affinity, segmentation=segmentation))


def one_class(run: Run, name: str, value: int) -> ArtifactStore:
    """Masks of one label each."""
    store = ArtifactStore.create(run.artifacts("seeds") / name, run.settings("base.artifacts", name=name), "06")
    for image_id in run.train_ids:
        store.save(image_id, mask=np.full(run.devkit.image(image_id).shape[:2], value, np.uint8))
    return store


def test_networks_that_are_trained_beside_each_other_are_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = frozen_line(run)
    train_classifier(run)
    masks = one_class(run, "one", 1), one_class(run, "two", 2)
    alone = train_networks(run, dict(zip("ab", masks, strict=True)), "06")
    monkeypatch.setattr(retraining, "LONG", 1)
    monkeypatch.setattr("wsseg_core.base.parallel.cpu_count", lambda: 2)
    beside = train_networks(run, dict(zip("cd", masks, strict=True)), "06")
    for one, other in zip("ab", "cd", strict=True):
        losses = [[row["loss"] for row in curves[name]] for curves, name in ((alone, one), (beside, other))]
        np.testing.assert_allclose(*losses, rtol=1e-5)
        weights = [load_segmentation(run, name, "06").state_dict() for name in (one, other)]
        for name, value in weights[0].items():
            torch.testing.assert_close(value, weights[1][name])


@pytest.mark.parametrize(("gpu", "frozen", "steps", "workers"), [
    (False, True, 100, None), (True, True, 100, 1), (False, False, 100, 1), (False, True, 10, 1)
])  # fmt: skip
def test_only_small_trainings_that_are_worth_it_run_beside_each_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, gpu: bool, frozen: bool, steps: int, workers: int | None
) -> None:
    run, asked = frozen_line(run), []
    segmentation = replace(run.profile.segmentation, frozen_trunk=frozen, steps=steps)
    run = replace(run, profile=replace(run.profile, segmentation=segmentation))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(retraining, "side_by_side", lambda train, items, **more: asked.append(more["workers"]))
    train_each(run, str, [1, 2], "networks")
    assert asked == [workers]


def test_the_whole_line_runs_on_stored_features(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = frozen_line(run)
    train_classifier(run)
    with monkeypatch.context() as patch:
        # From here on the trunk sees one empty image for each network that is built, and none of the run.
        patch.setattr(features, "resize_and_pad", None)
        patch.setattr(FrozenBackbone, "forward", None)
        extract_cams(run, load_cam(run), run.train_ids)
        make_affinity_labels(run, run.train_ids, workers=1)
        train_affinity(run)
        extract_walks(run, load_affinity(run), run.train_ids)
        settings = [seed_setting(run.profile, "psa"), seed_setting(run.profile, "psa", crf=True)]
        pair = [seed_masks(run, run.train_ids, setting, workers=1) for setting in settings]
        train_segmentation(run, "psa", pair[0], "06")
        train_static(run)
        refine_masks(run, [static_setting(run.profile)], run.train_ids, workers=1)
        extract_predictions(run, "psa", run.val_ids, "06")
    with monkeypatch.context() as patch:  # the snapshots look at single images, the training at batches
        looked, forward = [], FrozenBackbone.forward
        patch.setattr(
            FrozenBackbone, "forward", lambda self, images: looked.append(len(images)) or forward(self, images)
        )
        train_dynamic(run, DynamicSetting("dynamic"), pair[0], "psa", "06", workers=1)
        assert set(looked) == {1}
    start = trunk(run).state_dict()
    networks = load_affinity(run).backbone, load_segmentation(run, "psa", "06").encoder.backbone
    for backbone in (*networks, load_static(run).segmentation.encoder.backbone):
        kept = {name: value for name, value in backbone.trunk.state_dict().items() if name in start}
        folded = fold_batch_norm(trunk(run)).state_dict()
        assert kept
        assert all(torch.equal(value, folded[name]) for name, value in kept.items())
    for image_id in run.train_ids:
        size = run.devkit.image(image_id).shape[:2]
        assert pair[0].load(image_id)["mask"].shape == size
        assert SeedMaps(run).of(image_id).walked.shape[1:] == size


def test_predictions_from_the_store_are_those_of_the_padded_square(run: Run) -> None:
    """Without its padding a map keeps what it says at every pixel, to within the interpolation of a cell."""
    run = frozen_line(run)
    train_classifier(run)
    network, image_id = new_network(run, load_classifier(run)).eval(), run.val_ids[0]
    image = run.devkit.image(image_id)
    maps = open_features(run, trunk(run)).load(image_id, 64, network.encoder.backbone.names)
    found = stored_log_probabilities(network, maps, image.shape[:2])
    assert found.exp().sum(0).sub(1).abs().max() < 0.02
    with torch.no_grad():
        views = [network([values[None] for values in side]).scores for side in (maps, [m.flip(2) for m in maps])]
    square = torch.stack([views[0][0].softmax(0), views[1][0].softmax(0).flip(2)]).mean(0).log()
    np.testing.assert_allclose(
        pixel_probabilities(found, image.shape[:2]), unpad(square, image.shape[:2]).softmax(0), atol=0.02
    )


@pytest.mark.parametrize(
    ("size", "cells"), [((30, 60), (2, 4)), ((60, 30), (4, 2)), ((60, 60), (4, 4)), ((1, 60), (1, 4))]
)
def test_the_padding_is_cut_off_a_map(size: tuple[int, int], cells: tuple[int, int]) -> None:
    square = torch.arange(4.0).expand(1, 4, 4)
    part = predictions.without_padding(square, size)
    assert part.shape == (1, *cells)
    torch.testing.assert_close(part, square[:, : cells[0], : cells[1]])


def test_affinities_and_scores_are_the_same_from_the_store_and_from_the_image(run: Run) -> None:
    run = frozen_line(run)
    train_classifier(run)
    image = resize_and_pad(run.devkit.image(run.val_ids[0]), 64)[None]
    store = open_features(run, trunk(run))
    affinity_net = psa._affinity_net(run, load_classifier(run)).eval()
    network = new_network(run, load_classifier(run)).eval()
    with torch.no_grad():
        for net in (affinity_net, network):
            backbone = net.backbone if net is affinity_net else net.encoder.backbone
            maps = [values[None] for values in store.load(run.val_ids[0], 64, backbone.names)]
            found, expected = net(maps), net(image.to(memory_format=torch.channels_last))
            pairs = zip(found[:3], expected[:3], strict=True) if net is network else [(found, expected)]
            assert all(torch.equal(*pair) or torch.allclose(*pair, atol=1e-6) for pair in pairs)


def test_a_walk_on_stored_features_is_the_walk_on_a_square_image(run: Run) -> None:
    """An image whose longest side is that of the store is seen at the same scale either way."""
    run = frozen_line(run)
    model = psa._affinity_net(run, trunk(run)).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cams = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = [values[0] for values in model.backbone(resize_and_pad(image, 64)[None])]
    expected = walk(model, image, cams, steps=4, radius=2)
    torch.testing.assert_close(walk_stored(model, maps, cams, steps=4, radius=2), expected, rtol=1e-4, atol=1e-5)
    part = walk_stored(model, maps, cams[:, :30], steps=4, radius=2)
    assert part.shape == (3, 4, 8)
    assert psa.pixels_per_position(run, (30, 64)) == 8
    assert psa.pixels_per_position(run, (60, 128)) == 16


def test_masks_on_the_grid_of_a_padded_square() -> None:
    mask = torch.tensor([[[1, 1, 2, 2], [3, 3, 4, 4]]], dtype=torch.uint8)
    assert on_grid(mask, 2, 255).tolist() == [[[3, 4], [255, 255]]]
    assert on_grid(mask, 4, 255)[0, :2].tolist() == mask[0].tolist()


def test_the_head_over_stages_gives_scores_at_the_finest_grid() -> None:
    torch.manual_seed(0)
    stages_head = StagesHead((4, 6, 8), num_classes=3, channels=8, dilation=4)
    maps = [torch.randn(2, channels, side, side) for channels, side in ((4, 8), (6, 4), (8, 4))]
    scores, high = stages_head(maps)
    assert (scores.shape, high.shape) == ((2, 4, 8, 8), (2, 8, 8, 8))
    scores.sum().backward()
    assert all(weight.grad is not None for weight in stages_head.parameters())
    with pytest.raises(WorkbookError, match=r"segmentation\.head 'fcn' is unknown; use one of largefov, stages"):
        SegmentationNet(3, new_classifier(ClassifierConfig("resnet18", 8, weights="random"), 3, 0), head="fcn")


def test_the_profile_says_what_is_stored(run: Run) -> None:
    plan = features.planned_features(run.profile, trunk(run))
    assert plan == {64: ("layer2", "layer3", "layer4"), 96: ("layer4",)}
    assert classifier.classifier_settings(run)["features"] == SIZES
