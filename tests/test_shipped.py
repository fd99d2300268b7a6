"""What is shipped is what was learnt, and it is enough for images of any origin."""

from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from torch import nn

from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_json
from wsseg_core.classify.classifier import load_classifier, new_classifier
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import segment_image
from wsseg_core.saliency.gradients import prepare
from wsseg_core.segment import shipped
from wsseg_core.segment.retraining import segmentation_net
from wsseg_core.segment.shipped import CARD, CLASSIFIER, NETWORK, TABLES, Shipped, load_shipped, shipped_classifier
from wsseg_core.workbook.demo import tell, write_demo
from wsseg_core.workbook.demo_run import prepare_run
from wsseg_core.workbook.own_images import class_shares, segment_files, shipped_segmenter

CLASSES = ("cat", "dog", "sheep")
FACTS = {
    "profile": "any",
    "classes": CLASSES,
    "seed": 0,
    "steps": {"classifier": 1},
    "training_images": 6,
    "validation_images": 3,
    "scores": {"classifier_map": {"value": 0.9, "low": 0.8, "high": 1.0}},
}
SMOKE = load_profile("smoke")
PROFILE: Profile = replace(SMOKE, classifier=replace(NARROW, threshold=0.0))


def learnt(model: nn.Module, part: str) -> nn.Module:
    """A copy of a network that learnt in one part."""
    changed = deepcopy(model)
    for name, parameter in changed.named_parameters():
        if part in name:
            parameter.data += 1
    return changed


def write_card(weights: Path, **facts: object) -> None:
    settings = {table: asdict(getattr(PROFILE, table)) for table in TABLES}
    write_json(weights / "animals" / CARD, FACTS | {"settings": settings} | facts)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the narrow networks of one profile, each of which learnt in its last layer."""
    monkeypatch.setattr(shipped, "load_profile", lambda name: PROFILE)
    start = new_classifier(PROFILE.classifier, 3, seed=0)
    classifier = learnt(start, "score")
    start_of_network, trained = (segmentation_net(PROFILE.segmentation, 3, classifier) for _ in range(2))
    folder = tmp_path / "animals"
    shipped._write(folder / CLASSIFIER, shipped._difference(classifier, start))
    shipped._write(folder / NETWORK, shipped._difference(trained, start_of_network))
    write_card(tmp_path, network="psa")
    torch.save(trained.state_dict(), tmp_path / "trained")
    return tmp_path


def test_only_what_was_learnt_is_kept_and_it_comes_back(weights: Path) -> None:
    found = load_shipped(folder=weights)
    assert found.classes == CLASSES
    start = new_classifier(PROFILE.classifier, 3, seed=0)
    expected = prepare(fold_batch_norm(learnt(start, "score").eval())).state_dict()
    half_precision = {"atol": 2e-3, "rtol": 2e-3}
    torch.testing.assert_close(dict(found.classifier.state_dict()), dict(expected), **half_precision)
    trained = torch.load(weights / "trained", weights_only=True)
    torch.testing.assert_close(dict(found.network.state_dict()), dict(trained), **half_precision)
    assert not found.network.training
    kept = [set(load_file(weights / "animals" / file)) for file in (CLASSIFIER, NETWORK)]
    assert kept[0] == {"score.weight", "score.bias"}
    assert all(name.startswith("head.") for name in kept[1])


def test_files_that_do_not_fit_are_named(weights: Path) -> None:
    (weights / "animals" / NETWORK).write_bytes(b"no tensors")
    with pytest.raises(WorkbookError, match=r"segmentation\.safetensors: missing or damaged"):
        load_shipped(folder=weights)
    shipped._write(weights / "animals" / NETWORK, {"head.fc7.weight": torch.zeros(1)})
    with pytest.raises(WorkbookError, match=r"segmentation\.safetensors: head\.fc7\.weight is of another network"):
        load_shipped(folder=weights)
    with pytest.raises(WorkbookError, match=r"birds/card\.json: missing or damaged"):
        load_shipped("birds", weights)
    for settings, complaint in ((None, "missing or damaged"), ({"segmentation": {"heads": 1}}, "unknown key .*heads")):
        write_card(weights, network="psa", settings=settings)
        with pytest.raises(WorkbookError, match=rf"animals/card\.json: {complaint}"):
            load_shipped(folder=weights)


def test_the_profile_may_change_after_networks_were_shipped(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, segmentation = PROFILE.classifier, PROFILE.segmentation
    wider = replace(PROFILE, classifier=replace(classifier, width=8), segmentation=replace(segmentation, channels=5))
    before = load_shipped(folder=weights)
    monkeypatch.setattr(shipped, "load_profile", lambda name: wider)
    found = load_shipped(folder=weights)
    assert (found.profile.classifier, found.profile.segmentation) == (classifier, segmentation)
    assert found.profile.crf == wider.crf
    torch.testing.assert_close(found.network.state_dict(), before.network.state_dict())


def test_the_networks_of_the_repository_find_the_cat() -> None:
    networks, image = load_shipped(), data.chelsea()
    assert networks.network is not None
    shares = class_shares(networks.mask(image), networks.classes)
    assert list(shares) == ["cat"]
    assert 0.5 < shares["cat"] < 1


@pytest.fixture
def networks(weights: Path) -> Shipped:
    return load_shipped(folder=weights)


def test_a_story_has_two_maps_a_class_and_a_mask_of_each_kind(networks: Shipped) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    story = tell("noise", image, networks)
    assert len(story.classes) == 3  # with a threshold of 0
    assert [c.probability for c in story.classes] == sorted((c.probability for c in story.classes), reverse=True)
    for picture in (*story.masks.values(), *(m for c in story.classes for m in (c.before, c.after))):
        assert picture.shape == image.shape
        assert picture.dtype == np.uint8
    assert 0 <= sum(story.shares.values()) <= 1


def test_shares_are_those_of_all_pixels() -> None:
    mask = np.array([[0, 2, 2, 1], [0, 2, 0, 0]], np.uint8)
    assert class_shares(mask, CLASSES) == {"dog": 3 / 8, "cat": 1 / 8}
    assert list(class_shares(mask, CLASSES)) == ["dog", "cat"]


def test_the_page_needs_nothing_else(networks: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "mine.png")
    monkeypatch.setattr("wsseg_core.workbook.demo.free_photographs", lambda: {"free": noise})
    page = write_demo([tmp_path / "mine.png"], tmp_path / "out", networks).read_text()
    assert "<h2>free</h2>" in page
    assert "<h2>mine.png</h2>" in page
    assert page.count("data:image/jpeg;base64,") >= 6
    assert "http" not in page
    with pytest.raises(WorkbookError, match=r"none\.png"):
        write_demo([tmp_path / "none.png"], tmp_path / "out", networks)
    with pytest.raises(WorkbookError, match=r"other/mine\.jpg: .*mine\.png would write the same"):
        write_demo([tmp_path / "mine.png", tmp_path / "other/mine.jpg"], tmp_path / "out", networks)


def test_the_shipped_classifier_is_that_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights of the repository, on a photograph of a cat and on nothing."""
    for module in ("data.run", "workbook.demo_run"):
        monkeypatch.setattr(f"wsseg_core.{module}.project_root", lambda: tmp_path)
    run = prepare_run({"cat": data.chelsea(), "nothing.png": np.full((20, 30, 3), 128, np.uint8)})
    assert (run.train_ids, run.val_ids) == (["cat", "nothing"], ["cat", "nothing"])
    detected = run.devkit.label_matrix(run.val_ids)
    assert [run.devkit.classes[c] for c in np.flatnonzero(detected[0])] == ["cat"]
    expected = shipped_classifier()[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_classifier(run).state_dict().items())


def test_another_photograph_of_the_same_name_is_looked_at_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("data.run", "workbook.demo_run"):
        monkeypatch.setattr(f"wsseg_core.{module}.project_root", lambda: tmp_path)
    grey, white = (np.full((20, 30, 3), value, np.uint8) for value in (128, 255))
    results = str(tmp_path / "results")
    kept = [prepare_run({"a": grey, "b": grey}, results).artifacts("saliency") / f"{name}.safetensors" for name in "ab"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"maps")
    prepare_run({"a": white, "b": grey}, results)
    assert [path.is_file() for path in kept] == [False, True]


def test_files_are_segmented_by_the_network_that_is_shipped(networks: Shipped, tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (shares,) = segment_files([tmp_path / "a.png"], shipped_segmenter(networks), tmp_path / "out").values()
    with Image.open(tmp_path / "out/a.png") as mask:
        assert shares == class_shares(np.asarray(mask), CLASSES)


def test_without_a_network_the_saliency_maps_draw(weights: Path) -> None:
    write_card(weights, network="")
    (weights / "animals" / NETWORK).unlink()
    networks, image = load_shipped(folder=weights), np.zeros((20, 30, 3), np.uint8)
    assert networks.network is None
    assert list(tell("black", image, networks).masks) == ["saliency maps and CRF"]
    np.testing.assert_array_equal(networks.mask(image), segment_image(networks.classifier, image, PROFILE, 0.0))
