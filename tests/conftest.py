"""Small data that several test modules share."""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import Tensor, nn

from wsseg_core.affinity.cam import extract_cams, new_cam
from wsseg_core.affinity.psa import extract_walks, load_affinity, make_affinity_labels, train_affinity
from wsseg_core.base.config import ClassifierConfig, load_profile
from wsseg_core.classify.classifier import new_classifier, train_classifier
from wsseg_core.data.images import write_palette_png
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.gradients import prepare

TINY_CLASSES = ("cat", "dog", "sheep")
WITHOUT_CLASS = "2007_000005"  # of `staged`: an image whose annotation names nothing
TINY_SPLITS = {
    "train": ["2007_000001", "2007_000002", "2007_000003", "2007_000004", "2007_000005", "2007_000006"],
    "val": ["2008_000001", "2008_000002", "2008_000003"],
}

# How fast an example is found or tried says how busy the machine is, nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks come first: one process runs them while another runs all else."""
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is None)


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    """On the CPU, which alone repeats itself to the bit; to start processes takes longer than these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr("wsseg_core.base.parallel.cpu_count", lambda: 1)
        yield


# A classifier that trains in a moment.
NARROW = ClassifierConfig(
    width=2,
    batch_norm=True,
    fc_channels=4,
    fc6_kernel=3,
    weights="random",
    head_steps=0,
    steps=1,
    checkpoint_every=1,
    precision="float32",
    workers=0,
)


@pytest.fixture
def tiny_devkit(tmp_path: Path) -> Path:
    """Root of a devkit with three classes, six train and three val images of noise, all of different sizes.

    Image number n has class n mod 3, and every third image a second one. The first object fills the upper left
    quarter, the second one the lower right, the last column is void; the upper half of an object is its head.
    """
    root = tmp_path / "devkit"
    write_tiny_devkit(root)
    return root


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    """The smoke profile on the tiny devkit."""
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    return Run(replace(profile, data=data), 0, tmp_path / "results")


@pytest.fixture
def model(run: Run) -> nn.Module:
    """Its classifier, untrained, as the extraction takes it."""
    return prepare(fold_batch_norm(new_classifier(run.profile.classifier, 3, seed=0)))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Run:
    """A run on the tiny devkit with all stages of notebook 06 behind it, but for its networks; only to be read."""
    folder = tmp_path_factory.mktemp("staged")
    write_tiny_devkit(folder / "devkit")
    (folder / "devkit" / "Annotations" / f"{WITHOUT_CLASS}.xml").write_text("<annotation/>")
    profile = load_profile("smoke")
    data = replace(profile.data, source="voc", devkit=str(folder / "devkit"))
    classifier = replace(
        profile.classifier, width=2, fc_channels=4, precision="float32", checkpoint_every=1, head_steps=0, steps=1
    )
    cam = replace(profile.cam, channels=4, image_size=32)
    affinity = replace(profile.affinity, steps=3)
    profile = replace(profile, data=data, classifier=classifier, cam=cam, affinity=affinity)
    run = Run(profile, 0, folder / "results")
    train_classifier(run)
    extract_cams(run, new_cam(run).eval(), run.train_ids)
    make_affinity_labels(run, run.train_ids, workers=1)
    train_affinity(run)
    extract_walks(run, load_affinity(run), run.train_ids)
    return run


def write_tiny_devkit(root: Path, classes: tuple[str, ...] = TINY_CLASSES) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    for split, ids in TINY_SPLITS.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    for number, image_id in enumerate(i for ids in TINY_SPLITS.values() for i in ids):
        values = [number % 3 + 1] + ([(number + 1) % 3 + 1] if number % 3 == 0 else [])
        _write_image(root, image_id, number, values)
        _write_annotation(root, image_id, [classes[value - 1] for value in values])


def _write_image(root: Path, image_id: str, number: int, values: list[int]) -> None:
    height, width = 32 + 2 * number, 48 - 2 * number
    noise = np.random.default_rng([0, number]).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(root / f"JPEGImages/{image_id}.jpg", quality=90)
    mask, parts = np.zeros((2, height, width), np.uint8)
    corners = [(0, 0), (height // 2, width // 2)]
    for (top, left), value in zip(corners, values, strict=False):
        rows, columns = slice(top, top + height // 2), slice(left, left + width // 2)
        mask[rows, columns] = value
        parts[rows, columns] = 2
        parts[top : top + height // 4, columns] = 1
    mask[:, -1] = parts[:, -1] = 255
    write_palette_png(root / f"SegmentationClass/{image_id}.png", mask)
    write_palette_png(root / f"SegmentationParts/{image_id}.png", parts)


def _write_annotation(root: Path, image_id: str, names: list[str]) -> None:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{i}</difficult><part><name>head</name></part></object>"
        for i, name in enumerate(names)
    )
    xml = f"<annotation><filename>{image_id}.jpg</filename>{objects}</annotation>"
    (root / f"Annotations/{image_id}.xml").write_text(xml)


def view(box: ipywidgets.VBox) -> str:
    """What an explorer shows below its controls, HTML."""
    return box.children[-1].value


def shown(box: ipywidgets.VBox) -> list[np.ndarray]:
    """The pictures of an explorer, RGB; after them the samples of its legend."""
    encoded = [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([^']+)", view(box))]
    return [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for png in encoded]


def selectors(box: ipywidgets.VBox) -> dict[str, ipywidgets.Widget]:
    """The controls of an explorer by the name that stands beside them."""
    widgets = [widget for row in box.children[:-1] for widget in row.children]
    return {widget.description: widget for widget in widgets if widget.description}


Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


def killed_at_call(loss: Loss, number: int) -> Loss:
    """A loss that stops the training when it is called for the n-th time."""
    calls = []

    def counted(model: nn.Module, batch: tuple[Tensor, ...], **arguments: object) -> Tensor:
        calls.append(batch)
        if len(calls) == number:
            raise RuntimeError("killed")
        return loss(model, batch, **arguments)

    return counted


def with_running_statistics(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and scales drawn at random, in evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                *((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)),
                *((module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.5)),
            ):
                values.uniform_(low, high, generator=generator)
    return model.eval()
