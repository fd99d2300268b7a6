"""Explorers: what a slider changes, and what is shown where there is none."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from wsseg_core.base.config import load_profile
from wsseg_core.data.run import Run
from wsseg_core.saliency.dcsm import ImageMaps
from wsseg_core.saliency.extraction import block_layers
from wsseg_core.workbook import widgets
from wsseg_core.workbook.palette import COLOURS
from wsseg_core.workbook.widgets import HEADLESS, explorer, interactive, saliency_explorer, subtraction_explorer

CONTROLS = {"shade": {"dark": 0, "bright": 200}, "kind": {"<flat>": "flat", "steep": "steep"}}
PANEL = [{"shade": "dark", "kind": "<flat>"}, {"shade": "bright", "kind": "<flat>"}, {"shade": "dark", "kind": "steep"}]


def draw(shade: int, kind: str) -> dict[str, np.ndarray]:
    image = np.full((4, 6, 3), shade, np.uint8)
    ramp = np.linspace(0, 1, 24).reshape(4, 6) if kind == "steep" else np.zeros((4, 6))
    return {"image": image, f"{kind} & map": ramp, "mask": np.full((4, 6), 1, np.uint8)}


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEADLESS, "1")


@pytest.fixture
def at_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)


def shown(box: ipywidgets.VBox) -> np.ndarray:
    """The picture of an explorer, RGB."""
    return cv2.imdecode(np.frombuffer(box.children[2].value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def selectors(box: ipywidgets.VBox) -> dict[str, ipywidgets.Widget]:
    return {selector.description: selector for selector in box.children[0].children}


@pytest.mark.usefixtures("headless")
def test_headless_every_setting_of_the_panel_is_a_row() -> None:
    figure = explorer(draw, CONTROLS, PANEL)
    assert isinstance(figure, Figure)
    assert not interactive()
    grid = np.reshape(figure.axes, (3, 3))
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["shade dark\nkind <flat>", "shade bright", "kind steep"]
    assert [axes.get_title() for axes in grid[0]] == ["image", "flat & map", "mask"]
    assert [int(axes.images[0].get_array().max()) for axes in grid[:, 0]] == [0, 200, 0]


@pytest.mark.usefixtures("headless")
def test_long_labels_are_broken_into_lines() -> None:
    controls = {"order": {"a_b": 0, "normalise_then_subtract": 1}}
    pictures = partial(lambda order: {"map": np.zeros((2, 2))})
    figure = explorer(pictures, controls, [{"order": "a_b"}, {"order": "normalise_then_subtract"}])
    assert figure.axes[1].get_ylabel() == "order normalise\nthen subtract"


@pytest.mark.usefixtures("at_the_screen")
def test_pictures_stand_side_by_side_from_the_start() -> None:
    box = explorer(draw, CONTROLS, PANEL[1:])
    picture = shown(box)
    assert interactive()
    assert picture.shape == (4, 18, 3)
    assert (picture[:, :6] == 200).all()
    assert (picture[1:, 12:] == COLOURS[0]).all()  # class 1, below the first line of its hatching


@pytest.mark.usefixtures("at_the_screen")
def test_a_control_changes_the_picture_and_its_titles() -> None:
    box = explorer(draw, CONTROLS, PANEL)
    before = shown(box)
    selectors(box)["kind"].value = "steep"
    after = shown(box)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert after[0, 6].sum() < after[3, 11].sum()  # dark to bright
    assert "steep &amp; map" in box.children[1].value


@pytest.mark.usefixtures("at_the_screen")
def test_numbers_get_a_slider_and_names_a_menu() -> None:
    kinds = {name: type(selector) for name, selector in selectors(explorer(draw, CONTROLS, PANEL)).items()}
    assert kinds == {"shade": ipywidgets.SelectionSlider, "kind": ipywidgets.Dropdown}


class MadeUpMaps:
    """Stands in for `SavedMaps`: classes 2 and 0 are detected; every map has one peak, whose place tells it apart."""

    def __init__(self, run: Run) -> None:
        self.devkit = run.devkit

    def of(self, image_id: str) -> ImageMaps:
        drawn = np.array([True, False, True])
        return ImageMaps(self.devkit.image(image_id), np.float32([0.6, 0.1, 0.9]), drawn, self.read)

    def read(self, ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
        maps = {layer: torch.full((3, 8, 8), 0.1) for layer in layers}
        for layer, values in maps.items():
            for rank in range(3):
                values[rank, rank, int(layer[4]) + 2 * guided] = 1 + size
        return maps


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    profile = load_profile("smoke")
    monkeypatch.setattr(widgets, "SavedMaps", MadeUpMaps)
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    return Run(replace(profile, data=data), 0, tmp_path / "results")


@pytest.mark.usefixtures("at_the_screen")
def test_the_saliency_explorer_shows_the_class_of_a_rank(run: Run) -> None:
    box = saliency_explorer(run)
    assert "sheep 0.90" in box.children[1].value
    before = shown(box)
    selectors(box)["rank"].value = 1
    assert "cat 0.60" in box.children[1].value
    assert (shown(box) != before).any()


@pytest.mark.parametrize("control", ["image", "rank", "layer", "gradient"])
@pytest.mark.usefixtures("at_the_screen")
def test_every_control_of_the_saliency_explorer_matters(run: Run, control: str) -> None:
    box = saliency_explorer(run)
    before = shown(box)
    selectors(box)[control].index = 1 if control != "layer" else 8
    after = shown(box)
    assert before.shape != after.shape or (before != after).any()


@pytest.mark.parametrize("control", ["image", "alpha", "N", "blocks", "order"])
@pytest.mark.usefixtures("at_the_screen")
def test_every_control_of_the_subtraction_explorer_matters(run: Run, control: str) -> None:
    box = subtraction_explorer(run)
    before, selector = shown(box), selectors(box)[control]
    selector.index = (selector.index + 1) % len(selector.options)
    after = shown(box)
    assert before.shape != after.shape or (before != after).any()


@pytest.mark.usefixtures("at_the_screen")
def test_the_subtraction_explorer_starts_with_the_values_of_the_profile(run: Run) -> None:
    box = subtraction_explorer(run)
    values = {name: selector.value for name, selector in selectors(box).items() if name != "image"}
    assert values == {
        "alpha": 3.0,
        "N": 3,
        "blocks": block_layers(run.profile.classifier, (3, 4, 5)),
        "order": "subtract_then_normalise",
    }
    assert all(name in box.children[1].value for name in ("sheep", "cat", "mask"))


@pytest.mark.parametrize("make", [saliency_explorer, subtraction_explorer])
@pytest.mark.usefixtures("headless")
def test_headless_the_explorers_show_one_change_a_row(run: Run, make) -> None:
    first, *others = [axes.get_ylabel() for axes in make(run).axes if axes.get_ylabel()]
    assert len(others) == 4
    assert first.count("\n") > max(other.count("\n") for other in others)
