"""The dynamic stage of SSDD: a segmentation network corrects the masks that it learns from while it learns.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
`wsseg_core.refine.dynamic_step` has the method; here it is trained on the images of a run.

Departure: encoder and both heads start from a network that was trained on the static result, because SSDD's 41 epochs
are too many for a laptop; the detectors start at random.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import cpu_count
from wsseg_core.classify.classifier import load_classifier, load_trained
from wsseg_core.classify.training import Hardware, Recipe, fit
from wsseg_core.crf.pool import CrfPool
from wsseg_core.data.run import Run
from wsseg_core.nets.dynamic import DynamicNet
from wsseg_core.nets.segmentation import SegmentationNet, resize_masks
from wsseg_core.refine.difference import training_biases
from wsseg_core.refine.dynamic_step import DynamicSetting, DynamicStep, Half
from wsseg_core.segment.predictions import (
    SegmentationImageMaps,
    grid_log_probabilities,
    inference_sizes,
    input_size,
    segmentation_setting,
)
from wsseg_core.segment.retraining import (
    check_pseudo_labels,
    checkpoint_path,
    load_segmentation,
    network_folder,
    network_settings,
    new_network,
    pseudo_label_recipe,
    scaled,
    train_each,
)

NOTEBOOK = "08_dynamic_refinement"
SNAPSHOTS = 5  # on the way, at equal intervals
WATCHED = 50  # training images whose taught masks are kept with each, enough for an interval
OWN = "dynamic"  # the stage itself; what its variants are taught nobody reads, and the CRFs take time


def dynamic_settings() -> list[DynamicSetting]:
    """The stage, its ablations, and the control, a row of a table each; the same under every profile."""
    return [
        DynamicSetting(OWN),
        DynamicSetting("dynamic_one_module", second_module=False),
        DynamicSetting("dynamic_seed_target", second_target="seed"),
        DynamicSetting("dynamic_no_detector", detector=False),
        DynamicSetting("dynamic_fixed_seed", refinement=False),
    ]


def chosen_pair_settings() -> list[DynamicSetting]:
    """The stage and its two controls once more, from the refined masks of another pair (`other_pairs`)."""
    return [
        DynamicSetting("pair_dynamic"),
        DynamicSetting("pair_no_detector", detector=False),
        DynamicSetting("pair_fixed_seed", refinement=False),
    ]


def train_dynamic(
    run: Run,
    setting: DynamicSetting,
    seed: ArtifactStore,
    start: str,
    start_made_by: str,
    devices: int = 1,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Train the dynamic stage on the run's training images, or resume where a run stopped.

    What is not in `DynamicConfig` is as in `train_segmentation`; the CRF is the profile's `seed_crf`.

    Args:
        run: the run.
        setting: the stage or an ablation.
        seed: the fixed seed m^0 of every training image, see `PseudoLabelled`.
        start: name of the trained segmentation network to start from.
        start_made_by: the notebook that trained it.
        devices: processes or GPUs.
        workers: processes for the CRFs, each device's own; all cores, shared by the devices, when left out.

    Returns:
        The learning curve: `step`, `loss`, and `learning_rate` (the encoder's); and, with each of `snapshots`, `step`,
        `seconds` since the one before, and `crf_wait`, those of them in which the training stood still for CRFs. The
        last two are measured and differ from run to run.

    Raises:
        WorkbookError: no network to start from, an image without a seed, seeds that are void everywhere, or a worker
            that died.
    """
    check_pseudo_labels(seed, run.train_ids)
    network = load_segmentation(run, start, start_made_by)
    earlier = {"masks": seed.record, "start": ArtifactStore.open(network_folder(run, start), start_made_by).record}
    settings = training_settings(run, setting) | earlier
    store = ArtifactStore.create(network_folder(run, setting.name), settings, NOTEBOOK)
    common = run.profile.classifier
    hardware = Hardware(common.precision, devices, common.workers)
    with CrfPool(run.profile.seed_crf, workers or max(1, cpu_count() // devices)) as pool:
        step = _new_step(run, setting, network, pool)
        if not store.has(_snapshot_name(0)):
            _save_snapshot(run, store, step, seed, 0)
        recipe = _recipe(run, step, seed, store)
        return fit(step, recipe, checkpoint_path(run, setting.name), hardware, f"training {setting.name}")


def train_settings(
    run: Run, settings: Sequence[DynamicSetting], seed: ArtifactStore, start: str, start_made_by: str
) -> dict[str, list[dict[str, Any]]]:
    """`train_dynamic` for several settings from the same seed and network, see `train_each`; learning curves by name.

    Raises:
        WorkbookError: the errors of `train_dynamic`.
    """
    train = partial(train_dynamic, run, seed=seed, start=start, start_made_by=start_made_by)
    curves = train_each(run, train, settings, "dynamic stages")
    return {setting.name: curve for setting, curve in zip(settings, curves, strict=True)}


def _recipe(run: Run, step: DynamicStep, seed: ArtifactStore, store: ArtifactStore) -> Recipe:
    own = asdict(run.profile.dynamic)
    for name in ("warmup_steps", "second_loss", "crf_stride"):  # of the step alone
        del own[name]
    config = replace(run.profile.segmentation, **own)
    net, network = step.net, step.net.segmentation
    parts = network.encoder, [network.head, net.sub_head, net.detectors]
    recipe = pseudo_label_recipe(run, _loss, [seed], config, parts, store.record["settings"], images=True)

    def validate(_: nn.Module) -> dict[str, float]:
        waited = step.pool.lap()
        _save_snapshot(run, store, step, seed, recipe.schedule.last_epoch)
        step.pool.lap()  # what the pictures took is no part of the training
        return waited

    return replace(recipe, validate=validate, validate_every=-(-config.steps // SNAPSHOTS))


def _new_step(run: Run, setting: DynamicSetting, start: SegmentationNet, pool: CrfPool) -> DynamicStep:
    torch.manual_seed(run.seed)
    difference, dynamic = run.profile.difference, run.profile.dynamic
    net = DynamicNet(start, difference.channels, setting.detectors, difference.stride)
    biases = replace(training_biases(difference), background=setting.background)
    return DynamicStep(net, setting, biases, pool, dynamic.warmup_steps, dynamic.second_loss, dynamic.crf_stride)


def _loss(step: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return step(*batch)


def crf_share(history: Sequence[Mapping[str, Any]]) -> float:
    """Share of the time of a training, in [0, 1], in which it stood still for CRFs; 0 where nothing was measured.

    Args:
        history: what `train_dynamic` returned. What lies between a kill and the last checkpoint is not counted.
    """
    rows = [row for row in history if "crf_wait" in row]
    return sum(row["crf_wait"] for row in rows) / max(sum(row["seconds"] for row in rows), 1e-9)


def training_settings(run: Run, setting: DynamicSetting) -> dict[str, Any]:
    """What the network depends on; seed and start come on top. A segmentation network's, and the stage's own."""
    names = ("channels", "stride", "training_advice")
    own = {
        "setting": asdict(setting),
        "dynamic": asdict(run.profile.dynamic),
        "difference": {name: getattr(run.profile.difference, name) for name in names},
        "crf": asdict(run.profile.seed_crf),
    }
    return network_settings(run) | {"dynamic": run.settings("refine.dynamic_stage", **own)}


def load_dynamic(run: Run, setting: DynamicSetting) -> SegmentationNet:
    """Encoder and main branch as `train_dynamic` left them, in evaluation mode; the `model` of `extract_predictions`.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    return _trained_step(run, setting).net.segmentation


def _trained_step(run: Run, setting: DynamicSetting) -> DynamicStep:
    network = new_network(run, load_classifier(run))
    step = _new_step(run, setting, network, CrfPool(run.profile.seed_crf, workers=1))
    path, settings = checkpoint_path(run, setting.name), training_settings(run, setting)
    return load_trained(step, path, settings, run.profile.dynamic.steps, NOTEBOOK)


def _save_snapshot(run: Run, store: ArtifactStore, step: DynamicStep, seed: ArtifactStore, number: int) -> None:
    """Write what the main branch draws of a few images after a number of steps, and what it would be taught of more."""
    if step.setting.name == OWN:
        halves = {image_id: _look(step, run, seed, image_id) for image_id in run.train_ids[:WATCHED]}  # CRFs begin
        store.save(f"taught{number:07d}", **{image_id: _taught(step, half) for image_id, half in halves.items()})
    plain, masks = segmentation_setting(run.profile, "snapshot"), {}
    for image_id in run.train_example_ids:
        image, drawn = run.devkit.image(image_id), run.devkit.labels(image_id) > 0
        said = grid_log_probabilities(step.net.segmentation, image, _sizes(run), flip=False).cpu()
        masks[image_id] = SegmentationImageMaps(image, said, drawn).mask(plain)
    store.save(_snapshot_name(number), **masks)


def _snapshot_name(number: int) -> str:
    return f"step{number:07d}"


def _sizes(run: Run) -> tuple[int, ...]:
    """Scale 1 alone."""
    return inference_sizes(replace(run.profile.segmentation, scales=(1.0,)))


def snapshots(run: Run, name: str) -> dict[int, dict[str, np.ndarray]]:
    """What the main branch drew of a few training images on its way, within their labels and without a CRF.

    Args:
        run: the run.
        name: of the setting.

    Returns:
        By step, from 0, the network that it started from, in about 5 intervals; by image id: uint8 (H, W), 0..C.

    Raises:
        WorkbookError: nothing was trained under this name.
    """
    store = ArtifactStore.open(network_folder(run, name), NOTEBOOK)
    names = sorted(path.stem for path in store.folder.glob("step*.safetensors"))
    return {int(name.removeprefix("step")): store.load(name) for name in names}


def taught(run: Run, name: str) -> dict[int, dict[str, np.ndarray]]:
    """Seed and result 2 of the first training images, not augmented, on the way of a training.

    Args:
        run: the run.
        name: of the setting; kept of the stage itself alone, "dynamic".

    Returns:
        By step, as `snapshots`; by image id: uint8 (2, h, w), 0..C or 255, on the grid of the stage.

    Raises:
        WorkbookError: nothing was trained under this name, or it is a variant.
    """
    store = ArtifactStore.open(network_folder(run, name), NOTEBOOK)
    kept = sorted(path.stem for path in store.folder.glob("taught*.safetensors"))
    if not kept:
        raise WorkbookError(f"{name}: what a variant is taught on its way is not kept; use {OWN!r}")
    return {int(number.removeprefix("taught")): store.load(number) for number in kept}


@torch.no_grad()
def _look(step: DynamicStep, run: Run, seed: ArtifactStore, image_id: str) -> Half:
    """One training image, not augmented."""
    image, device = run.devkit.image(image_id), step.steps_seen.device
    mask = torch.from_numpy(seed.load(image_id)["mask"])[None]
    size = input_size(image, _sizes(run)[0])
    labels = torch.from_numpy(run.devkit.labels(image_id) > 0)
    parts = scaled(image, size)[None], resize_masks(mask, size), labels[None]
    return step.look(*(values.to(device) for values in parts))


@torch.no_grad()
def _results(step: DynamicStep, half: Half) -> tuple[Tensor, Tensor]:
    """Results of both steps, (1, h, w)."""
    first, _ = step.first_step(half)
    return first, step.second_step(half, first)[0]


def _taught(step: DynamicStep, half: Half) -> np.ndarray:
    """Seed and result 2, uint8 (2, h, w)."""
    return torch.cat([half.seed, _results(step, half)[1]]).cpu().numpy()


@dataclass(frozen=True)
class ImageSteps:
    """The masks of one image in both steps, on the grid of the stage and enlarged: each uint8 (H, W), 0..C or 255.

    Attributes:
        prediction: m^r, of the main branch, within the labels of the image.
        crf: the same after the CRF.
        first: result of step 1.
        seed: m^0.
        second: result of step 2.
    """

    prediction: np.ndarray
    crf: np.ndarray
    first: np.ndarray
    seed: np.ndarray
    second: np.ndarray


def refine_image(run: Run, setting: DynamicSetting, seed: ArtifactStore, image_id: str) -> ImageSteps:
    """Both steps of a trained network on one training image, not augmented, for pictures.

    Raises:
        WorkbookError: a setting without both steps, or the errors of `load_dynamic`.
    """
    if setting.modules < 2:
        raise WorkbookError(f"{setting.name}: it does not take both steps of refinement; use a setting that does")
    step = _step_of_pictures(run, setting)
    half = _look(step, run, seed, image_id)
    first, second = _results(step, half)
    drawn, size = (half.prediction, half.advice, first, half.seed, second), run.devkit.image(image_id).shape[:2]
    return ImageSteps(*(resize_masks(masks, size)[0].numpy() for masks in drawn))


@lru_cache(maxsize=1)  # pictures are of many images, one after the other
def _step_of_pictures(run: Run, setting: DynamicSetting) -> DynamicStep:
    return _trained_step(run, setting)


def second_results(
    run: Run, setting: DynamicSetting, seed: ArtifactStore, ids: Sequence[str], backgrounds: Sequence[float]
) -> Iterator[list[np.ndarray]]:
    """Result 2 of a trained network on training images under other biases of the background.

    Args:
        run: the run.
        setting: with both steps.
        seed: the fixed seed.
        ids: of training images.
        backgrounds: values of b^0, which need not be that of the training.

    Yields:
        Of every image one mask for each value, uint8 (H, W), 0..C or 255, as of `ImageSteps`.

    Raises:
        WorkbookError: the errors of `load_dynamic`.
    """
    step = _trained_step(run, setting)
    for image_id in ids:
        half, size, masks = _look(step, run, seed, image_id), run.devkit.image(image_id).shape[:2], []
        for background in backgrounds:
            step.biases = replace(step.biases, background=background)
            masks.append(resize_masks(_results(step, half)[1], size)[0].numpy())
        yield masks
