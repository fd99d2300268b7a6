import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.models._api
from conftest import killed_at_call, write_tiny_devkit
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from wsseg_core.base.config import ClassifierConfig, DataConfig, OtherNetworkConfig, Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify import classifier
from wsseg_core.classify.classifier import (
    LabelledImages,
    average_precisions,
    checkpoint_path,
    class_probabilities,
    classification_loss,
    classifier_from_checkpoint,
    image_scores,
    load_classifier,
    load_weights,
    make_optimizer,
    mean_average_precision_interval,
    new_classifier,
    other_network,
    train_classifier,
)
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.data.voc import VocDevkit
from wsseg_core.nets import architectures

NARROW = ClassifierConfig(
    width=2,
    batch_norm=True,
    fc_channels=6,
    fc6_kernel=3,
    weights="random",
    learning_rate=1e-2,
    head_steps=2,
    steps=3,
    checkpoint_every=1,
    precision="float32",
    workers=0,
)


@pytest.fixture(autouse=True, scope="module")
def no_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit
        yield


def run_in(folder: Path, devkit: Path) -> Run:
    data = DataConfig(source="voc", devkit=str(devkit), train_split="train", image_size=64)
    return Run(Profile(data=data, classifier=NARROW), 0, folder / "results" / "voc")


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    return run_in(tmp_path, tiny_devkit)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict]]:
    """A run whose training is over, only to be read, and its learning curve."""
    folder = tmp_path_factory.mktemp("trained")
    write_tiny_devkit(folder / "devkit")
    run = run_in(folder, folder / "devkit")
    return run, train_classifier(run)


def with_config(run: Run, **values: object) -> Run:
    config = replace(run.profile.classifier, **values)  # type: ignore[arg-type]
    return replace(run, profile=replace(run.profile, classifier=config))


class FixedScores(nn.Module):
    """A network whose score map is known, whatever the image."""

    def __init__(self, score_map: list) -> None:
        super().__init__()
        self.score_map = nn.Parameter(torch.tensor(score_map))

    def forward(self, images: Tensor) -> Tensor:
        return self.score_map


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_image_scores_are_the_maxima_over_the_positions():
    score_map = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]], [[-4.0, -1.0], [-2.0, -3.0]]]])
    assert image_scores(score_map).tolist() == [[3.0, -1.0]]


def test_loss_by_hand():
    log3 = math.log(3)  # its sigmoid is 3/4
    model = FixedScores([[[[0.0, -5.0]], [[log3, 1.0]]], [[[-9.0, -log3]], [[0.5, log3]]]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = classification_loss(model, (torch.zeros(2, 3, 4, 4), labels))
    first, second = -math.log(1 / 2) - math.log(1 / 4), -math.log(3 / 4) - math.log(3 / 4)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)


def images_of(run: Run, **values: object) -> LabelledImages:
    config = replace(NARROW, **values)  # type: ignore[arg-type]
    return LabelledImages(run.devkit, run.train_ids, 96, config, seed=0)


def test_without_augmentation_an_image_is_only_scaled_and_padded(run: Run):
    images = images_of(run, resize_range=(1.0, 1.0), flip=False)
    image, labels = images[5, 3]
    assert len(images) == 6
    assert torch.equal(image, resize_and_pad(run.devkit.image("2007_000004"), 96))
    assert labels.tolist() == [1, 1, 0]


def test_images_of_one_step_share_a_size_that_is_a_multiple_of_the_stride(run: Run):
    images = images_of(run, resize_range=(0.4, 1.7))
    sizes = [{images[step, index][0].shape for index in range(6)} for step in range(12)]
    assert all(len(shapes) == 1 for shapes in sizes)
    assert {shape for shapes in sizes for shape in shapes} == {(3, s, s) for s in (32, 64, 96, 128, 160)}


def test_augmentation_depends_on_seed_step_and_image_alone(run: Run):
    images, again = images_of(run), images_of(run)
    later = images[4, 2][0]
    for step in range(4):
        again[step, 0]
    assert torch.equal(again[4, 2][0], later)
    other_seed = LabelledImages(run.devkit, run.train_ids, 96, NARROW, seed=1)
    assert any(not torch.equal(other_seed[step, 2][0], images[step, 2][0]) for step in range(4))


def test_about_half_of_the_images_are_mirrored(run: Run):
    images = images_of(run, resize_range=(1.0, 1.0))
    upright = resize_and_pad(run.devkit.image("2007_000001"), 96)
    flipped = [torch.equal(images[step, 0][0], upright.flip(2)) for step in range(40)]
    assert all(flip or torch.equal(images[step, 0][0], upright) for step, flip in enumerate(flipped))
    assert 10 <= sum(flipped) <= 30


def test_two_phases_train_the_head_first_and_then_all(trained: tuple[Run, list[dict]]):
    run, history = trained
    start = new_classifier(NARROW, 3, run.seed).state_dict()
    head, final = (read_checkpoint(checkpoint_path(run, phase))["model"] for phase in ("head", "all"))
    learnable = [name for name in start if "running" not in name and "num_batches" not in name]
    changed = {name for name in learnable if not torch.equal(head[name], start[name])}
    assert changed == {f"{layer}.{part}" for layer in ("fc6", "fc7", "score") for part in ("weight", "bias")}
    assert {name for name in learnable if not torch.equal(final[name], head[name])} == set(learnable)
    assert [(row["phase"], row["step"]) for row in history if "loss" in row] == [
        *(("head", 1), ("head", 2)),
        *(("all", 1), ("all", 2), ("all", 3)),
    ]


def test_no_gradient_is_computed_below_the_layers_that_are_trained(run: Run, monkeypatch: pytest.MonkeyPatch):
    lowest = []

    def spy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        lowest.append(next(name for name, parameter in model.named_parameters() if parameter.requires_grad))
        return classification_loss(model, batch)

    monkeypatch.setattr(classifier, "classification_loss", spy)
    train_classifier(with_config(run, head_steps=1, steps=1))
    assert [name.split(".")[-2] for name in lowest] == ["fc6", "conv1_1"]


def test_validation_gives_the_average_precision_of_every_class(run: Run):
    history = train_classifier(with_config(run, head_steps=0, validate_every=2))
    rows = [row for row in history if "ap/cat" in row]
    assert [row["step"] for row in rows] == [2, 3]
    assert {row["phase"] for row in history} == {"all"}
    assert all(0 <= row[f"ap/{name}"] <= 1 for row in rows for name in run.devkit.classes)


def test_a_run_killed_in_its_second_phase_ends_where_an_uninterrupted_one_does(
    trained: tuple[Run, list[dict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, curve = trained
    run = replace(whole, folder=tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "classification_loss", killed_at_call(classification_loss, NARROW.head_steps + 2))
        with pytest.raises(RuntimeError, match="killed"):
            train_classifier(run)
    with pytest.raises(WorkbookError, match="training did not finish; run notebook 01_training again"):
        load_classifier(run)
    np.testing.assert_equal(train_classifier(run), curve)
    resumed, expected = load_classifier(run).state_dict(), load_classifier(whole).state_dict()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_a_trained_classifier_is_found_by_its_run_and_by_its_file(trained: tuple[Run, list[dict]]):
    run, _ = trained
    by_run = load_classifier(run)
    by_file, classes = classifier_from_checkpoint(checkpoint_path(run))
    assert classes == ["cat", "dog", "sheep"]
    assert not by_run.training
    assert not by_file.training
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(by_run(images), by_file(images))


def test_a_classifier_of_other_settings_is_refused_with_both_values(trained: tuple[Run, list[dict]], tmp_path: Path):
    run, _ = trained
    with pytest.raises(WorkbookError, match="missing; run notebook 01_training first"):
        load_classifier(replace(run, folder=tmp_path))
    with pytest.raises(WorkbookError, match=r"made with classifier.width = 2, but this run uses 3") as error:
        load_classifier(with_config(run, width=3))
    only_line(error)
    load_classifier(with_config(run, threshold=0.9, workers=1, checkpoint_every=7, validate_every=1))


def test_weights_can_come_from_a_checkpoint(trained: tuple[Run, list[dict]]):
    run, _ = trained
    expected = load_classifier(run).state_dict()
    started = new_classifier(replace(NARROW, weights=str(checkpoint_path(run))), 3, seed=5).state_dict()
    assert all(torch.equal(started[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("config", "num_classes", "message"),
    [
        (replace(NARROW, fc_channels=8), 3, r"fc6.weight is \(6, 16, 3, 3\), the network here has \(8, 16, 3, 3\)"),
        (NARROW, 4, r"score.weight is \(3, 6, 1, 1\), the network here has \(4, 6, 1, 1\)"),
        (replace(NARROW, batch_norm=False), 3, r"bn1_1.weight is \(2,\), the network here has absent"),
    ],
)
def test_weights_of_another_architecture_name_the_layer_and_both_shapes(
    trained: tuple[Run, list[dict]], config: ClassifierConfig, num_classes: int, message: str
):
    run, _ = trained
    with pytest.raises(WorkbookError, match=message) as error:
        load_weights(new_classifier(config, num_classes, 0), checkpoint_path(run))
    assert str(checkpoint_path(run)) in only_line(error)


def test_a_checkpoint_of_another_kind_of_network_is_no_classifier(tmp_path: Path):
    path = tmp_path / "all.ckpt"
    torch.save({"model": nn.Linear(1, 1).state_dict(), "settings": {"classes": ["cat"]}, "step": 1}, path)
    with pytest.raises(WorkbookError, match="weights of another network") as error:
        classifier_from_checkpoint(path)
    assert str(path) in only_line(error)


def test_a_narrow_network_cannot_start_from_imagenet(monkeypatch: pytest.MonkeyPatch):
    wide = {f"features.{index}.{part}": torch.zeros(9) for index in range(13) for part in ("weight", "bias")}
    monkeypatch.setattr(architectures, "torchvision_weights", lambda name: wide)
    with pytest.raises(WorkbookError, match="use weights = 'random'") as error:
        new_classifier(replace(NARROW, weights="imagenet"), 3, 0)
    only_line(error)


@pytest.mark.parametrize("architecture", ["vgg16", "resnet18"])
def test_a_start_from_imagenet_asks_torchvision_for_the_weights_of_the_architecture(
    architecture: str, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def unreachable(url: str, *_: object, **__: object) -> None:
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    config = replace(NARROW, architecture=architecture, width=8, weights="imagenet")
    with pytest.raises(WorkbookError, match=architecture):
        new_classifier(config, 3, 0)
    assert [url.rpartition("/")[2].partition("-")[0] for url in asked] == [architecture]


def test_an_unknown_architecture_names_the_known_ones():
    with pytest.raises(WorkbookError, match="architecture 'alexnet' is unknown; use one of vgg16, resnet18") as error:
        new_classifier(replace(NARROW, architecture="alexnet"), 3, 0)
    only_line(error)


def test_the_other_network_has_its_own_classifier_layers_and_folder(run: Run):
    config = OtherNetworkConfig(architecture="resnet18", width=8, weights="random", steps=2)
    run = replace(run, profile=replace(run.profile, other_network=config))
    other = other_network(run)
    expected = replace(NARROW, architecture="resnet18", width=8, weights="random", steps=2, head_steps=0)
    assert other.profile.classifier == expected
    assert other.profile.saliency.layers == config.layers
    assert replace(other.profile, classifier=NARROW, saliency=run.profile.saliency) == run.profile
    assert (other.folder, other.seed) == (run.folder / "resnet18", run.seed)
    pretrained = replace(run, profile=replace(run.profile, other_network=replace(config, weights="imagenet")))
    assert other_network(pretrained).profile.classifier.head_steps == NARROW.head_steps


def test_a_failed_download_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(WorkbookError, match=r"no route to host.*checkpoints by hand") as error:
        new_classifier(replace(NARROW, weights="imagenet"), 3, 0)
    only_line(error)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", range(1, 12))
def test_one_cycle_rises_and_falls_for_any_number_of_steps(optimizer: str, steps: int):
    config = replace(NARROW, optimizer=optimizer, schedule="one_cycle")
    parameter = nn.Parameter(torch.ones(1))
    steps_of, schedule = make_optimizer(config, [parameter], steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        parameter.grad = torch.ones(1)
        steps_of.step()
        schedule.step()
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert 0 < max(rates) <= config.learning_rate * (1 + 1e-9)


def test_the_published_schedule_is_sgd_with_momentum_at_a_constant_rate():
    optimizer, schedule = make_optimizer(ClassifierConfig(), [nn.Parameter(torch.ones(1))], 5)
    optimizer.step()
    schedule.step()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-5, 0.9, 5e-4)


@pytest.mark.parametrize(("field", "known"), [("optimizer", "'sgd' or 'adamw'"), ("schedule", "'constant' or 'one")])
def test_an_unknown_optimizer_or_schedule_names_the_known_ones(field: str, known: str):
    with pytest.raises(WorkbookError, match=f"classifier.{field} 'other' is unknown; use {known}"):
        make_optimizer(replace(NARROW, **{field: "other"}), [nn.Parameter(torch.ones(1))], 5)


def test_probabilities_are_sigmoids_of_the_scores_whatever_the_batch(run: Run):
    model = new_classifier(NARROW, 3, 0).eval()
    ids = run.train_ids[:3]
    together = class_probabilities(model, run.devkit, ids, 64, batch_size=3)
    with torch.inference_mode():
        slow = [model(resize_and_pad(run.devkit.image(i), 64)[None]).amax((0, 2, 3)).sigmoid().numpy() for i in ids]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, slow, atol=1e-5)
    np.testing.assert_allclose(class_probabilities(model, run.devkit, ids, 64, batch_size=2), together, atol=1e-5)


def test_average_precision_by_hand_and_an_absent_class_has_none(run: Run):
    annotation = "<annotation><object><name>cat</name></object></annotation>"
    (run.devkit.root / "Annotations" / "2008_000003.xml").write_text(annotation)
    assert VocDevkit(run.devkit.root).label_matrix(run.val_ids).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    scores = [[3.0, 2.0, 0.0], [2.0, 3.0, 0.0], [1.0, 1.0, 0.0]]
    model = FixedScores([[[[value]] for value in row] for row in scores])
    precisions = average_precisions(model, run)
    assert precisions["ap/cat"] == pytest.approx((1 + 2 / 3) / 2)
    assert precisions["ap/dog"] == pytest.approx(1)
    assert math.isnan(precisions["ap/sheep"])


def labels_and_scores(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([count, classes])
    labels = rng.integers(0, 2, (count, classes))
    return labels, np.round(rng.normal(labels, 1.0), 1)  # rounded, so that some scores are equal


def test_mean_average_precision_is_scikit_learns_on_the_images_of_every_resample():
    labels, scores = labels_and_scores(30, 3)

    def slow(counts: np.ndarray) -> float:
        drawn = np.repeat(np.arange(30), counts)
        return float(average_precision_score(labels[drawn], scores[drawn]))

    draws = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), 50)
    expected = slow(np.ones(30, int)), *np.percentile([slow(counts) for counts in draws], [2.5, 97.5])
    assert mean_average_precision_interval(labels, scores, samples=50, seed=4) == pytest.approx(expected)


def test_mean_average_precision_leaves_an_absent_class_out():
    labels, scores = labels_and_scores(30, 3)
    labels[:, 1] = 0
    present = mean_average_precision_interval(labels[:, [0, 2]], scores[:, [0, 2]], samples=20)
    assert mean_average_precision_interval(labels, scores, samples=20) == pytest.approx(present)
