"""The ground-truth firewall: nothing that trains or infers opens a pixel mask."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsseg_core.cam import extract_cams, load_cam, train_cam
from wsseg_core.classifier import LabelledImages, load_classifier, train_classifier
from wsseg_core.data.voc import VocMasks
from wsseg_core.dcsm import SavedMaps, segment_image
from wsseg_core.dcsm_seeds import dcsm_masks
from wsseg_core.dependencies import PACKAGE, module_closure, read_cells
from wsseg_core.dynamic_refinement import NOTEBOOK as DYNAMIC
from wsseg_core.dynamic_refinement import dynamic_settings, load_dynamic, train_dynamic
from wsseg_core.extraction import classify, extract, planned_extractions
from wsseg_core.forward_backward import ForwardMaps
from wsseg_core.forward_maps import extract_score_maps
from wsseg_core.methods import method_settings
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.predictions import extract_predictions
from wsseg_core.psa import extract_walks, load_affinity, make_affinity_labels, train_affinity
from wsseg_core.runs import Run
from wsseg_core.saliency import prepare
from wsseg_core.seeds import seed_masks, seed_setting
from wsseg_core.segmentation import train_segmentation
from wsseg_core.static_refinement import NOTEBOOK as STATIC
from wsseg_core.static_refinement import refine_masks, static_setting, train_static
from wsseg_core.zoomout import extract_class_maps, train_zoom_out

NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))
READING_MASKS = re.compile(r"VocMasks|true_masks|score_(masks|settings|reliability|parts)")
READERS_OF_MASKS = {"data.voc", "data.check", "metrics", "scoring", "upper_bound"}
LEARNERS = [
    *("classifier", "training", "extraction", "dcsm", "segment", "saliency", "subtraction", "crf"),
    *("forward_maps", "forward_backward", "zoomout", "misvm", "superpixel_crf", "methods"),
    *("affinity", "random_walk", "difference", "nets.affinity", "nets.difference", "nets.segmentation"),
    *("cam", "psa", "seeds", "dcsm_seeds", "segmentation", "predictions"),
    *("nets.static", "nets.dynamic", "static_refinement", "crf_pool", "dynamic_step", "dynamic_refinement"),
]

_guard = {"closed": False}


class MaskOpened(Exception):
    """A pixel mask was opened where none may be."""


def _watch(event: str, arguments: tuple) -> None:
    if event == "open" and _guard["closed"] and re.search(r"Segmentation(Class|Parts|Object)", str(arguments[0])):
        raise MaskOpened(arguments[0])


sys.addaudithook(_watch)  # an audit hook sees every file that the interpreter opens, and cannot be taken away again


@contextlib.contextmanager
def closed_firewall() -> Iterator[None]:
    _guard["closed"] = True
    try:
        yield
    finally:
        _guard["closed"] = False


def train_and_infer(run: Run) -> None:
    train_classifier(run)
    model = prepare(fold_batch_norm(load_classifier(run)), run.profile.saliency.precision)
    classify(run, model, run.val_ids)
    for extraction in planned_extractions(run.profile):
        extract(run, model, run.val_ids, extraction)
    segment_image(model, run.devkit.image(run.val_ids[0]), run.profile, threshold=0.0)
    extract_score_maps(run, model, run.val_ids)
    train_zoom_out(run, model, workers=1)
    extract_class_maps(run, model, run.val_ids)
    maps = ForwardMaps(run, SavedMaps(run, known_labels=True))
    for image_id in run.val_ids:
        maps.of(image_id).masks(method_settings(run.profile))


def refine_seeds(run: Run) -> None:
    """From CAMs to the dynamic stage."""
    train_classifier(run)
    train_cam(run)
    extract_cams(run, load_cam(run), run.train_ids)
    make_affinity_labels(run, run.train_ids)
    train_affinity(run)
    extract_walks(run, load_affinity(run), run.train_ids)
    for crf in (False, True):
        seed_masks(run, run.train_ids, seed_setting(run.profile, "psa", crf))
    dcsm_masks(run, run.train_ids, STATIC)
    train_static(run)
    (static,) = refine_masks(run, [static_setting(run.profile)], run.train_ids).values()
    train_segmentation(run, "static", static, STATIC)
    dynamic = dynamic_settings(run.profile)[0]
    train_dynamic(run, dynamic, static, "static", STATIC, workers=1)
    extract_predictions(run, dynamic.name, run.val_ids, DYNAMIC, load_dynamic(run, dynamic))


@pytest.mark.parametrize("stages", [train_and_infer, refine_seeds])
def test_training_and_inference_open_no_mask(run: Run, stages: Callable[[Run], None]) -> None:
    with closed_firewall():
        stages(run)


def test_the_firewall_notices_a_leak_in_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = LabelledImages.__getitem__

    def leaking(self, key):
        VocMasks(self.devkit).mask(self.ids[key[1]])
        return honest(self, key)

    monkeypatch.setattr(LabelledImages, "__getitem__", leaking)
    with closed_firewall(), pytest.raises(MaskOpened):
        train_and_infer(run)


def test_training_and_inference_work_where_there_is_no_mask(run: Run, tiny_devkit: Path) -> None:
    for mask in tiny_devkit.glob("Segmentation*/*.png"):
        mask.unlink()
    train_and_infer(run)


def test_only_evaluation_imports_the_reader_of_masks() -> None:
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "VocMasks" in path.read_text(encoding="utf-8")
    }
    assert found == READERS_OF_MASKS


def test_nothing_that_learns_imports_the_evaluation() -> None:
    closure = module_closure([f"wsseg_core.{name}" for name in LEARNERS])
    assert len(closure) > len(LEARNERS)
    evaluation = ("scoring", "metrics", "verdicts", "upper_bound")
    assert not closure.keys() & {f"wsseg_core.{name}" for name in evaluation}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_read_masks_in_cells_marked_as_evaluation(notebook: Path) -> None:
    for cell in read_cells(notebook):
        if cell["cell_type"] == "code" and READING_MASKS.search(cell["source"]):
            assert "evaluation" in cell["metadata"].get("tags", []), cell["source"]
