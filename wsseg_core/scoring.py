"""Score many settings of DCSM on the same images: the evaluation side of notebooks 03 and 04.

Only here and in `wsseg_core.metrics` are predictions and true masks brought together; nothing that trains or infers
imports this module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from wsseg_core.artifacts import ArtifactStore
from wsseg_core.data.voc import VocMasks
from wsseg_core.dcsm import SavedMaps, Setting
from wsseg_core.metrics import TEST_PROTOCOL, Scores, confusion_matrix
from wsseg_core.parallel import parallel_map
from wsseg_core.runs import Run


def score_settings(
    run: Run, name: str, ids: Sequence[str], split: str, settings: Sequence[Setting], made_by: str
) -> dict[str, Scores]:
    """Score many settings on the same images, all cores, image by image; what a killed run had is kept.

    Args:
        run: the run.
        name: of the folder under `artifacts/scores`.
        ids: images to score; their masks are read here, in the worker processes.
        split: what the tables call these images.
        settings: one row each.
        made_by: the notebook.

    Returns:
        Scores by the names of the settings, test protocol.
    """
    record = [asdict(setting) for setting in settings]
    values = run.settings("scoring", split=split, rows=record, classifier=run.profile.classifier.threshold)
    store = ArtifactStore.create(run.artifacts("scores") / name, values, made_by)
    missing = store.missing(ids)
    if missing:
        work = partial(_score_image, saved=SavedMaps(run), settings=settings, store=store)
        for _ in parallel_map(work, missing, description=f"scoring {name}"):
            pass
    return load_scores(run, store, ids)


def _score_image(image_id: str, saved: SavedMaps, settings: Sequence[Setting], store: ArtifactStore) -> None:
    maps = saved.of(image_id)
    truth, classes = VocMasks(saved.devkit).mask(image_id), saved.devkit.num_classes
    confusions = [confusion_matrix(truth, maps.mask(setting), classes) for setting in settings]
    store.save(image_id, confusions=np.stack(confusions))  # (rows, C+1, C+1)


def load_scores(run: Run, store: ArtifactStore, ids: Sequence[str]) -> dict[str, Scores]:
    """Read back the scores of a store that `score_settings` filled."""
    confusions = np.stack([store.load(image_id)["confusions"] for image_id in ids])  # (n, rows, C+1, C+1)
    common = {
        "split": store.record["settings"]["split"],
        "protocol": TEST_PROTOCOL,
        "void": "left out",
        "pretraining": run.profile.classifier.weights,
        "seed": run.seed,
        "profile": run.profile.name,
    }
    rows = [row | {"crf": crf_text(row["crf"], row["crf_source"])} for row in store.record["settings"]["rows"]]
    return {
        row["name"]: Scores(row["name"], tuple(ids), confusions[:, index], common | row)
        for index, row in enumerate(rows)
    }


def crf_text(values: Mapping[str, float] | None, source: str = "") -> str:
    """The CRF of a row in a few characters: w1/w2/gamma_alpha/gamma_beta/gamma_gamma, iterations, source."""
    if values is None:
        return "none"
    names = ("w1", "w2", "gamma_alpha", "gamma_beta", "gamma_gamma")
    text = "/".join(f"{values[name]:g}" for name in names) + f", {values['iterations']} iterations"
    return f"{text}; {source}" if source else text
