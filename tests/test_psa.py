"""From CAMs to seeds, stage by stage on a tiny devkit; what can be worked out by hand is."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch
from conftest import WITHOUT_CLASS, killed_at_call, selectors, view
from torch import Tensor, nn

from wsseg_core.affinity import psa
from wsseg_core.affinity.cam import extract_cams, load_cams, new_cam, open_cams
from wsseg_core.affinity.pairs import affinity_labels, affinity_loss, upsample, walk, with_background
from wsseg_core.affinity.psa import (
    AffinityImages,
    extract_walks,
    load_affinity,
    make_affinity_labels,
    make_affinity_optimizer,
    open_affinity_labels,
    open_walks,
    train_affinity,
    walker,
)
from wsseg_core.affinity.random_walk import random_walk
from wsseg_core.affinity.seeds import (
    ImageSeeds,
    SeedMaps,
    SeedSetting,
    open_seed_masks,
    seed_masks,
    seed_setting,
    seed_settings,
)
from wsseg_core.base.config import CrfConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import load_classifier
from wsseg_core.crf.dense import dense_crf
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import normalise
from wsseg_core.data.voc import VocDevkit
from wsseg_core.evaluate.metrics import SEED_PROTOCOL
from wsseg_core.evaluate.scoring import score_settings
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.workbook.explorers.affinity import walk_explorer, walk_start
from wsseg_core.workbook.widgets import HEADLESS

CRF = CrfConfig(iterations=2)


@pytest.fixture(autouse=True, scope="module")
def quick_and_repeatable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit
        yield


def with_affinity(run: Run, **values: object) -> Run:
    affinity = replace(run.profile.affinity, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, affinity=affinity))


def with_walk_alpha(run: Run, alpha: float) -> Run:
    return replace(run, profile=replace(run.profile, cam=replace(run.profile.cam, alpha=alpha)))


def test_labels_are_those_of_two_crfs_over_the_cams(staged: Run) -> None:
    store, values = open_affinity_labels(staged), np.arange(4, dtype=np.uint8)
    for image_id in staged.train_ids:
        image = staged.devkit.image(image_id)
        classes, cam = load_cams(open_cams(staged), image_id, image.shape[:2])
        known = values[[0, *(classes + 1)]]
        low, high = (
            known[dense_crf(image, with_background(cam, alpha).numpy(), staged.profile.seed_crf).argmax(0)]
            for alpha in (4.0, 32.0)
        )
        labels = store.load(image_id)["labels"]
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, affinity_labels(low, high))


def test_an_image_without_a_class_is_certain_background_at_every_stage(staged: Run) -> None:
    assert not open_affinity_labels(staged).load(WITHOUT_CLASS)["labels"].any()
    assert open_walks(staged).load(WITHOUT_CLASS)["walked"].shape[0] == 1
    for mask in SeedMaps(staged).of(WITHOUT_CLASS).masks(seed_settings(staged.profile)):
        assert not mask.any()


class LabelledNumbers:
    """A store of one image: the label of a pixel is its number, row by row."""

    def __init__(self, height: int, width: int) -> None:
        self.labels = np.arange(height * width, dtype=np.uint8).reshape(height, width)

    def load(self, image_id: str) -> dict[str, np.ndarray]:
        return {"labels": self.labels}


class NumberedPixels:
    """A devkit of one image, whose pixels hold their number in all channels."""

    def __init__(self, height: int, width: int) -> None:
        self.pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1).repeat(3, 2)

    def image(self, image_id: str) -> np.ndarray:
        return self.pixels


def numbered(height: int, width: int, size: int, flip: bool = True) -> AffinityImages:
    devkit, labels = NumberedPixels(height, width), LabelledNumbers(height, width)
    return AffinityImages(devkit, ["a"], labels, size, flip, seed=0)  # type: ignore[arg-type]


def test_a_smaller_image_is_padded_with_the_mean_colour_and_neutral() -> None:
    image, labels = numbered(2, 3, 4, flip=False)[0, 0]
    assert labels.tolist() == [[0, 1, 2, 255], [3, 4, 5, 255], [255] * 4, [255] * 4]
    assert not image[:, labels == 255].any()
    torch.testing.assert_close(image[:, :2, :3], normalise(NumberedPixels(2, 3).pixels))


def test_labels_stay_with_their_pixels_in_every_window_and_mirror_image() -> None:
    images, colours = numbered(9, 12, 6), normalise(NumberedPixels(9, 12).pixels).flatten(1)
    corners, mirrored = set(), 0
    for step in range(60):
        image, labels = images[step, 0]
        assert (image.shape, labels.shape, labels.dtype) == ((3, 6, 6), (6, 6), torch.uint8)
        torch.testing.assert_close(image, colours[:, labels.long()])
        flipped = int(labels[0, 0]) > int(labels[0, 1])
        corners.add(divmod(int(labels[0].min()), 12))
        mirrored += flipped
    assert {top for top, _ in corners} == set(range(4))
    assert {left for _, left in corners} == set(range(7))
    assert 15 <= mirrored <= 45


def test_a_window_depends_on_seed_step_and_image_alone() -> None:
    images, again = numbered(9, 12, 6), numbered(9, 12, 6)
    later = images[4, 0][1]
    for step in range(4):
        again[step, 0]
    assert torch.equal(again[4, 0][1], later)


def test_new_layers_learn_ten_times_as_fast_and_all_rates_fall_to_0(staged: Run) -> None:
    model = AffinityNet(load_classifier(staged))
    config = replace(staged.profile.classifier, optimizer="sgd", learning_rate=0.5, steps=4)
    optimizer, schedule = make_affinity_optimizer(config, model)
    backbone, new = (sum(p.numel() for p in group["params"]) for group in optimizer.param_groups)
    assert backbone == sum(p.numel() for p in model.backbone.parameters())
    assert backbone + new == sum(p.numel() for p in model.parameters())
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == [0.5, 5.0]
    np.testing.assert_allclose(rates[2], [0.5 * 0.5**0.9, 5 * 0.5**0.9])
    assert schedule.get_last_lr() == [0, 0]


def test_a_killed_training_ends_where_an_uninterrupted_one_does(staged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    curve, whole = train_affinity(staged), load_affinity(staged).state_dict()
    path = psa.checkpoint_path(staged)
    content = path.read_bytes()
    path.unlink()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(psa, "affinity_loss", killed_at_call(affinity_loss, 3))
            with pytest.raises(RuntimeError, match="killed"):
                train_affinity(staged)
        with pytest.raises(WorkbookError, match=r"affinity.ckpt: training did not finish; run notebook 06_cam"):
            load_affinity(staged)
        assert train_affinity(staged) == curve
        assert all(torch.equal(value, whole[name]) for name, value in load_affinity(staged).state_dict().items())
    finally:
        path.write_bytes(content)
    assert len(curve) == 3
    start = AffinityNet(load_classifier(staged)).state_dict()
    assert not torch.equal(whole["backbone.trunk.conv1_1.weight"], start["backbone.trunk.conv1_1.weight"])


def test_walked_maps_come_back_as_they_were(staged: Run) -> None:
    model, maps = load_affinity(staged), SeedMaps(staged)
    values = (staged.profile.cam.alpha, 8.0, staged.profile.affinity.walk_steps, 5)
    for image_id in staged.train_ids:
        seeds = maps.of(image_id)
        expected = upsample(walk(model, seeds.image, seeds.cam, *values), 8, seeds.image.shape[:2])
        stored = open_walks(staged).load(image_id)["walked"]
        assert stored.dtype == np.float16
        assert stored.shape[1:] == tuple(-(-side // 8) for side in seeds.image.shape[:2])
        assert seeds.walked.shape == expected.shape
        assert ((seeds.walked >= 0) & (seeds.walked <= 1)).all()
        torch.testing.assert_close(seeds.walked, expected, rtol=0, atol=1e-3)  # stored in half precision


def test_folded_batch_norm_gives_the_same_walk(staged: Run, tmp_path: Path) -> None:
    run, image_id = replace(staged, folder=tmp_path), staged.train_ids[0]
    extract_cams(run, new_cam(run).eval(), [image_id])
    found = extract_walks(run, fold_batch_norm(load_affinity(staged)), [image_id]).load(image_id)["walked"]
    np.testing.assert_allclose(found, open_walks(staged).load(image_id)["walked"], atol=5e-3)


def test_only_what_is_missing_is_computed(staged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    image = VocDevkit.image
    monkeypatch.setattr(VocDevkit, "image", lambda self, image_id: seen.append(image_id) or image(self, image_id))
    wanted = staged.train_ids[2]
    for store in (open_affinity_labels(staged), open_walks(staged)):
        before = store.load(wanted)
        store.path(wanted).unlink()
        seen.clear()
        make_affinity_labels(staged, staged.train_ids, workers=1)
        extract_walks(staged, load_affinity(staged), staged.train_ids)
        assert set(seen) == {wanted}
        assert all(np.array_equal(value, before[name]) for name, value in store.load(wanted).items())


def test_missing_stages_name_the_notebook_that_makes_them(staged: Run, tmp_path: Path) -> None:
    empty = replace(staged, folder=tmp_path)
    first = "missing; run notebook 06_cam_and_pixel_affinity first"
    for stage in (
        lambda: make_affinity_labels(empty, empty.train_ids),
        lambda: train_affinity(empty),
        lambda: extract_walks(empty, load_affinity(staged), empty.train_ids),
        lambda: SeedMaps(empty),
        lambda: open_seed_masks(empty, seed_setting(empty.profile, "cam")),
    ):
        with pytest.raises(WorkbookError, match=first):
            stage()
    extract_cams(empty, new_cam(empty).eval(), empty.train_ids)
    make_affinity_labels(empty, empty.train_ids, workers=1)
    for stage in (train_affinity, load_affinity):
        with pytest.raises(WorkbookError, match="missing; run notebook 01_training first"):
            stage(empty)
    with pytest.raises(WorkbookError, match=f"walks: {first}"):
        SeedMaps(empty)


def test_stages_made_under_other_settings_are_refused_with_both_values(staged: Run) -> None:
    with pytest.raises(WorkbookError, match=r"low_alpha = 4.0, but this run uses 2.0"):
        open_affinity_labels(with_affinity(staged, low_alpha=2.0))
    with pytest.raises(WorkbookError, match=r"affinity.radius = 5, but this run uses 4"):
        load_affinity(with_affinity(staged, radius=4))
    with pytest.raises(WorkbookError, match=r"walk.beta = 8.0, but this run uses 1.0"):
        open_walks(with_affinity(staged, beta=1.0))
    with pytest.raises(WorkbookError, match=r"walk.alpha = 16.0, but this run uses 4.0"):
        open_walks(with_walk_alpha(staged, 4.0))
    load_affinity(with_walk_alpha(with_affinity(staged, beta=1.0), 4.0))


def test_what_is_no_classifier_is_refused(staged: Run) -> None:
    with pytest.raises(WorkbookError, match="no backbone in a Conv2d"):
        psa._affinity_net(staged, nn.Conv2d(3, 3, 1))


# The first row is background to both kinds; below, the walk moved what the CAM of class 3 had on the left.
SQUARE = ImageSeeds(
    image=np.zeros((2, 2, 3), np.uint8),
    probabilities=np.float32([0, 1, 1]),
    classes=np.array([1, 2]),
    cam=torch.tensor([[[0.0, 0.1], [0.2, 1.0]], [[0.0, 0.0], [1.0, 0.3]]]),
    walked=torch.tensor([[[0.9, 0.9], [0.1, 0.2]], [[0.0, 0.1], [0.2, 0.3]], [[0.0, 0.0], [0.1, 0.8]]]),
    walk_alpha=2.0,
)


def setting(kind: str, alpha: float = 2.0, crf: CrfConfig | None = None, name: str = "row") -> SeedSetting:
    return SeedSetting(name, kind, alpha, (32,), crf)


def test_masks_of_a_square_by_hand() -> None:
    cam, psa_mask = SQUARE.masks([setting("cam"), setting("psa")])
    assert cam.dtype == np.uint8
    assert cam.tolist() == [[0, 0], [3, 2]]
    assert psa_mask.tolist() == [[0, 0], [2, 3]]
    assert SQUARE.mask(setting("cam", alpha=30.0)).tolist() == [[0, 2], [3, 2]]  # 0.9^30 is below 0.1


def test_the_crf_starts_from_the_maps_of_its_setting() -> None:
    for kind in ("cam", "psa"):
        maps = with_background(SQUARE.cam, 2.0) if kind == "cam" else SQUARE.walked
        expected = dense_crf(SQUARE.image, maps.numpy(), CRF)
        np.testing.assert_allclose(SQUARE.label_probabilities(setting(kind, crf=CRF)), expected, atol=1e-6)
        np.testing.assert_array_equal(SQUARE.mask(setting(kind, crf=CRF)), np.uint8([0, 2, 3])[expected.argmax(0)])


def test_masks_of_many_settings_are_those_of_each(staged: Run) -> None:
    seeds = SeedMaps(staged).of(staged.train_ids[0])
    rows = [*seed_settings(staged.profile), seed_setting(staged.profile, "cam", alpha=2.0, name="cam-alpha2")]
    for row, mask in zip(rows, seeds.masks(rows), strict=True):
        np.testing.assert_array_equal(mask, seeds.mask(row))
        assert set(np.unique(mask)) <= {0, *(seeds.classes + 1)}
    assert seeds.probabilities.tolist() == staged.devkit.labels(staged.train_ids[0]).tolist()


def test_a_walk_from_another_alpha_and_another_kind_are_refused() -> None:
    with pytest.raises(WorkbookError, match=r"row: alpha = 4, but the walk started from 2; change cam.alpha"):
        SQUARE.mask(setting("psa", alpha=4.0))
    with pytest.raises(WorkbookError, match="row: seeds of kind 'gradcam' are not known; use cam or psa"):
        setting("gradcam")


def test_rows_of_a_profile() -> None:
    profile = load_profile("voc")
    rows = {row.name: row for row in seed_settings(profile)}
    assert list(rows) == ["cam", "cam_crf", "psa", "psa_crf"]
    assert (rows["psa"].alpha, rows["psa"].crf, rows["psa_crf"].crf) == (16.0, None, profile.seed_crf)
    assert rows["cam"].sizes == (224, 448, 672, 896)
    assert seed_setting(profile, "cam", crf=True, name="x", crf_source="train") == replace(
        rows["cam_crf"], name="x", crf_source="train"
    )


def test_masks_to_learn_from_are_written_once(staged: Run) -> None:
    knowledge = seed_setting(staged.profile, "psa")
    store = seed_masks(staged, staged.train_ids, knowledge, workers=1)
    maps = SeedMaps(staged)
    for image_id in staged.train_ids:
        mask = store.load(image_id)["mask"]
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, maps.of(image_id).mask(knowledge))
    assert store.folder.name == "psa"
    assert open_seed_masks(staged, knowledge).missing(staged.train_ids) == []
    with pytest.raises(WorkbookError, match=r"seeds.alpha = 16.0, but this run uses 4.0"):
        open_seed_masks(staged, replace(knowledge, alpha=4.0))


def test_seeds_are_scored_under_the_seed_protocol(staged: Run, tmp_path: Path) -> None:
    rows, ids = seed_settings(staged.profile), staged.train_ids
    run = replace(staged, folder=tmp_path)
    scores = score_settings(run, "seeds", ids, "train", rows, psa.NOTEBOOK, SeedMaps(staged))
    assert list(scores) == [row.name for row in rows]
    for row in rows:
        assert scores[row.name].confusions.shape == (len(ids), 4, 4)
        assert (scores[row.name].details["kind"], scores[row.name].details["split"]) == (row.kind, "train")
    assert scores["psa"].details["protocol"] == SEED_PROTOCOL


def test_maps_survive_the_way_to_a_worker(staged: Run) -> None:
    maps, image_id = SeedMaps(staged), staged.train_ids[0]
    sent = pickle.loads(pickle.dumps(maps))
    for row in seed_settings(staged.profile):
        np.testing.assert_array_equal(sent.of(image_id).mask(row), maps.of(image_id).mask(row))


def test_the_explorer_walks_as_the_stage_does(staged: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)
    net, cams, image_id = fold_batch_norm(load_affinity(staged)), open_cams(staged), staged.train_ids[0]
    begin = walk_start(staged, net)
    for alpha, beta, steps in ((16.0, 8.0, 16), (2.0, 1.0, 1), (2.0, 1.0, 64)):
        _, cam = load_cams(cams, image_id, staged.devkit.image(image_id).shape[:2])
        walked = walker(with_affinity(staged, beta=beta), net)(image_id, cam, alpha, steps)
        start = begin(image_id, alpha, beta)
        torch.testing.assert_close(random_walk(start.transition, start.scores, steps), walked)


def test_a_button_plays_the_walk_and_the_network_looks_at_the_image_once(
    staged: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)
    looks: list[Tensor] = []
    plain = AffinityNet.forward
    monkeypatch.setattr(AffinityNet, "forward", lambda net, images: looks.append(images) or plain(net, images))
    box = walk_explorer(staged)
    slider = selectors(box)["steps"]
    (player,) = [widget for widget in box.children[-2].children if isinstance(widget, ipywidgets.Play)]
    assert (player.value, player.max) == (slider.index, len(slider.options) - 1)
    frames = []
    for frame in range(player.max + 1):
        player.value = frame
        assert slider.index == frame
        frames.append(view(box))
    assert slider.value == 1024
    assert len({*frames}) == len(frames)
    assert len(looks) == 1
    slider.index = 2
    assert player.value == 2
