"""Score many settings on the same images: the evaluation side of the notebooks.

Predictions and true masks are brought together in this room alone; nothing that trains or infers imports it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.parallel import FEW_IMAGES, FEW_MASKS, parallel_map
from wsseg_core.data.masks import PART_VALUES, VocMasks
from wsseg_core.data.run import Run
from wsseg_core.data.voc import VocDevkit
from wsseg_core.evaluate.calibration import BINS, Reliability, reliability_counts
from wsseg_core.evaluate.metrics import (
    SEED_PROTOCOL,
    TEST_PROTOCOL,
    VOID,
    Scores,
    bootstrap_sums,
    boundary_band,
    confusion_matrix,
    percentile_interval,
)
from wsseg_core.saliency.dcsm import ImageMaps, SavedMaps, Setting

BOUNDARY_WIDTH = 5  # pixels to either side of a true border; VOC's void borders take about 2 of them
TrueMask = Callable[[str], np.ndarray]  # the mask of an image, by kind: "class" or "parts"
Measure = Callable[[Any, TrueMask, Sequence[Any]], np.ndarray]


class Source(Protocol):
    """Where the maps of images come from: `dcsm.SavedMaps`, `forward_maps.ForwardMaps`.

    Attributes:
        devkit: the data set.
        known_labels: the image-level labels decide which classes are drawn, not the classifier.
        depends_on: what the maps depend on, but for the settings that are scored.
    """

    devkit: VocDevkit
    known_labels: bool
    depends_on: Mapping[str, Any]

    def of(self, image_id: str) -> Any:
        """Maps of one image, with a method `masks` that takes settings; see `dcsm.ImageMaps`."""


def score_settings(
    run: Run,
    name: str,
    ids: Sequence[str],
    split: str,
    settings: Sequence[Any],
    made_by: str,
    source: Source | None = None,
) -> dict[str, Scores]:
    """Score many settings on the same images, all cores, image by image; what a killed run had is kept.

    Args:
        run: the run.
        name: of the folder under `artifacts/scores`.
        ids: images to score; their masks are read here, in the worker processes.
        split: what the tables call these images.
        settings: one row each.
        made_by: the notebook.
        source: of the maps; those of notebook 02, drawn in the test protocol, when left out.

    Returns:
        Scores by the names of the settings; NaN, which is said, where no image has a mask.
    """
    scores = load_scores(run, _measure_all(run, name, ids, split, settings, made_by, _confusions, source), ids)
    if not any(row.confusions.any() for row in scores.values()):
        print(f"{name}: not scored, as no image of {split} has a mask")
    return scores


def score_boundaries(
    run: Run,
    name: str,
    ids: Sequence[str],
    split: str,
    settings: Sequence[Any],
    made_by: str,
    source: Source | None = None,
) -> dict[str, Scores]:
    """The same, of the pixels within `BOUNDARY_WIDTH` of a true border alone; arguments of `score_settings`.

    Returns:
        Scores by the names of the settings, whose mean IoU is the boundary IoU.
    """
    store = _measure_all(run, name, ids, split, settings, made_by, _boundary_confusions, source)
    return load_scores(run, store, ids)


def score_reliability(
    run: Run, name: str, ids: Sequence[str], split: str, settings: Sequence[Setting], made_by: str
) -> dict[str, Reliability]:
    """Compare the probabilities of the labels drawn with how often they are right; arguments of `score_settings`.

    Returns:
        Counts by the names of the settings.
    """
    store = _measure_all(run, name, ids, split, settings, made_by, _reliabilities)
    counts = np.stack([store.load(image_id)["measured"] for image_id in ids])  # (n, rows, bins, 3)
    return {setting.name: Reliability(counts[:, index]) for index, setting in enumerate(settings)}


def score_parts(
    run: Run, name: str, ids: Sequence[str], split: str, settings: Sequence[Setting], made_by: str, samples: int = 1000
) -> pd.DataFrame:
    """How much of each part of the objects is drawn in the right class; arguments of `score_settings`.

    Args:
        samples: resamples of the bootstrap.

    Returns:
        Columns `row`, `part` ("head", "body"), `ours`, `low`, `high`: percent of the pixels of the part over all
        images, with its 95 % interval.
    """
    store = _measure_all(run, name, ids, split, settings, made_by, _part_counts)
    counts = np.stack([store.load(image_id)["measured"] for image_id in ids])  # (n, rows, parts, 2)
    totals, draws = counts.sum(0), bootstrap_sums(counts, samples, run.seed)
    lines = []
    for row, setting in enumerate(settings):
        for column, part in enumerate(PART_VALUES):
            interval = percentile_interval(_share(totals[row, column]), _share(draws[:, row, column]))
            lines.append([setting.name, part, interval.value, interval.low, interval.high])
    return pd.DataFrame(lines, columns=["row", "part", "ours", "low", "high"])


def _share(counts: np.ndarray) -> Any:
    """Percent of the second count that the first is, counts (..., 2); NaN of nothing."""
    with np.errstate(invalid="ignore"):
        return 100 * counts[..., 0] / counts[..., 1]


def _measure_all(
    run: Run,
    name: str,
    ids: Sequence[str],
    split: str,
    settings: Sequence[Any],
    made_by: str,
    measure: Measure,
    source: Source | None = None,
) -> ArtifactStore:
    maps: Source = source or SavedMaps(run)
    values = _depends_on(run, maps) | {"split": split, "rows": [asdict(setting) for setting in settings]}
    store = ArtifactStore.create(run.artifacts("scores") / name, values, made_by)
    missing = store.missing(ids)
    if missing:
        work = partial(_measure_image, source=maps, settings=settings, store=store, measure=measure)
        with_crf = any(setting.crf for setting in settings)
        few = FEW_IMAGES if with_crf else FEW_MASKS // max(len(settings), 1)
        for _ in parallel_map(work, missing, description=f"scoring {name}", few=few):
            pass
    return store


def _depends_on(run: Run, source: Source) -> dict[str, Any]:
    """What the scores depend on, but for the settings themselves."""
    protocol = SEED_PROTOCOL if source.known_labels else TEST_PROTOCOL
    return run.settings("evaluate.scoring", maps=source.depends_on, protocol=protocol)


def _measure_image(
    image_id: str, source: Source, settings: Sequence[Any], store: ArtifactStore, measure: Measure
) -> None:
    truth = partial(_true_mask, source.devkit, image_id)
    store.save(image_id, measured=measure(source.of(image_id), truth, settings))


def _true_mask(devkit: VocDevkit, image_id: str, kind: str) -> np.ndarray:
    return VocMasks(devkit, kind).mask(image_id)


def _confusions(maps: ImageMaps, truth: TrueMask, settings: Sequence[Setting]) -> np.ndarray:
    """int64 (rows, C+1, C+1)."""
    true_mask, classes = truth("class"), len(maps.probabilities)
    return np.stack([confusion_matrix(true_mask, mask, classes) for mask in maps.masks(settings)])


def _boundary_confusions(maps: ImageMaps, truth: TrueMask, settings: Sequence[Setting]) -> np.ndarray:
    """int64 (rows, C+1, C+1)."""
    true_mask, classes = truth("class"), len(maps.probabilities)
    banded = np.where(boundary_band(true_mask, BOUNDARY_WIDTH), true_mask, VOID)
    return np.stack([confusion_matrix(banded, mask, classes) for mask in maps.masks(settings)])


def _part_counts(maps: ImageMaps, truth: TrueMask, settings: Sequence[Setting]) -> np.ndarray:
    """int64 (rows, parts, 2): pixels drawn in the right class, and all; void pixels of the class mask do not count."""
    true_mask, parts = truth("class"), truth("parts")
    inside = [(parts == value) & (true_mask != VOID) for value in PART_VALUES.values()]
    rows = [[((mask == true_mask) & pixels).sum() for pixels in inside] for mask in maps.masks(settings)]
    return np.stack([np.array(rows), np.broadcast_to([pixels.sum() for pixels in inside], np.shape(rows))], axis=2)


def _reliabilities(maps: ImageMaps, truth: TrueMask, settings: Sequence[Setting]) -> np.ndarray:
    """float64 (rows, bins, 3); an image without any detected class has nothing to be sure of and counts nothing."""
    if not maps.targets:
        return np.zeros((len(settings), BINS, 3))
    true_mask, values = truth("class"), np.concatenate([[0], maps.classes + 1]).astype(np.uint8)
    return np.stack([reliability_counts(maps.label_probabilities(setting), values, true_mask) for setting in settings])


def read_scores(
    run: Run, name: str, ids: Sequence[str], made_by: str, source: Source | None = None
) -> dict[str, Scores]:
    """Read the scores that another notebook left with `score_settings`, from the same source.

    Raises:
        WorkbookError: it has not run, or ran under other settings.
    """
    values = _depends_on(run, source or SavedMaps(run))
    return load_scores(run, ArtifactStore.open(run.artifacts("scores") / name, made_by, values), ids)


def load_scores(run: Run, store: ArtifactStore, ids: Sequence[str]) -> dict[str, Scores]:
    """Read back the scores of a store that `score_settings` filled."""
    confusions = np.stack([store.load(image_id)["measured"] for image_id in ids])  # (n, rows, C+1, C+1)
    common = {
        "split": store.record["settings"]["split"],
        "classes": run.devkit.class_list,
        "protocol": store.record["settings"]["protocol"],
        "void": "left out",
        "pretraining": run.profile.classifier.weights,
        "seed": run.seed,
        "profile": run.profile.name,
    }
    rows = [row | {"crf": _crf_of(row)} for row in store.record["settings"]["rows"]]
    return {
        row["name"]: Scores(row["name"], tuple(ids), confusions[:, index], common | row)
        for index, row in enumerate(rows)
    }


def _crf_of(row: Mapping[str, Any]) -> str:
    superpixels = row.get("superpixel_crf")
    if superpixels:
        return f"superpixels, {superpixels['weight']:g}/{superpixels['gamma_beta']:g}"
    return crf_text(row["crf"], row["crf_source"])


def crf_text(values: Mapping[str, float] | None, source: str = "") -> str:
    """The CRF of a row in a few characters: w1/w2/gamma_alpha/gamma_beta/gamma_gamma, iterations, source."""
    if values is None:
        return "none"
    names = ("w1", "w2", "gamma_alpha", "gamma_beta", "gamma_gamma")
    text = "/".join(f"{values[name]:g}" for name in names) + f", {values['iterations']} iterations"
    if values["max_side"]:
        text += f", {values['max_side']} px"
    return f"{text}; {source}" if source else text
