"""The static stage of SSDD: the masks of PSA and the same after a CRF are merged into better seeds.

Shimoda & Yanai, "Self-supervised difference detection for weakly-supervised semantic segmentation", ICCV 2019 (SSDD).
A CRF mends some of what is wrong in a mask, and spoils some of what is right. PSA's mask is the knowledge K, the same
after the CRF the advice A. A segmentation network learns K, and beside it a detector learns from its features where K
and A differ; see `difference` for the equations. Once trained, it goes over the training images again, and
takes at each pixel whichever of the two was less likely to change.

Departures: SSDD starts at PSA's ResNet-38 and trains for 16 epochs, this at the run's own classifier and for as long as
any segmentation network of the profile; SSDD's code jitters colours and resizes to squares, which this does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg_core.affinity.seeds import mask_settings
from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import DifferenceConfig, Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import FEW_IMAGES, parallel_map
from wsseg_core.classify.classifier import load_classifier, load_trained
from wsseg_core.classify.features import FeatureStore, open_features
from wsseg_core.classify.training import Hardware, fit
from wsseg_core.data.images import VOID
from wsseg_core.data.run import Run
from wsseg_core.nets.backbones import FrozenBackbone
from wsseg_core.nets.segmentation import on_grid, resize_masks, segmentation_loss
from wsseg_core.nets.static import StaticNet
from wsseg_core.refine.difference import (
    Biases,
    change_target,
    collapsed,
    difference_loss,
    refine,
    seed_biases,
    training_biases,
)
from wsseg_core.refine.mask_pairs import Pair, check_pair, mask_pair, pair_settings
from wsseg_core.segment.predictions import inference_sizes, input_size, without_padding
from wsseg_core.segment.retraining import (
    check_pseudo_labels,
    learns_from_features,
    load_mask,
    network_settings,
    new_network,
    pseudo_label_recipe,
    scaled,
)

NOTEBOOK = "07_static_refinement"
INPUTS = ("both", "knowledge", "neither", "other_image")


@dataclass(frozen=True)
class StaticSetting:
    """One way to merge the two masks; a row of a table.

    Attributes:
        name: of the row, and of the folder under `artifacts/seeds`.
        exclusion: the detector was trained without the images one of whose classes collapses from K to A.
        biases: of the refinement.
        inputs: what the confidence rests on: "both" maps; "knowledge", d^K alone, with 1/2 in place of d^A; "neither",
            1/2 in place of both, so that the biases alone decide; or "other_image", both maps of the next training
            image, which are as large as any but say nothing of this one.

    Raises:
        WorkbookError: other inputs.
    """

    name: str
    exclusion: bool = True
    biases: Biases = field(default_factory=lambda: seed_biases(DifferenceConfig()))
    inputs: str = "both"

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise WorkbookError(f"{self.name}: inputs {self.inputs!r} are not known; use {' or '.join(INPUTS)}")


def static_setting(profile: Profile) -> StaticSetting:
    """SSDD's own, whose result is the seed of the dynamic stage."""
    return StaticSetting("static", biases=seed_biases(profile.difference))


def static_settings(profile: Profile) -> list[StaticSetting]:
    """SSDD's own setting, what becomes of it without each of its parts, and two controls that lack the detector's say.

    Only what the refinement gains over `static_no_detector` and `static_other_image` is the detector's doing.
    """
    own = static_setting(profile)
    return [
        own,
        replace(own, name="static_no_bias", biases=Biases(advice=0, background=0, survival=0)),
        replace(own, name="static_no_exclusion", exclusion=False),
        replace(own, name="static_knowledge", inputs="knowledge"),
        replace(own, name="static_no_detector", inputs="neither"),
        replace(own, name="static_other_image", inputs="other_image"),
        replace(own, name="static_training_bias", biases=training_biases(profile.difference)),
    ]


def train_static(run: Run, exclusion: bool = True, devices: int = 1, pair: Pair | None = None) -> list[dict[str, Any]]:
    """Train segmentation and difference detection on the run's training images, or resume where a run stopped.

    Steps, batches, augmentation and learning rates are those of `train_segmentation`; the detector learns as fast as
    the head.

    Args:
        run: the run; notebook 06 has drawn the two masks.
        exclusion: leave images one of whose classes collapses from K to A out of the detector's loss.
        devices: processes or GPUs.
        pair: other masks than `mask_pair` gives; they must be fit for `check_pair`.

    Returns:
        The learning curve: `step`, `loss`, and `learning_rate` (the encoder's).

    Raises:
        WorkbookError: no classifier, an image without a mask, masks that are void everywhere, or the errors of
            `check_pair`.
    """
    config, common, masks = run.profile.segmentation, run.profile.classifier, pair or mask_pair(run)
    if pair:
        check_pair(pair, run.train_ids, run.devkit.classes)
    else:  # its two come from one stage, and may be alike
        for kind in masks:
            check_pseudo_labels(kind, run.train_ids)
    model, settings = _new_net(run, load_classifier(run)), training_settings(run, exclusion, pair)
    path = checkpoint_path(run, exclusion, pair)
    ArtifactStore.create(path.parent, settings, NOTEBOOK)
    network, loss = model.segmentation, partial(static_loss, exclusion=exclusion)
    parts = network.encoder, [network.head, model.detector]
    recipe = pseudo_label_recipe(run, loss, masks, config, parts, settings)
    return fit(model, recipe, path, Hardware(common.precision, devices, common.workers), f"training {path.parent.name}")


def static_loss(model: nn.Module, batch: tuple[Any, Tensor, Tensor], exclusion: bool = True) -> Tensor:
    """L_static of SSDD: segmentation learns K, and the detector where K and A differ.

    Args:
        model: a `StaticNet`.
        batch: images, float (B, 3, H, W), normalised, or their stored features; K and A, integer (B, 2, H, W), 0..C or
            255; image-level labels, bool (B, C).
        exclusion: images one of whose classes collapses from K to A, in what the crop shows, teach the detector
            nothing; see `wsseg_core.refine.difference.collapsed`.

    Returns:
        float32 scalar, at least 0.

    Raises:
        WorkbookError: masks of another form.
    """
    images, masks, labels = batch
    knowledge, advice = masks.unbind(1)
    said = model(images, knowledge, advice)
    target, valid = change_target(*(resize_masks(mask, said.logits_k.shape[-2:]) for mask in (knowledge, advice)))
    included = ~collapsed(knowledge, advice, labels).any(1) | (not exclusion)
    difference = difference_loss(said.logits_k, said.logits_a, target, valid, included)
    return segmentation_loss(said.scores, knowledge) + difference


def _new_net(run: Run, classifier: nn.Module) -> StaticNet:
    difference = run.profile.difference
    return StaticNet(new_network(run, classifier), difference.channels, difference.stride)


def checkpoint_path(run: Run, exclusion: bool = True, pair: Pair | None = None) -> Path:
    """File of the training state."""
    name = "_".join(["static", *(masks.folder.name for masks in pair or ())])
    return run.artifacts("refinement") / (name if exclusion else f"{name}_no_exclusion") / "network.ckpt"


def training_settings(run: Run, exclusion: bool = True, pair: Pair | None = None) -> dict[str, Any]:
    """What the network depends on: what a segmentation network does, the two masks, and the detector."""
    if pair:
        knowledge, advice = (masks.record["settings"] for masks in pair)
    else:
        knowledge, advice = (mask_settings(run, setting) for setting in pair_settings(run.profile))
    difference = run.profile.difference
    own = {"exclusion": exclusion, "channels": difference.channels, "stride": difference.stride}
    return network_settings(run) | {
        "static": run.settings("refine.static_stage", knowledge=knowledge, advice=advice, **own)
    }


def load_static(run: Run, exclusion: bool = True, pair: Pair | None = None) -> StaticNet:
    """The network that `train_static` left, in evaluation mode.

    Raises:
        WorkbookError: not trained yet, not to its end, or under other settings.
    """
    model = _new_net(run, load_classifier(run))
    steps = run.profile.segmentation.steps
    path, settings = checkpoint_path(run, exclusion, pair), training_settings(run, exclusion, pair)
    return load_trained(model, path, settings, steps, NOTEBOOK)


def refinement_size(profile: Profile) -> int:
    """Longest side of the input, in pixels: scale 1 of `inference_sizes`."""
    return inference_sizes(replace(profile.segmentation, scales=(1.0,)))[0]


@torch.inference_mode()
def difference_maps(
    model: StaticNet, image: np.ndarray, knowledge: np.ndarray, advice: np.ndarray, size: int
) -> tuple[Tensor, Tensor]:
    """Where two masks of an image would change, seen at one scale, straight and mirrored; the logits are averaged.

    Args:
        model: in evaluation mode, on any device.
        image: uint8 (H, W, 3), any size.
        knowledge: m^K, uint8 (H, W), 0..C or 255; brought to the grid.
        advice: m^A, alike.
        size: longest side of the input, in pixels; both sides are rounded to whole cells of the grid.

    Returns:
        d^K and d^A before the sigmoid, float32 (h, w) each, on the CPU, at the network's stride.

    Raises:
        WorkbookError: labels beyond C.
    """
    like = next(model.parameters())  # for its device and precision
    pixels = scaled(image, input_size(image, size)).to(like)
    inputs = pixels, *(torch.from_numpy(mask).to(like.device) for mask in (knowledge, advice))
    said = model(*(torch.stack([values, values.flip(-1)]) for values in inputs))
    straight, mirrored = torch.stack([said.logits_k, said.logits_a], 1).float().cpu()  # (2, h, w) each
    logits_k, logits_a = (straight + mirrored.flip(-1)) / 2
    return logits_k, logits_a


@torch.inference_mode()
def stored_difference_maps(
    model: StaticNet, maps: Sequence[Tensor], knowledge: np.ndarray, advice: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The same from the stored features of an image, as the network was taught: padded, and its mirrored maps.

    Args:
        model: in evaluation mode, with a trunk that does not learn.
        maps: what `features.FeatureStore` holds of the image, float32 (channels, s, s) each.
        knowledge: m^K, uint8 (H, W), 0..C or 255.
        advice: m^A, alike.

    Returns:
        As `difference_maps`, on a grid of the image without its padding.
    """
    like = next(model.parameters())
    masks = on_grid(torch.from_numpy(np.stack([knowledge, advice])), maps[0].shape[1], VOID).to(like.device)
    inputs = [torch.stack([values, values.flip(2)]).to(like) for values in maps]
    said = model(inputs, *(torch.stack([mask, mask.flip(1)]) for mask in masks))
    straight, mirrored = torch.stack([said.logits_k, said.logits_a], 1).float().cpu()  # (2, s, s) each
    logits_k, logits_a = without_padding((straight + mirrored.flip(-1)) / 2, knowledge.shape)
    return logits_k, logits_a


@dataclass(frozen=True)
class RefinedImage:
    """Two masks of one image, merged, and what decided.

    Attributes:
        knowledge: m^K, uint8 (H, W), 0..C or 255.
        advice: m^A, alike.
        d_k: float32 (H, W) in [0, 1], how likely the label of K changes.
        d_a: the same of A; 1/2 everywhere where the setting does not look at it.
        confidence: w of `difference.refine`, float32 (H, W): the advice was taken where it is 0 or more.
        mask: the result, uint8 (H, W), 0..C or 255.
    """

    knowledge: np.ndarray
    advice: np.ndarray
    d_k: np.ndarray
    d_a: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray


def _merge(
    knowledge: np.ndarray, advice: np.ndarray, maps: Sequence[Tensor], labels: np.ndarray, setting: StaticSetting
) -> RefinedImage:
    """Refine two masks (H, W) by their logits (h, w) and the labels (C,) of their image."""
    fine_k, fine_a = F.interpolate(torch.stack(list(maps))[:, None], knowledge.shape, mode="bilinear")
    masks = torch.from_numpy(knowledge)[None], torch.from_numpy(advice)[None]
    shrunk = collapsed(*masks, torch.from_numpy(labels > 0)[None])
    mask, confidence = refine(*masks, fine_k, fine_a, shrunk, setting.biases)
    arrays = (values[0].numpy() for values in (fine_k.sigmoid(), fine_a.sigmoid(), confidence, mask))
    return RefinedImage(knowledge, advice, *arrays)


def refine_image(
    run: Run, model: StaticNet, setting: StaticSetting, image_id: str, pair: Pair | None = None
) -> RefinedImage:
    """Refine the masks of one image of a run.

    Args:
        run: the run; notebook 06 has drawn the two masks.
        model: what `load_static` gives for the setting, on any device.
        setting: its row.
        image_id: of a training image.
        pair: what the model was trained on, if not on `mask_pair`.

    Raises:
        WorkbookError: the masks are missing, or not those of this image.
    """
    (refined,) = refine_rows(run, model, [setting], image_id, pair)
    return refined


def refine_rows(
    run: Run, model: StaticNet, settings: Sequence[StaticSetting], image_id: str, pair: Pair | None = None
) -> list[RefinedImage]:
    """`refine_image` for several settings that share a network: one look at the image serves all."""
    pair, labels = pair or mask_pair(run), run.devkit.labels(image_id)
    knowledge, advice, (logits_k, logits_a) = _look(run, model, pair, image_id)
    nothing = torch.zeros_like(logits_k)  # of what does not look
    maps = {"both": (logits_k, logits_a), "knowledge": (logits_k, nothing), "neither": (nothing, nothing)}
    if any(setting.inputs == "other_image" for setting in settings):
        following = run.train_ids[(run.train_ids.index(image_id) + 1) % len(run.train_ids)]
        maps["other_image"] = _look(run, model, pair, following)[2]
    return [_merge(knowledge, advice, maps[setting.inputs], labels, setting) for setting in settings]


def _look(
    run: Run, model: StaticNet, pair: Sequence[ArtifactStore], image_id: str
) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, Tensor]]:
    """K, A, and the logits of d^K and d^A."""
    image = run.devkit.image(image_id)
    knowledge, advice = (load_mask(store, image_id, image.shape[:2]) for store in pair)
    if not learns_from_features(run.profile):
        return knowledge, advice, difference_maps(model, image, knowledge, advice, refinement_size(run.profile))
    backbone = cast(FrozenBackbone, model.segmentation.encoder.backbone)
    maps = _features(run, backbone).load(image_id, run.profile.features.dense_size, backbone.names)
    return knowledge, advice, stored_difference_maps(model, maps, knowledge, advice)


@lru_cache(maxsize=1)  # one for each worker, whatever the number of its images
def _features(run: Run, backbone: FrozenBackbone) -> FeatureStore:
    return open_features(run, backbone.trunk)


def refine_masks(
    run: Run,
    settings: Sequence[StaticSetting],
    ids: Sequence[str],
    workers: int | None = None,
    pair: Pair | None = None,
) -> dict[str, ArtifactStore]:
    """Write the merged masks of images, to learn from; images that are on disk already are left alone.

    Args:
        run: the run; `train_static` has trained the networks of these settings.
        settings: those that share a network share its one look at each image.
        ids: images.
        workers: processes, each with a network of its own (on a GPU, where there is one); all cores when left out.
        pair: what the networks were trained on, if not on `mask_pair`.

    Returns:
        Stores by the names of the settings. Of every image: `mask`, uint8 (H, W), 0 background, c + 1 for class c.

    Raises:
        WorkbookError: no network or no masks to merge, or they were made under other settings.
    """
    masks = pair or mask_pair(run)
    for exclusion in {setting.exclusion for setting in settings}:
        load_static(run, exclusion, pair=pair)  # before a store is emptied
    stores = {}
    for setting in settings:
        wanted = refined_settings(run, setting, pair)
        stores[setting] = ArtifactStore.create(_folder(run, setting, pair), wanted, NOTEBOOK)
    missing = [image_id for image_id in ids if not all(store.has(image_id) for store in stores.values())]
    work = partial(_refine_and_save, run=run, pair=pair, masks=masks, stores=stores)
    for _ in parallel_map(work, missing, description="refined masks", workers=workers, chunk=8, few=FEW_IMAGES):
        pass
    return {setting.name: store for setting, store in stores.items()}


def _refine_and_save(
    image_id: str, run: Run, pair: Pair | None, masks: Pair, stores: Mapping[StaticSetting, ArtifactStore]
) -> None:
    for exclusion in (True, False):
        wanted = [s for s, store in stores.items() if s.exclusion == exclusion and not store.has(image_id)]
        if wanted:
            refined = refine_rows(run, _loaded(run, exclusion, pair), wanted, image_id, masks)
            for setting, result in zip(wanted, refined, strict=True):
                stores[setting].save(image_id, mask=result.mask)


@lru_cache(maxsize=2)  # both networks for each worker, whatever the number of its images
def _loaded(run: Run, exclusion: bool, pair: Pair | None) -> StaticNet:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_static(run, exclusion, pair).to(device).to(memory_format=torch.channels_last)


def refined_settings(run: Run, setting: StaticSetting, pair: Pair | None = None) -> dict[str, Any]:
    """What the merged masks depend on."""
    return training_settings(run, setting.exclusion, pair) | {"refinement": asdict(setting)}


def _folder(run: Run, setting: StaticSetting, pair: Pair | None) -> Path:
    return run.artifacts("seeds") / "_".join([setting.name, *(masks.folder.name for masks in pair or ())])


def open_refined(run: Run, setting: StaticSetting, pair: Pair | None = None) -> ArtifactStore:
    """The masks that `refine_masks` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(_folder(run, setting, pair), NOTEBOOK, refined_settings(run, setting, pair))
