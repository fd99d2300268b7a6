"""Explorers: what a slider changes, what the switch of the truth shows, and what is shown where there is no slider."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch
from conftest import selectors, shown, view
from matplotlib.figure import Figure
from torch import Tensor

from wsseg_core.base.config import load_profile
from wsseg_core.data.run import Run
from wsseg_core.evaluate.one_image import iou_text, true_mask
from wsseg_core.saliency.dcsm import ImageMaps
from wsseg_core.saliency.extraction import block_layers
from wsseg_core.workbook import widgets
from wsseg_core.workbook.explorers import saliency
from wsseg_core.workbook.explorers.saliency import crf_explorer, saliency_explorer, subtraction_explorer
from wsseg_core.workbook.palette import COLOURS
from wsseg_core.workbook.widgets import HEADLESS, Captioned, Masked, examples_first, explorer, interactive

CONTROLS = {"shade": {"dark": 0, "bright": 200}, "kind": {"<flat>": "flat", "steep": "steep"}}
PANEL = [{"shade": "dark", "kind": "<flat>"}, {"shade": "bright", "kind": "<flat>"}, {"shade": "dark", "kind": "steep"}]


def draw(image_id: str, shade: int, kind: str) -> dict[str, np.ndarray | Masked]:
    image = np.full((4, 6, 3), shade, np.uint8)
    ramp = np.linspace(0, 1, 24).reshape(4, 6) if kind == "steep" else np.zeros((4, 6))
    return {"image": image, f"{kind} & map": ramp, "mask": np.full((4, 6), 1, np.uint8)}


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEADLESS, "1")


@pytest.fixture
def at_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEADLESS, raising=False)


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
    monkeypatch.setattr(saliency, "SavedMaps", MadeUpMaps)
    data = replace(profile.data, source="voc", devkit=str(tiny_devkit))
    return Run(replace(profile, data=data), 0, tmp_path / "results")


@pytest.mark.usefixtures("headless")
def test_headless_every_setting_of_the_panel_is_a_row(run: Run) -> None:
    figure = explorer(run, run.val_ids, draw, CONTROLS, PANEL)
    assert isinstance(figure, Figure)
    assert not interactive()
    grid = np.reshape(figure.axes, (3, 3))
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["shade dark\nkind <flat>", "shade bright", "kind steep"]
    assert [axes.get_title() for axes in grid[0]] == ["image", "flat & map", "mask"]
    assert [int(axes.images[0].get_array().max()) for axes in grid[:, 0]] == [0, 200, 0]


WORDS = "cat 0.90, dog 0.70, and a sheep far behind"


@pytest.mark.usefixtures("headless")
def test_headless_words_stand_below_their_picture(run: Run) -> None:
    row = {"image": np.zeros((4, 6, 3), np.uint8), "map": Captioned(np.zeros((4, 6)), WORDS)}
    figure = explorer(run, run.val_ids, lambda image_id, n: row, {"n": {"0": 0, "1": 1}}, [{"n": "0"}, {"n": "1"}])
    below = [axes.get_xlabel().replace("\n", " ") for axes in figure.axes]
    assert below == ["", WORDS, "", WORDS]


@pytest.mark.usefixtures("at_the_screen")
def test_words_stand_below_their_picture_and_no_score_does(run: Run) -> None:
    box = explorer(run, run.val_ids, lambda image_id: {"map": Captioned(np.zeros((4, 6)), "<" + WORDS)}, {}, [{}])
    selectors(box)["truth"].value = True
    assert f"&lt;{WORDS}</div></figure>" in view(box)
    assert "0 to 1" in view(box)
    assert "IoU" not in view(box)


@pytest.mark.usefixtures("at_the_screen")
def test_an_explorer_may_have_a_truth_of_its_own_that_follows_the_controls(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widgets, "true_mask", lambda *_: pytest.fail("the devkit's mask was read"))
    image = np.zeros((4, 6, 3), np.uint8)

    def all_of(image_id: str, label: int) -> Masked:
        return Masked(image, np.full((4, 6), label, np.uint8))

    def drawn(image_id: str, label: int) -> dict[str, Masked]:
        return {"mask": all_of(image_id, 1)}

    box = explorer(run, run.val_ids, drawn, {"label": {"1": 1, "2": 2}}, [{"label": "1"}], all_of)
    assert "IoU" not in view(box)
    selectors(box)["truth"].value = True
    assert "mean IoU 100 %: cat 100" in view(box)
    selectors(box)["label"].value = 2
    assert "mean IoU 0 %: cat 0, dog 0" in view(box)


@pytest.mark.usefixtures("headless")
def test_long_labels_are_broken_into_lines(run: Run) -> None:
    controls = {"order": {"a_b": 0, "normalise_then_subtract": 1}}
    panel = [{"order": "a_b"}, {"order": "normalise_then_subtract"}]
    figure = explorer(run, run.val_ids, lambda image_id, order: {"map": np.zeros((2, 2))}, controls, panel)
    assert figure.axes[1].get_ylabel() == "order normalise\nthen subtract"


@pytest.mark.usefixtures("at_the_screen")
def test_every_picture_stands_below_its_title(run: Run) -> None:
    box = explorer(run, run.val_ids, draw, CONTROLS, PANEL[1:])
    image, heat, mask, *_ = shown(box)
    assert interactive()
    assert (image == 200).all()
    assert heat.shape == (4, 6, 3)
    assert (mask[1:] == COLOURS[0]).all()  # class 1, below the first line of its hatching
    figures = re.findall(r"<figure.*?<figcaption>(.*?)</figcaption><img", view(box))
    assert figures == ["image", "flat &amp; map", "mask"]


@pytest.mark.usefixtures("at_the_screen")
def test_a_control_changes_the_picture_and_its_titles(run: Run) -> None:
    box = explorer(run, run.val_ids, draw, CONTROLS, PANEL)
    before = shown(box)
    selectors(box)["kind"].value = "steep"
    after = shown(box)
    np.testing.assert_array_equal(before[0], after[0])
    assert after[1][0, 0].sum() < after[1][3, 5].sum()  # dark to bright
    assert "steep &amp; map" in view(box)


@pytest.mark.usefixtures("at_the_screen")
def test_numbers_get_a_slider_and_names_a_menu(run: Run) -> None:
    box = explorer(run, run.val_ids, draw, CONTROLS, PANEL)
    kinds = {name: type(selector) for name, selector in selectors(box).items()}
    assert kinds == {
        "shows": ipywidgets.Dropdown,
        "truth": ipywidgets.Checkbox,
        "image": ipywidgets.Select,
        "shade": ipywidgets.SelectionSlider,
        "kind": ipywidgets.Dropdown,
    }


@pytest.mark.usefixtures("at_the_screen")
def test_the_picker_keeps_the_images_of_a_class(run: Run) -> None:
    picker = selectors(explorer(run, run.val_ids, draw, CONTROLS, PANEL))
    assert [image_id for _, image_id in picker["image"].options] == run.val_ids
    for name in run.devkit.classes:
        picker["shows"].value = name
        wanted = [i for i in run.val_ids if run.devkit.labels(i)[run.devkit.classes.index(name)]]
        assert [image_id for _, image_id in picker["image"].options] == wanted
        assert picker["image"].value == (wanted[0] if wanted else None)
        assert all(name in caption for caption, _ in picker["image"].options)


@pytest.mark.usefixtures("at_the_screen")
def test_a_class_that_no_image_shows_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    box = explorer(run, run.val_ids[:1], draw, CONTROLS, PANEL)
    absent = [name for name in run.devkit.classes if name not in selectors(box)["image"].options[0][0]]
    selectors(box)["shows"].value = absent[0]
    assert "None of these images" in view(box)
    selectors(box)["shows"].value = widgets.EVERY
    assert "<figure" in view(box)


@pytest.mark.usefixtures("at_the_screen")
def test_the_truth_is_read_and_the_mask_scored_only_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(widgets, "true_mask", lambda devkit, i: asked.append(i) or true_mask(devkit, i))
    box = subtraction_explorer(run)
    selectors(box)["alpha"].index = 1
    assert not asked
    assert "IoU" not in view(box)
    selectors(box)["truth"].value = True
    image_id = selectors(box)["image"].value
    assert asked == [image_id]
    assert "truth, for evaluation only" in view(box)
    assert re.search(r"mean IoU \d+ %: background \d+", view(box))
    selectors(box)["truth"].value = False
    assert "truth, for" not in view(box)


@pytest.mark.usefixtures("at_the_screen")
def test_an_image_without_a_mask_says_so(run: Run) -> None:
    for mask in (run.devkit.root / "SegmentationClass").glob("*.png"):
        mask.unlink()
    box = subtraction_explorer(run)
    selectors(box)["truth"].value = True
    assert "This data set has no mask of this image." in view(box)


def test_the_iou_of_one_image_is_told_by_class() -> None:
    truth = np.uint8([[0, 0, 1, 1], [0, 255, 1, 1], [2, 2, 2, 2]])
    drawn = np.uint8([[0, 1, 1, 1], [0, 2, 1, 1], [255, 255, 255, 255]])
    assert iou_text(truth, drawn, ["cat", "dog"]) == "mean IoU 73 %: background 67, cat 80"


@pytest.mark.usefixtures("at_the_screen")
def test_the_legend_names_the_classes_of_the_masks_and_no_other(run: Run) -> None:
    image = run.devkit.image(run.val_ids[0])
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:5] = 2
    box = explorer(run, run.val_ids, lambda image_id: {"mask": Masked(image, mask)}, {}, [{}])
    legend = view(box).split("</figure></div>")[1]
    assert [name for name in run.devkit.classes if name in legend] == [run.devkit.classes[1]]
    assert (shown(box)[-1] == COLOURS[1]).all(-1).mean() > 0.5


def test_the_images_that_the_notebooks_show_come_first(run: Run) -> None:
    validation, training = examples_first(run), examples_first(run, train=True)
    assert validation[: len(run.example_ids)] == run.example_ids
    assert training[: len(run.train_example_ids)] == run.train_example_ids
    assert (sorted(validation), sorted(training)) == (sorted(run.val_ids), sorted(run.train_ids))


@pytest.mark.usefixtures("at_the_screen")
def test_the_saliency_explorer_shows_the_class_of_a_rank(run: Run) -> None:
    box = saliency_explorer(run)
    assert "sheep 0.90" in view(box)
    selectors(box)["rank"].value = 1
    assert "cat 0.60" in view(box)


CHOICES = [(saliency_explorer, name) for name in ("image", "rank", "layer", "gradient", "size")]
CHOICES += [(subtraction_explorer, name) for name in ("image", "alpha", "N", "blocks", "order")]
CHOICES += [(crf_explorer, name) for name in ("image", "w1", "w2")]


@pytest.mark.parametrize(("make", "control"), CHOICES)
@pytest.mark.usefixtures("at_the_screen")
def test_every_control_of_an_explorer_matters(run: Run, make, control: str) -> None:
    box = make(run)
    before, selector = view(box), selectors(box)[control]
    selector.index = 8 if control == "layer" else (selector.index + 1) % len(selector.options)
    if make is crf_explorer and control != "image":
        assert "with CRF" in view(box)  # whether a border moves is for the tests of the CRF
    else:
        assert view(box) != before


@pytest.mark.usefixtures("at_the_screen")
def test_the_subtraction_explorer_starts_with_the_values_of_the_profile(run: Run) -> None:
    box = subtraction_explorer(run)
    values = {name: selectors(box)[name].value for name in ("alpha", "N", "blocks", "order")}
    assert values == {
        "alpha": 3.0,
        "N": 3,
        "blocks": block_layers(run.profile.classifier, (3, 4, 5)),
        "order": "subtract_then_normalise",
    }
    assert all(name in view(box) for name in ("sheep", "cat", "mask"))


@pytest.mark.parametrize("make", [saliency_explorer, subtraction_explorer])
@pytest.mark.usefixtures("headless")
def test_headless_the_explorers_show_one_change_a_row(run: Run, make) -> None:
    first, *others = [axes.get_ylabel() for axes in make(run).axes if axes.get_ylabel()]
    assert len(others) == 4
    assert first.count("\n") > max(other.count("\n") for other in others)


@pytest.mark.usefixtures("headless")
def test_headless_the_explorer_of_the_crf_shows_each_value_turned_up(run: Run) -> None:
    first, *others = [axes.get_ylabel() for axes in crf_explorer(run).axes if axes.get_ylabel()]
    assert first.split("\n") == ["w1 1", "w2 1", "gamma alpha 30", "gamma beta 10", "gamma gamma 3"]
    assert [title.rsplit(" ", 1)[0] for title in others] == ["w1", "w2", "gamma alpha", "gamma beta", "gamma gamma"]


@pytest.mark.usefixtures("at_the_screen")
def test_the_values_of_the_crf_change_its_mask_and_nothing_else(run: Run) -> None:
    box = crf_explorer(run)
    image, without, refined = shown(box)[:3]
    for name in ("w1", "gamma_beta"):
        selectors(box)[name].index = len(selectors(box)[name].options) - 1
    turned = shown(box)[:3]
    np.testing.assert_array_equal(turned[:2], [image, without])
    assert (turned[2] != refined).any()
