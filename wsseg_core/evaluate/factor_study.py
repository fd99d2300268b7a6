"""What a factor of the drawn scenes does to the method when the classifier is trained on such scenes (notebook 11).

For the factors of the profile, and for both ends of each factor of the table `[factors]`, a small devkit is drawn, the
classifier is trained with the recipe of the profile, and its maps are scored on the validation scenes: DCSM in the
test protocol, without a CRF, at the smallest of the profile's input sizes, so that a study takes minutes.

Validation scene i of one value and scene i of another are the same scene drawn anew (`data.toy.composition.draw_scene`
says what stays), and the pairs of different i are independent draws. A difference is therefore judged by the paired
bootstrap over i, also for the co-occurrence, where the two scenes of a pair may share no more than their surroundings.
An interval is over images: each value has one training.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import FeaturesConfig, Profile
from wsseg_core.base.parallel import parallel_map, side_by_side
from wsseg_core.classify.classifier import load_classifier, mean_average_precision_interval, train_classifier
from wsseg_core.data.run import Run, project_root
from wsseg_core.data.toy.objects import CLASSES
from wsseg_core.data.toyvoc import image_id
from wsseg_core.evaluate.metrics import TEST_PROTOCOL, Scores, confusion_matrix, paired_bootstrap
from wsseg_core.evaluate.one_image import true_mask
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import ImageMaps, Setting, dcsm_setting, live_maps, live_score_map
from wsseg_core.saliency.gradients import prepare

NOTEBOOK = "11_factor_lab"
FACTORS = ("occlusion", "camouflage", "head_to_body", "cooccurrence", "clutter", "noise")
NO_FACTORS = "These images are not drawn, so that there is no factor to turn; the profile toy has scenes that are."
COLUMNS = ("factor", "value", "own", "mAP", "mAP low", "mAP high", "ours", "low", "high", "difference",
           "difference low", "difference high")  # fmt: skip
OWN = "profile"  # name of the training with the profile's own factors
FEW = 8  # images that one process measures sooner than others start


def has_factors(run: Run) -> bool:
    """Whether the images of a run are drawn scenes."""
    return run.profile.data.source == "toyvoc"


def factor_values(profile: Profile, factor: str) -> list[float]:
    """The values of a factor that are compared, in order: low end, the profile's own, high end; each once."""
    return sorted({*getattr(profile.factors, factor), getattr(profile.toyvoc, factor)})


def lab_setting(profile: Profile) -> Setting:
    """DCSM of a profile at the smallest of its input sizes, without a CRF."""
    return dcsm_setting(profile, sizes=(min(profile.saliency.sizes),))


def lab_model(run: Run) -> nn.Module:
    """The trained classifier of a run, as `live_maps` takes it.

    Raises:
        WorkbookError: it is not trained, or not under these settings.
    """
    return prepare(fold_batch_norm(load_classifier(run)), run.profile.saliency.precision)


def lab_maps(model: nn.Module, image: np.ndarray, profile: Profile) -> ImageMaps:
    """Maps of an image, uint8 (H, W, 3), of the classes that the classifier detects in it (test protocol)."""
    score_map = live_score_map(model, image, profile.data.image_size)
    return live_maps(model, image, score_map, profile, profile.classifier.threshold)


def factor_run(run: Run, name: str, **changes: float) -> Run:
    """A run on scenes with other factors, in a folder below that of a run.

    Args:
        run: whose recipe it takes, shortened as its table `[factors]` says.
        name: of the folder.
        changes: factors of `ToyVocConfig`.
    """
    profile, lab, folder = run.profile, run.profile.factors, run.artifacts("factors_drawn") / name
    drawn = {"train_images": lab.train_images, "val_images": lab.val_images} | changes
    # From the workbook's folder, so that a run that is packed and unpacked elsewhere is still the same.
    devkit = os.path.relpath(folder / "devkit", project_root())
    data = replace(profile.data, devkit=devkit, max_train_images=0, max_val_images=0)
    steps = {phase: min(getattr(profile.classifier, phase), lab.steps) for phase in ("head_steps", "steps")}
    base = profile.data.image_size
    changed = replace(
        profile,
        data=data,
        toyvoc=replace(profile.toyvoc, **drawn),  # type: ignore[arg-type]
        classifier=replace(profile.classifier, **steps),
        features=FeaturesConfig((base,) if base in profile.features.sizes else ()),
    )
    return replace(run, profile=changed, folder=folder / "run")


def factor_study(run: Run) -> pd.DataFrame:
    """Train and score with each value of each factor; what is on disk is not computed again.

    The scenes, features and weights of a training are deleted once its scores are there.

    Args:
        run: of a profile with drawn scenes; of another one the study is empty, which is said in a line.

    Returns:
        One row a value of a factor, in the order of `FACTORS` and ascending: `factor`; `value`; `own`, whether it is
        the profile's; in percent `mAP`, mean average precision, with `mAP low` and `mAP high`, and `ours`, mean IoU,
        with `low` and `high`; and `difference`, how much the mean IoU differs from that with the profile's own value,
        in points, with `difference low` and `difference high`; 0 for that value itself. All intervals are of 95 %.

    Raises:
        WorkbookError: a folder cannot be written.
    """
    if not has_factors(run):
        print(NO_FACTORS)
        return pd.DataFrame(columns=list(COLUMNS))
    trainings: dict[str, dict[str, float]] = {OWN: {}}
    table = [(factor, value) for factor in FACTORS for value in factor_values(run.profile, factor)]
    trainings |= {_name_of(run, *cell): {cell[0]: cell[1]} for cell in table if _name_of(run, *cell) != OWN}
    missing = [item for item in trainings.items() if _missing(run, *item)]
    side_by_side(partial(_train_and_measure, run=run), missing, description="trainings of the factor study")
    measured = {name: _measured(run, name, **changes) for name, changes in trainings.items()}
    names = [_name_of(run, *cell) for cell in table]
    rows = [
        (*cell, name == OWN, *_row(run, measured[name], measured[OWN])) for cell, name in zip(table, names, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _name_of(run: Run, factor: str, value: float) -> str:
    """What a training is called; the profile's own value of any factor is one and the same."""
    return OWN if value == getattr(run.profile.toyvoc, factor) else f"{factor}-{value:g}"


def study_conditions(run: Run) -> str:
    """What a caption says of the table of `factor_study`."""
    lab, setting = run.profile.factors, lab_setting(run.profile)
    images = f"{lab.train_images} scenes to learn from and {lab.val_images} to score, drawn anew for each value"
    steps = f"at most {lab.steps} steps of each phase, one training a value, seed {run.seed}"
    scored = f"DCSM at {setting.sizes[0]} pixels, no CRF, {TEST_PROTOCOL} protocol, void left out"
    return f"{images}; {steps}; {scored}; 95 % intervals of a bootstrap over images, paired for the difference"


def findings(table: pd.DataFrame, meaningful: bool = True) -> list[str]:
    """What the table of a study bears out, one sentence for each value that is not the profile's.

    Args:
        table: as `factor_study` gives it.
        meaningful: false for a profile whose numbers mean nothing, of which nothing is said.

    Returns:
        Sentences, those whose interval excludes 0 first; before them one that says how many these are.
    """
    others = table[~table["own"].astype(bool)]
    if not meaningful or others.empty:
        return []
    told = (others["difference low"] > 0) | (others["difference high"] < 0)
    own = table[table["own"].astype(bool)].set_index("factor")["value"]
    chance = f"by chance alone about {0.05 * len(others):.1f} would"
    first = f"{told.sum()} of {len(others)} intervals of a difference exclude 0; {chance}."
    rows = [*others[told].to_dict("records"), *others[~told].to_dict("records")]
    return [first, *(_sentence(row, own[row["factor"]]) for row in rows)]


def _sentence(row: Mapping[Any, Any], own: float) -> str:
    low, high = row["difference low"], row["difference high"]
    numbers = f"{row['difference']:+.1f} points [{low:+.1f}, {high:+.1f}]"
    where = f"{row['factor']} at {row['value']:g} instead of {own:g}"
    if low <= 0 <= high:
        return f"{where}: {numbers}; these images do not tell whether the mean IoU rises or falls."
    return f"{where}: the mean IoU {'rises' if low > 0 else 'falls'}, {numbers}."


@dataclass(frozen=True, eq=False)
class _Measured:
    """What a training is judged by: scores of n images, their labels and probabilities, (n, C) each."""

    scores: Scores
    labels: np.ndarray
    probabilities: np.ndarray


def _row(run: Run, measured: _Measured, own: _Measured) -> tuple[float, ...]:
    samples = run.profile.sweeps.bootstrap_samples
    precision = mean_average_precision_interval(measured.labels, measured.probabilities, samples, run.seed)
    interval = measured.scores.interval(samples, run.seed)
    difference = paired_bootstrap(measured.scores, own.scores, samples, run.seed)
    return *(100 * value for value in precision), *astuple(interval), *astuple(difference)


def _measured(run: Run, name: str, **changes: float) -> _Measured:
    """Train with some factors and measure, or read what is on disk."""
    turned, ids, store = _stored(run, name, changes)
    missing = store.missing(ids)
    if missing:
        train_classifier(turned)
        work = partial(_measure, run=turned, store=store)
        for _ in parallel_map(work, missing, description=f"scoring {name}", few=FEW):
            pass
    shutil.rmtree(run.artifacts("factors_drawn") / name, ignore_errors=True)
    arrays = [store.load(image) for image in ids]
    confusions, labels, probabilities = (np.stack([a[key] for a in arrays]) for key in _KEYS)
    return _Measured(Scores(name, tuple(ids), confusions, _details(turned)), labels, probabilities)


_KEYS = ("confusion", "labels", "probabilities")


def _stored(run: Run, name: str, changes: Mapping[str, float]) -> tuple[Run, list[str], ArtifactStore]:
    """The run of a training, its validation scenes, and where their measurements are; nothing is drawn for it."""
    turned = factor_run(run, name, **changes)
    ids = [image_id("val", index) for index in range(turned.profile.toyvoc.val_images)]
    return turned, ids, ArtifactStore.create(run.artifacts("factors") / name, _settings(turned), NOTEBOOK)


def _missing(run: Run, name: str, changes: Mapping[str, float]) -> list[str]:
    _, ids, store = _stored(run, name, changes)
    return store.missing(ids)


def _train_and_measure(training: tuple[str, dict[str, float]], run: Run) -> None:
    name, changes = training
    _measured(run, name, **changes)


def _settings(run: Run) -> dict[str, Any]:
    profile = run.profile
    own: dict[str, Any] = {"classifier": asdict(profile.classifier), "features": asdict(profile.features)}
    own |= {"setting": asdict(lab_setting(profile)), "precision": profile.saliency.precision}
    return run.settings("evaluate.factor_study", **own)


def _details(run: Run) -> dict[str, Any]:
    setting, classes = lab_setting(run.profile), len(run.profile.data.classes or CLASSES)
    return {
        "split": "val",
        "classes": f"{classes} of {len(CLASSES)} classes",
        "protocol": TEST_PROTOCOL,
        "void": "left out",
        "crf": "none",
        "sizes": setting.sizes,
        "pretraining": run.profile.classifier.weights,
        "seed": run.seed,
    }


@lru_cache(maxsize=1)  # one training after the other, and every process reads the weights once
def _model_of(run: Run) -> nn.Module:
    return lab_model(run)


def _measure(image: str, run: Run, store: ArtifactStore) -> None:
    maps = lab_maps(_model_of(run), run.devkit.image(image), run.profile)
    truth = true_mask(run.devkit, image)
    assert truth is not None  # it was drawn with the image
    confusion = confusion_matrix(truth, maps.mask(lab_setting(run.profile)), run.devkit.num_classes)
    labels = np.asarray(run.devkit.labels(image))
    store.save(image, confusion=confusion, labels=labels, probabilities=maps.probabilities)
