"""The ground-truth firewall: nothing that trains or infers opens a pixel mask."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wsseg_core.affinity.cam import extract_cams, load_cam, train_cam
from wsseg_core.affinity.psa import extract_walks, load_affinity, make_affinity_labels, train_affinity
from wsseg_core.affinity.seeds import seed_masks, seed_setting
from wsseg_core.base.dependencies import PACKAGE, module_closure, read_cells
from wsseg_core.classify.classifier import LabelledImages, load_classifier, train_classifier
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.run import Run
from wsseg_core.evaluate.methods import method_settings
from wsseg_core.forward.class_maps import extract_score_maps
from wsseg_core.forward.forward_backward import ForwardMaps
from wsseg_core.forward.zoom_out import extract_class_maps, train_zoom_out
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.refine.dynamic_stage import NOTEBOOK as DYNAMIC
from wsseg_core.refine.dynamic_stage import dynamic_settings, load_dynamic, train_dynamic
from wsseg_core.refine.static_stage import NOTEBOOK as STATIC
from wsseg_core.refine.static_stage import refine_masks, static_setting, train_static
from wsseg_core.saliency.dcsm import SavedMaps, segment_image
from wsseg_core.saliency.dcsm_seeds import dcsm_masks
from wsseg_core.saliency.extraction import classify, extract, planned_extractions
from wsseg_core.saliency.gradients import prepare
from wsseg_core.segment.predictions import extract_predictions
from wsseg_core.segment.retraining import train_segmentation

NOTEBOOKS = [
    path
    for folder in ("notebooks", "notebooks/solutions")
    for path in sorted((PACKAGE.parent / folder).glob("*.ipynb"))
]
READING_MASKS = re.compile(
    r"VocMasks|true_masks?|_explorer\(|factor_study\(|irregular_sweep\(|result_minus_seed\(|best_background\(|score_(masks|settings|reliability|parts)"
)
READERS_OF_MASKS = {
    "data.masks",
    "data.check",
    "evaluate.irregular_seeds",
    "evaluate.metrics",
    "evaluate.one_image",
    "evaluate.scoring",
    "segment.upper_bound",
}
LEARNING_ROOMS = ("nets", "classify", "crf", "saliency", "forward", "affinity", "segment", "refine")

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
    dynamic = dynamic_settings()[0]
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
    files = [path for room in LEARNING_ROOMS for path in (PACKAGE / room).glob("*.py")]
    learners = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files}
    closure = module_closure(learners - {"wsseg_core.segment.upper_bound"})
    assert len(closure) > len(files)
    assert not [name for name in closure if name.startswith("wsseg_core.evaluate") or "masks" in name]
    assert "wsseg_core.segment.upper_bound" not in closure


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_notebooks_read_masks_in_cells_marked_as_evaluation(notebook: Path) -> None:
    for cell in read_cells(notebook):
        if cell["cell_type"] == "code" and READING_MASKS.search(cell["source"]):
            assert "evaluation" in cell["metadata"].get("tags", []), cell["source"]
