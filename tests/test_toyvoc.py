"""The drawn devkit: determinism, ground truth, factors, and what is on disk."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsseg_core.base.config import ToyVocConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data import toyvoc
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.toy.coats import choose_coat
from wsseg_core.data.toy.composition import draw_scene
from wsseg_core.data.toy.objects import CLASSES, DRAW
from wsseg_core.data.toy.shapes import BODY, HEAD, bend, ellipse, smooth, stroke
from wsseg_core.data.toy.stage import Stage
from wsseg_core.data.toyvoc import RECIPE, ensure_toyvoc, image_id, redraw
from wsseg_core.data.voc import VocDevkit

SMALL = ToyVocConfig(train_images=5, val_images=2, image_size=64)
VOID = 255


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_toyvoc(tmp_path_factory.mktemp("toy") / "kit", SMALL)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def area(outline: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = outline.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_scene_is_the_same_every_time():
    first, second = draw_scene(3, "train", SMALL), draw_scene(3, "train", SMALL)
    for name in ("image", "mask", "parts", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.objects == second.objects


@pytest.mark.parametrize(("index", "split", "seed"), [(4, "train", 0), (3, "val", 0), (3, "train", 1)])
def test_index_split_and_seed_give_other_scenes(index, split, seed):
    here, there = draw_scene(3, "train", SMALL), draw_scene(index, split, replace(SMALL, seed=seed))
    assert (here.image != there.image).mean() > 0.5


def test_scene_drawn_alone_is_the_one_of_the_set(devkit):
    scene = draw_scene(2, "train", SMALL)
    kit = VocDevkit(devkit)
    name = image_id("train", 2)
    np.testing.assert_array_equal(VocMasks(kit).mask(name), scene.mask)
    np.testing.assert_array_equal(VocMasks(kit, "parts").mask(name), scene.parts)
    np.testing.assert_array_equal(kit.labels(name), scene.labels)
    assert np.abs(kit.image(name).astype(int) - scene.image).mean() < 8  # JPEG is lossy


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.01, 0.05]))
def test_ground_truth_agrees_with_itself(index, fraction):
    scene = draw_scene(index, "train", replace(SMALL, supersampling=1, min_label_fraction=fraction))
    assert scene.image.shape == (64, 64, 3)
    assert scene.image.dtype == scene.mask.dtype == scene.parts.dtype == scene.labels.dtype == np.uint8
    assert scene.labels.any()
    for value in range(1, len(CLASSES) + 1):
        pixels = np.count_nonzero(scene.mask == value)
        assert pixels >= max(1, fraction * scene.mask.size) if scene.labels[value - 1] else pixels == 0
    np.testing.assert_array_equal(scene.mask == VOID, scene.parts == VOID)
    np.testing.assert_array_equal(scene.mask == 0, scene.parts == 0)
    assert set(np.unique(scene.parts)) <= {0, HEAD, BODY, VOID}
    assert {item.name for item in scene.objects} == {CLASSES[k] for k in np.flatnonzero(scene.labels)}


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_boxes_hold_the_pixels_of_their_class(index):
    scene = draw_scene(index, "val", replace(SMALL, supersampling=1))
    for k in np.flatnonzero(scene.labels):
        boxed = np.zeros(scene.mask.shape, bool)
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert 1 <= left <= right <= 64
            assert 1 <= top <= bottom <= 64
            if item.name == CLASSES[k]:
                boxed[top - 1 : bottom, left - 1 : right] = True
        assert boxed[scene.mask == k + 1].all()


def test_no_object_touches_another_without_void_between():
    for index in range(20):
        mask = draw_scene(index, "train", SMALL).mask.astype(int)
        for one, other in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
            # the contour lies left of and above a change, so values differ only where one side is void
            assert ((one == other) | (one == VOID) | (other == VOID)).all()


@pytest.mark.parametrize("factor", ["camouflage", "inner_edges", "shadows", "light", "blur", "noise"])
def test_factors_of_appearance_leave_the_mask(factor):
    changed = 0
    for index in range(4):
        off, on = (draw_scene(index, "train", replace(SMALL, **{factor: value})) for value in (0.0, 1.0))
        np.testing.assert_array_equal(off.mask, on.mask)
        changed += (off.image != on.image).mean() > 0.05
    assert changed >= 2


def covered(config: ToyVocConfig, count: int = 12) -> np.ndarray:
    return np.stack([draw_scene(index, "train", config).mask for index in range(count)])


def test_occluders_only_take_pixels_away():
    free, hidden = (covered(replace(SMALL, occlusion=p, min_label_fraction=0.0)) for p in (0.0, 1.0))
    assert ((free == hidden) | (hidden == 0) | (hidden == VOID)).all()
    assert np.count_nonzero(hidden) < np.count_nonzero(free)


def test_object_size_and_head_ratio_do_what_they_say():
    small, large = (covered(replace(SMALL, object_size=(size, size))) for size in (0.4, 0.9))
    assert np.count_nonzero(large) > 2 * np.count_nonzero(small)
    heads = []
    for ratio in (0.5, 1.5):
        parts = np.stack([draw_scene(i, "train", replace(SMALL, head_to_body=ratio)).parts for i in range(12)])
        heads.append(np.count_nonzero(parts == HEAD) / np.count_nonzero(parts == BODY))
    assert heads[1] > 2 * heads[0]


def test_context_and_cooccurrence_do_what_they_say():
    alone = replace(SMALL, supersampling=1, object_counts=(1.0,), cooccurrence=0.0, occlusion=0.0)
    assert all(len(draw_scene(i, "train", alone).objects) == 1 for i in range(15))
    together = replace(alone, cooccurrence=1.0)
    assert any(len(draw_scene(i, "train", together).objects) == 2 for i in range(15))


def test_every_class_has_a_head_and_a_body():
    for name, draw in DRAW.items():
        rng = np.random.default_rng(0)
        figure = draw(rng, choose_coat(rng, name, 0.5))
        assert {shape.part for shape in figure.shapes} == {HEAD, BODY}
        before = sum(area(shape.outline) for shape in figure.shapes if shape.part == HEAD)
        figure.scale_head(2.0)
        after = sum(area(shape.outline) for shape in figure.shapes if shape.part == HEAD)
        assert after == pytest.approx(4 * before)


def test_outlines():
    assert area(ellipse(5, 5, 3, 2, 30)) == pytest.approx(np.pi * 6, rel=0.02)
    assert area(stroke([(0, 0), (10, 0)], 2)) == pytest.approx(20 + np.pi, rel=0.02)
    square = smooth([(0, 0), (4, 0), (4, 4), (0, 4)], at=(10, 0))
    assert 10 < area(square) < 16
    np.testing.assert_allclose(square.mean(axis=0), (12, 2))
    np.testing.assert_allclose(bend([(0, 0), (5, 5), (9, 1)])[[0, -1]], [(0, 0), (9, 1)])


def test_tree_is_a_devkit(devkit):
    kit = VocDevkit(devkit)
    assert kit.classes == CLASSES
    assert kit.ids("train") == [f"toy_train_{i:05d}" for i in range(5)]
    assert kit.ids("val") == ["toy_val_00000", "toy_val_00001"]
    annotation = ElementTree.parse(devkit / "Annotations" / "toy_val_00001.xml").getroot()
    assert annotation.findtext("filename") == "toy_val_00001.jpg"
    assert annotation.findtext("size/width") == "64"
    boxes = [[int(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")] for box in annotation.iter("bndbox")]
    assert boxes == [list(item.box) for item in draw_scene(1, "val", SMALL).objects]
    with Image.open(devkit / "SegmentationClass" / "toy_val_00001.png") as mask:
        assert mask.mode == "P"


def test_whole_devkit_is_left_alone(devkit, monkeypatch):
    monkeypatch.setattr(toyvoc, "parallel_map", lambda *args, **kwargs: pytest.fail("drawn again"))
    before = {path: path.stat().st_mtime_ns for path in devkit.rglob("*")}
    ensure_toyvoc(devkit, SMALL)
    assert {path: path.stat().st_mtime_ns for path in devkit.rglob("*")} == before


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The images drawn, in this process, since the test began."""
    items = []

    def sequential(function, wanted, **_):
        for item in wanted:
            items.append(image_id(*item))
            yield function(item)

    monkeypatch.setattr(toyvoc, "parallel_map", sequential)
    return items


def test_only_missing_and_damaged_images_are_drawn_again(tmp_path, drawn):
    whole = content(ensure_toyvoc(tmp_path, SMALL))
    drawn.clear()
    (tmp_path / "JPEGImages" / "toy_train_00001.jpg").unlink()
    os.truncate(tmp_path / "SegmentationParts" / "toy_val_00000.png", 10)
    (tmp_path / "classes.txt").unlink()
    ensure_toyvoc(tmp_path, SMALL)
    assert drawn == ["toy_train_00001", "toy_val_00000"]
    assert content(tmp_path) == whole


def test_killed_run_goes_on_where_it_was(tmp_path, drawn, monkeypatch):
    whole = content(ensure_toyvoc(tmp_path / "whole", SMALL))
    drawn.clear()
    with monkeypatch.context() as patch:
        write = toyvoc._write_scene

        def killed(root, config, item):
            if item == ("train", 3):
                raise KeyboardInterrupt
            write(root, config, item)

        patch.setattr(toyvoc, "_write_scene", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure_toyvoc(tmp_path / "killed", SMALL)
    drawn.clear()
    ensure_toyvoc(tmp_path / "killed", SMALL)
    assert drawn == ["toy_train_00003", "toy_train_00004", "toy_val_00000", "toy_val_00001"]
    assert content(tmp_path / "killed") == whole


def test_processes_change_nothing(tmp_path, devkit, drawn):
    assert content(ensure_toyvoc(tmp_path, SMALL)) == content(devkit)


@pytest.mark.parametrize("change", ["recipe", "record"])
def test_another_recipe_starts_anew(tmp_path, drawn, monkeypatch, change):
    ensure_toyvoc(tmp_path, SMALL)
    drawn.clear()
    if change == "recipe":
        monkeypatch.setattr(toyvoc, "RECIPE", -1)
    if change == "record":
        (tmp_path / "toyvoc.json").write_text("{")
    ensure_toyvoc(tmp_path, SMALL)
    assert len(drawn) == SMALL.train_images + SMALL.val_images
    assert len(list((tmp_path / "JPEGImages").iterdir())) == len(drawn)
    assert json.loads((tmp_path / "toyvoc.json").read_text())["config"]["train_images"] == SMALL.train_images


@pytest.mark.parametrize("whole", [True, False])
def test_scenes_with_other_factors_are_not_drawn_over(tmp_path, drawn, whole):
    ensure_toyvoc(tmp_path, SMALL)
    if not whole:
        (tmp_path / "JPEGImages/toy_val_00000.jpg").unlink()
    before = content(tmp_path)
    message = "drawn with occlusion = 0.3, but the profile says 1.0; give the profile a data.devkit of its own"
    with pytest.raises(WorkbookError, match=re.escape(f"{tmp_path}: {message}")):
        ensure_toyvoc(tmp_path, replace(SMALL, occlusion=1.0))
    assert content(tmp_path) == before


def test_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(WorkbookError, match="not drawn here"):
        ensure_toyvoc(tmp_path, SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbookError, match="not drawn here"):
        ensure_toyvoc(tmp_path / "file", SMALL)


def test_unwritable_folder_is_named():
    with pytest.raises(WorkbookError, match="cannot be written") as error:
        ensure_toyvoc(Path("/proc/toyvoc"), SMALL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"occlusion": 1.5}, {"image_size": 8}, {"noise": float("nan")}, {"blur": -1.0}, {"seed": -1}, {"clutter": "many"},
     {"object_counts": (0.5, 0.2)}, {"object_counts": ()}, {"object_size": (1.0, 0.5)}, {"train_images": 0}],
)  # fmt: skip
def test_nonsense_is_refused_by_its_name(wrong):
    with pytest.raises(WorkbookError, match=f"toyvoc.{next(iter(wrong))} "):
        ToyVocConfig(**wrong)


def test_scene_that_can_have_no_label_is_refused():
    with pytest.raises(WorkbookError, match="min_label_fraction"):
        draw_scene(0, "train", replace(SMALL, object_size=(0.1, 0.1), min_label_fraction=0.5, supersampling=1))


@pytest.mark.parametrize("changes", [{"image_size": 32, "supersampling": 1}, {"image_size": 50, "supersampling": 3},
                                     {"object_size": (3.0, 3.0)}, {"clutter": 20, "blur": 5.0}])  # fmt: skip
def test_extremes_can_be_drawn(changes):
    config = replace(SMALL, **changes)
    for index in range(5):
        assert draw_scene(index, "train", config).mask.shape == (config.image_size,) * 2


def names_and_boxes(config: ToyVocConfig, count: int = 12) -> list:
    return [[(item.name, item.box) for item in draw_scene(index, "val", config).objects] for index in range(count)]


def test_of_the_factors_of_the_lab_only_cooccurrence_changes_who_is_there():
    lone = replace(SMALL, object_counts=(0.2, 0.4, 0.4), occlusion=0.0, min_label_fraction=0.0)
    usual = [[name for name, _ in objects] for objects in names_and_boxes(lone)]
    for changes in (
        {"camouflage": 1.0},
        {"clutter": 12},
        {"noise": 40.0},
        {"head_to_body": 0.5},
        {"head_to_body": 1.5},
    ):
        assert [[name for name, _ in objects] for objects in names_and_boxes(replace(lone, **changes))] == usual
    assert [[name for name, _ in objects] for objects in names_and_boxes(replace(lone, cooccurrence=1.0))] != usual


def test_clutter_is_added_to_the_clutter_that_is_there(monkeypatch):
    put, asked = Stage.put_thing, []
    monkeypatch.setattr(Stage, "put_thing", lambda self, ratio, *rest: asked.append(ratio) or put(self, ratio, *rest))
    more = 0
    for index in range(8):
        things = []
        for clutter in (4, 12):
            asked.clear()
            draw_scene(index, "val", replace(SMALL, clutter=clutter, occlusion=0.0))
            things.append([*asked])
        assert things[1][: len(things[0])] == things[0]
        more += len(things[1]) - len(things[0])
    assert more > 8


@pytest.mark.parametrize("heads", [0.5, 1.5])
def test_under_other_heads_every_object_keeps_its_size_and_place(heads, monkeypatch):
    """The second and the third too, which are drawn after a figure that takes another number of random numbers."""
    put, asked = Stage.put_group, []

    def recorded(self, names, ratio, centre, rng):
        if self.config.head_to_body == wanted:
            asked.append((names, ratio, *centre))
        put(self, names, ratio, centre, rng)

    monkeypatch.setattr(Stage, "put_group", recorded)
    row = replace(SMALL, object_counts=(0.0, 0.0, 1.0), occlusion=0.0, min_label_fraction=0.0)
    for index in range(6):
        drawn = []
        for wanted in (1.0, heads):
            asked.clear()
            draw_scene(index, "val", replace(row, head_to_body=wanted))
            drawn.append([*asked])
        assert len(drawn[0]) >= 2
        assert drawn[0] == drawn[1]


def test_a_scene_that_is_drawn_again_is_the_one_on_disk(devkit):
    kit = VocDevkit(devkit)
    for name in ("toy_train_00003", "toy_val_00001"):
        scene = redraw(name, SMALL)
        np.testing.assert_array_equal(scene.image, kit.image(name))
        np.testing.assert_array_equal(scene.mask, VocMasks(kit).mask(name))
    assert (redraw("toy_val_00001", replace(SMALL, noise=40.0)).image != kit.image("toy_val_00001")).any()


@pytest.mark.parametrize("name", ["2007_000032", "toy_test_00001", "toy_val_1"])
def test_what_was_not_drawn_cannot_be_drawn_again(name):
    with pytest.raises(WorkbookError, match=f"{name}: not the id of a drawn scene; use one like toy_val_00000"):
        redraw(name, SMALL)


def test_only_scenes_with_other_heads_have_another_recipe():
    assert toyvoc._record(SMALL)["recipe"] == RECIPE
    assert toyvoc._record(replace(SMALL, head_to_body=0.5))["recipe"] != RECIPE
