"""Class activation maps: the network's shape, its loss, maps worked out by hand, and what comes back from disk."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import killed_at_call
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wsseg_core.affinity import cam
from wsseg_core.affinity.cam import (
    cam_loss,
    cam_maps,
    extract_cams,
    input_sizes,
    load_cam,
    load_cams,
    new_cam,
    open_cams,
    train_cam,
    training_config,
)
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CamConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import image_scores, load_classifier, train_classifier
from wsseg_core.data.run import Run
from wsseg_core.nets.cam import CamNet, load_blocks
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.saliency.gradients import prepare


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    classifier = replace(
        profile.classifier, width=2, precision="float32", checkpoint_every=1, head_steps=0, steps=1, validate_every=9
    )
    own = replace(profile.cam, channels=4, image_size=32, steps=3, batch_size=3)
    return Run(replace(profile, data=data, classifier=classifier, cam=own), 0, tmp_path / "results")


def with_cam(run: Run, **values: object) -> Run:
    return replace(run, profile=replace(run.profile, cam=replace(run.profile.cam, **values)))  # type: ignore[arg-type]


def with_classifier(run: Run, **values: object) -> Run:
    config = replace(run.profile.classifier, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, classifier=config))


class Colours(nn.Module):
    """A network whose score map is its input, so that a class is a colour; one position a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.weight


def vgg(batch_norm: bool = True) -> FcnVgg16:
    return FcnVgg16(3, width=2, batch_norm=batch_norm, fc_channels=5, fc6_kernel=1)


def cam_net(**arguments: int) -> CamNet:
    return CamNet(vgg(), 3, **arguments)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("blocks", "stride", "dilation"), [(5, 16, 1), (5, 8, 2), (4, 8, 1), (4, 2, 4), (3, 4, 1), (2, 2, 1)]
)
def test_the_score_map_has_the_stride_asked_for(blocks: int, stride: int, dilation: int) -> None:
    model = cam_net(blocks=blocks, channels=5, stride=stride)
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 3, 64 // stride, 96 // stride)
    layers = dict(model.backbone.trunk.named_children())
    assert layers[f"conv{blocks}_1"].dilation == (dilation, dilation)
    kept = [name for name, layer in layers.items() if not isinstance(layer, nn.Identity)]
    assert kept[-1] == f"relu{blocks}_{2 if blocks == 2 else 3}"


@pytest.mark.parametrize(("blocks", "stride"), [(1, 2), (6, 8), (4, 16), (5, 32), (4, 3)])
def test_blocks_and_strides_that_do_not_go_together_are_refused(blocks: int, stride: int) -> None:
    with pytest.raises(WorkbookError, match=f"stride {stride}: use"):
        cam_net(blocks=blocks, stride=stride)


def test_the_last_layers_are_those_of_the_paper() -> None:
    model = CamNet(vgg(), 20)
    assert model.cam_conv.weight.shape == (1024, 16, 3, 3)
    assert model.score.weight.shape == (20, 1024, 1, 1)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_blocks_of_a_classifier_are_copied_and_nothing_else(batch_norm: bool) -> None:
    classifier = FcnVgg16(3, width=2, batch_norm=batch_norm, fc_channels=5, fc6_kernel=1)
    model = CamNet(vgg(batch_norm), 3, blocks=4, channels=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_blocks(model, classifier)
    trunk = "backbone.trunk."
    for name, value in model.state_dict().items():
        copied = name.startswith(trunk)
        assert torch.equal(value, classifier.state_dict()[name.removeprefix(trunk)] if copied else before[name]), name
    assert not torch.equal(model.backbone.trunk.conv4_3.weight, before[f"{trunk}conv4_3.weight"])


def test_the_loss_averages_over_the_positions_by_hand() -> None:
    score_map = torch.tensor([[[[2.0, -2.0]], [[1.0, 3.0]]]]) * math.log(3) / 2
    assert image_scores(score_map, "average")[0].tolist() == pytest.approx([0, math.log(3)])
    loss = cam_loss(Colours(), (score_map, torch.tensor([[0.0, 1.0]])))
    assert loss.item() == pytest.approx(-math.log(1 / 2) - math.log(3 / 4), rel=1e-5)


def test_sizes_are_scales_in_whole_strides() -> None:
    assert input_sizes(CamConfig()) == (224, 448, 672, 896)
    assert input_sizes(CamConfig(image_size=100, scales=(0.01, 0.5, 1.0))) == (8, 48, 96)


def test_one_size_by_hand() -> None:
    """The brightest value of a channel is a positive score, the darkest a negative one."""
    image = np.uint8([[[0, 255, 0], [255, 255, 0]], [[0, 0, 0], [0, 0, 0]]])
    maps = cam_maps(Colours(), [image], [2])
    assert maps.shape == (1, 3, 2, 2)
    assert maps[0].tolist() == [[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]


def test_maps_of_several_sizes_are_summed_at_the_largest() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2, 0] = 255
    image[:2, 2:, 0] = 200
    small, large = (cam._both_ways(Colours(), [image], size) for size in (2, 4))
    total = large[0, 0] + nn.functional.interpolate(small, (4, 4), mode="bilinear")[0, 0]
    for sizes in ([2, 4], [4, 2]):
        torch.testing.assert_close(cam_maps(Colours(), [image], sizes)[0, 0], total / total.max())


@settings(max_examples=20)
@given(side=st.integers(8, 40), seed=st.integers(0, 99))
def test_a_mirrored_image_gives_the_mirrored_map(side: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = cam_net(blocks=3, channels=4, stride=2).eval()
    image = noise(side, side, seed)
    maps = cam_maps(model, [image, image[:, ::-1]], [8, 16])
    torch.testing.assert_close(maps[1], maps[0].flip(2), rtol=1e-4, atol=1e-5)
    assert ((maps >= 0) & (maps <= 1)).all()


def test_a_batch_gives_what_each_image_gives() -> None:
    model = cam_net(blocks=3, channels=4, stride=4).eval()
    images = [noise(20, 31, 1), noise(16, 16, 2), noise(40, 9, 3)]
    together = cam_maps(model, images, [16, 24])
    alone = torch.cat([cam_maps(model, [image], [16, 24]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_class_that_fires_nowhere_stays_0() -> None:
    maps = cam_maps(Colours(), [np.zeros((4, 4, 3), np.uint8)], [4, 8])
    assert not maps.any()


def test_maps_at_no_size_are_refused() -> None:
    with pytest.raises(WorkbookError, match=r"give cam.scales at least one value"):
        cam_maps(Colours(), [noise(4, 4)], [])


def test_the_network_is_trained_with_its_own_values_and_the_classifiers(run: Run) -> None:
    config = training_config(with_cam(run, optimizer="sgd", learning_rate=0.5, weight_decay=0.25))
    assert (config.optimizer, config.learning_rate, config.weight_decay, config.steps) == ("sgd", 0.5, 0.25, 3)
    assert (config.momentum, config.flip) == (run.profile.classifier.momentum, run.profile.classifier.flip)


def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_classifier(run)
    curve, killed = train_cam(run), replace(run, folder=tmp_path / "killed")
    shutil.copytree(run.artifacts("classifier"), killed.artifacts("classifier"))
    with monkeypatch.context() as patch:
        patch.setattr(cam, "cam_loss", killed_at_call(cam_loss, 3))
        with pytest.raises(RuntimeError, match="killed"):
            train_cam(killed)
    with pytest.raises(WorkbookError, match=r"cam.ckpt: training did not finish; run notebook 06_cam"):
        load_cam(killed)
    assert train_cam(killed) == curve
    assert [row["step"] for row in curve] == [1, 2, 3]
    resumed, expected, start = load_cam(killed), load_cam(run).state_dict(), new_cam(run).state_dict()
    assert not resumed.training
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name])
    first = "backbone.trunk.conv1_1.weight"
    assert not torch.equal(expected[first], start[first])


def test_a_network_of_other_settings_is_refused_with_both_values(run: Run) -> None:
    with pytest.raises(WorkbookError, match="missing; run notebook 06_cam_and_pixel_affinity first"):
        load_cam(run)
    with pytest.raises(WorkbookError, match="missing; run notebook 01_training first"):
        train_cam(run)
    train_classifier(run)
    train_cam(run)
    with pytest.raises(WorkbookError, match=r"cam.channels = 4, but this run uses 5"):
        load_cam(with_cam(run, channels=5))
    with pytest.raises(WorkbookError, match=r"momentum = 0.9, but this run uses 0.5"):
        load_cam(with_classifier(run, momentum=0.5))
    load_cam(with_cam(run, alpha=2.0, scales=(1.0,)))


def test_the_blocks_start_from_the_classifier_of_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train_classifier(run)
    weights, started = load_classifier(run).state_dict(), {}
    monkeypatch.setattr(cam, "fit", lambda model, *_: started.update(model.state_dict()))
    train_cam(run)
    trunk = "backbone.trunk."
    shared = [name.removeprefix(trunk) for name in started if name.startswith(trunk)]
    assert any(name.startswith("conv4_3") for name in shared)
    assert all(torch.equal(started[trunk + name], weights[name]) for name in shared)


def extracted(run: Run, model: nn.Module | None = None) -> ArtifactStore:
    return extract_cams(run, model or new_cam(run).eval(), run.train_ids)


def test_stored_maps_are_those_of_the_known_classes(run: Run) -> None:
    model = prepare(fold_batch_norm(new_cam(run)))
    store = extracted(run, model)
    for image_id in run.train_ids:
        image, arrays = run.devkit.image(image_id), store.load(image_id)
        expected = cam_maps(model, [image], input_sizes(run.profile.cam))[0]
        assert arrays["cams"].dtype == np.float16
        np.testing.assert_array_equal(arrays["classes"], np.flatnonzero(run.devkit.labels(image_id)))
        np.testing.assert_allclose(arrays["cams"], expected[arrays["classes"]], atol=1e-3)
        classes, maps = load_cams(open_cams(run), image_id, image.shape[:2])
        assert maps.shape == (len(classes), *image.shape[:2])
        assert all(value in (0, 1) for value in maps.amax((1, 2)))


def test_the_maximum_is_that_of_the_image_and_not_of_the_padding(tmp_path: Path) -> None:
    store = ArtifactStore.create(tmp_path / "cams", {}, "06")
    cams = np.float16([[[0.25, 0.125], [1, 1]], [[0, 0], [1, 1]]])  # the lower half is padding
    store.save("a", classes=np.array([1, 2]), cams=cams)
    _, maps = load_cams(store, "a", (1, 2))
    assert maps.tolist() == [[[1, 0.5]], [[0, 0]]]


def test_an_image_without_a_class_has_no_map(run: Run) -> None:
    (run.devkit.root / "Annotations" / "2007_000002.xml").write_text("<annotation/>")
    store = extracted(run)
    classes, maps = load_cams(store, "2007_000002", (34, 46))
    assert (len(classes), maps.shape) == (0, (0, 34, 46))


def test_only_missing_maps_are_computed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = extracted(run), []
    store.path(run.train_ids[2]).unlink()
    monkeypatch.setattr(
        cam, "cam_maps", lambda m, images, *rest: seen.append(len(images)) or cam_maps(m, images, *rest)
    )
    extracted(run)
    extracted(run)
    assert seen == [1]
    assert not store.missing(run.train_ids)


def test_maps_of_other_settings_are_not_read(run: Run) -> None:
    with pytest.raises(WorkbookError, match="missing; run notebook 06_cam_and_pixel_affinity first"):
        open_cams(run)
    extracted(run)
    open_cams(with_cam(run, alpha=2.0))
    with pytest.raises(WorkbookError, match=r"scales = \[0.5, 1.0\], but this run uses \[1.0\]"):
        open_cams(with_cam(run, scales=(1.0,)))
    with pytest.raises(WorkbookError, match=r"network.cam.steps = 3, but this run uses 4"):
        open_cams(with_cam(run, steps=4))
