"""Class probabilities of superpixels: zoom-out features and a mi-SVM a class (MIRU part 1, "ZOF").

Mostajabi, Yadollahpour & Shakhnarovich, "Feedforward semantic segmentation with zoom-out features", CVPR 2015: a
superpixel is described by the feature maps of every convolution, up-sampled, averaged over its pixels and concatenated.
Learnt from image-level labels as in Shimoda & Yanai's slides (MIRU 2016): an image is a bag of superpixels, and
`mi_svm` finds out which of them show the class. Superpixels: Achanta et al., "SLIC superpixels compared to
state-of-the-art superpixel methods", PAMI 2012.

Up-sampling and averaging are both linear, so that one sparse matrix a resolution does both at once and no map is ever
up-sampled. Departures: the features are those of the workbook's own classifier, at its own input size; the paper's
widest levels, which come from fully connected layers on larger surroundings and on the whole image, are left out,
because the slides name the convolutions only.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from skimage.segmentation import slic
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import ZoomOutConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import parallel_map
from wsseg_core.classify.classifier import classifier_settings
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.data.voc import VocDevkit
from wsseg_core.forward.mi_svm import Bags, MiSvm, MiSvms, learn_class
from wsseg_core.nets.backbones import stages_of

NOTEBOOK = "05_forward_and_backward_maps"
MAX_SUPERPIXELS = 2**16 - 1  # their numbers are stored as uint16
_BAGS, _INSTANCES, _HELD_OUT = range(3)  # what is drawn, each from its own stream of random numbers


def superpixels(image: np.ndarray, config: ZoomOutConfig) -> np.ndarray:
    """Divide an image into superpixels (SLIC).

    Args:
        image: uint8 (H, W, 3), RGB, any size from 1×1.
        config: `superpixels`, how many are asked for, and `compactness`.

    Returns:
        int32 (H, W), 0..S-1, each number used. S is at least 1, and rarely what was asked for: small or flat images
        have fewer.

    Raises:
        WorkbookError: another type or shape of image, or a bad config.
    """
    _check_config(config)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise WorkbookError(
            f"superpixels: the image must be RGB uint8 (H, W, 3), not {image.dtype} {image.shape}; "
            "convert it with PIL's Image.convert('RGB')"
        )
    segments = slic(image, config.superpixels, config.compactness, start_label=0, channel_axis=2)
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape).astype(np.int32)


def pooling_matrix(segments: np.ndarray, map_size: tuple[int, int]) -> sparse.csr_matrix:
    """The matrix that up-samples a map and averages it over superpixels, in one product.

    With the bilinear weights of rows and columns, R (H, h) and Q (W, w), and the averaging over superpixels,
    A (S, H·W), it is A (R ⊗ Q).

    Args:
        segments: int (H, W), 0..S-1, each number used.
        map_size: (h, w) of a map of the padded square image, any resolution.

    Returns:
        float32 (S, h·w) whose rows sum to 1. Times a map (h·w, channels) it gives the averages over superpixels of
        what `transforms.unpad` makes of the map.
    """
    longest, flat = max(segments.shape), segments.ravel()
    areas = np.bincount(flat)  # (S,)
    average = sparse.csr_matrix((1 / areas[flat], (flat, np.arange(flat.size))), (len(areas), flat.size))
    rows, columns = (
        _bilinear_weights(length, longest, source) for length, source in zip(segments.shape, map_size, strict=True)
    )
    return (average @ sparse.kron(rows, columns, "csr")).astype(np.float32)


def _bilinear_weights(length: int, longest: int, source: int) -> sparse.csr_matrix:
    """Interpolation of `source` values at the first `length` of `longest` positions, `align_corners=False`."""
    positions = ((np.arange(length) + 0.5) * source / longest - 0.5).clip(0)
    low = positions.astype(int)
    share, pixels = positions - low, np.arange(length)
    columns = np.concatenate([low, np.minimum(low + 1, source - 1)])
    entries = np.concatenate([1 - share, share]), (np.tile(pixels, 2), columns)
    weights = sparse.csr_matrix(entries, (length, source))
    weights.eliminate_zeros()  # at the resolution of the image, half of them
    return weights


@lru_cache(maxsize=4)  # for each network, whatever the number of its images
def zoom_out_layers(model: nn.Module) -> tuple[str, ...]:
    """All convolutions of VGG-16 after their ReLU; the layers of all stages of another network, lowest first.

    Raises:
        WorkbookError: the network has no stages.
    """
    known = {name for name, _ in model.named_modules()}
    after = {name: name.replace("conv", "relu") for stage in stages_of(model) for name in stage.layers}
    return tuple(relu if relu in known else name for name, relu in after.items())


@torch.inference_mode()
def zoom_out_features(model: nn.Module, image: np.ndarray, segments: np.ndarray, size: int) -> np.ndarray:
    """Describe superpixels by all layers of `zoom_out_layers`, in one forward pass.

    Args:
        model: a classifier as `saliency.prepare` returns it; its device and precision are used.
        image: uint8 (H, W, 3).
        segments: int (H, W), 0..S-1, each number used.
        size: side of the network's input, in pixels.

    Returns:
        float32 (S, D), D the number of channels of all layers, lowest first (VGG-16: 4224, at least 0).

    Raises:
        WorkbookError: the network has no stages.
    """
    matrix = lru_cache(maxsize=1)(partial(pooling_matrix, segments))  # layers of a block share it
    pooled: list[np.ndarray] = []

    def pool(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps = output[0].permute(1, 2, 0).float().cpu().numpy()  # (h, w, channels)
        pooled.append(matrix(maps.shape[:2]) @ maps.reshape(-1, maps.shape[2]))

    modules = dict(model.named_modules())
    inputs = resize_and_pad(image, size)[None].to(next(model.parameters()))
    with ExitStack() as hooks:
        for name in zoom_out_layers(model):
            hooks.enter_context(modules[name].register_forward_hook(pool))
        model(inputs.to(memory_format=torch.channels_last))
    return np.concatenate(pooled, axis=1)


def bag_ids(run: Run) -> list[str]:
    """The training images that are bags, drawn without replacement and in order.

    An image is drawn with a probability that is inverse to the number of images of its rarest class, so that every
    class has its share.

    Raises:
        WorkbookError: a bad config.
    """
    _check_config(run.profile.zoomout)
    ids = run.train_ids
    labels = run.devkit.label_matrix(ids)
    weights = (labels / labels.sum(0).clip(1)).max(1).clip(1 / len(ids))  # not 0 for an image without a class
    count = min(run.profile.zoomout.train_images, len(ids))
    rng = np.random.default_rng([run.seed, _BAGS])
    return [ids[number] for number in np.sort(rng.choice(len(ids), count, replace=False, p=weights / weights.sum()))]


def extract_bags(run: Run, model: nn.Module) -> ArtifactStore:
    """Describe the superpixels of the bags; images that are on disk already are left alone.

    Args:
        run: the run.
        model: the classifier as `saliency.prepare` returns it.

    Returns:
        The store. Of every image of `bag_ids`: `features`, float16 (n, D), n superpixels drawn at random, at most
        `zoomout.instances`. The main process holds one image at a time; superpixels that are ready before the network
        is wait in memory, 2 bytes a pixel.
    """
    store, ids = ArtifactStore.create(run.artifacts("zoomout_bags"), _bag_settings(run), NOTEBOOK), bag_ids(run)
    numbers = {image_id: number for number, image_id in enumerate(ids)}
    for image_id, _, features in _described(run, model, store.missing(ids)):
        rng = np.random.default_rng([run.seed, _INSTANCES, numbers[image_id]])
        drawn = rng.permutation(len(features))[: run.profile.zoomout.instances]
        largest = np.finfo(np.float16).max  # a network without batch norm has no bound
        store.save(image_id, features=features[np.sort(drawn)].clip(max=largest).astype(np.float16))
    return store


def _described(run: Run, model: nn.Module, ids: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Id, superpixels, uint16 (H, W), and their features, float32 (S, D), of images; SLIC runs on all cores."""
    divide = partial(_divide, devkit=run.devkit, config=run.profile.zoomout)
    divided = parallel_map(divide, ids, description="superpixels and their features", chunk=8)
    for image_id, segments in zip(ids, divided, strict=True):
        image = run.devkit.image(image_id)
        yield image_id, segments, zoom_out_features(model, image, segments, run.profile.data.image_size)


def _divide(image_id: str, devkit: VocDevkit, config: ZoomOutConfig) -> np.ndarray:
    return superpixels(devkit.image(image_id), config).astype(np.uint16)


def train_zoom_out(run: Run, model: nn.Module, workers: int | None = None) -> MiSvms:
    """Learn which superpixels show a class, from image-level labels; classes that are on disk already are kept.

    Args:
        run: the run.
        model: the classifier as `saliency.prepare` returns it.
        workers: processes, each with a class of its own; all cores when left out. Each needs about 22 bytes a value:
            0.4 GB for 600 × 30 instances with 1056 features, 5.6 GB for 2,000 × 30 with VGG-16's 4224.

    Returns:
        The classes. Those without an image in the bags are named by `MiSvms.absent`.
    """
    bags, ids, config = extract_bags(run, model), bag_ids(run), run.profile.zoomout
    store = ArtifactStore.create(run.artifacts("zoomout"), _settings(run), NOTEBOOK)
    missing = store.missing(run.devkit.classes)
    order = np.random.default_rng([run.seed, _HELD_OUT]).permutation(len(ids))
    held_out = order < round(config.calibration_share * len(ids))
    learn = partial(_learn, bags=bags, ids=ids, held_out=held_out, config=config, seed=run.seed)
    labels = dict(zip(run.devkit.classes, run.devkit.label_matrix(ids).astype(bool).T, strict=True))
    learnt = parallel_map(learn, [labels[name] for name in missing], description="mi-SVM", workers=workers)
    for name, svm in zip(missing, learnt, strict=True):
        store.save(name, **vars(svm))
    return load_zoom_out(run)


def _learn(
    positive: np.ndarray, bags: ArtifactStore, ids: list[str], held_out: np.ndarray, config: ZoomOutConfig, seed: int
) -> MiSvm:
    features = Bags.of([bags.load(image_id)["features"] for image_id in ids])
    return learn_class(features, positive, held_out, config, seed)


def load_zoom_out(run: Run) -> MiSvms:
    """What `train_zoom_out` learnt.

    Raises:
        WorkbookError: it is missing, or was learnt under other settings.
    """
    store = ArtifactStore.open(run.artifacts("zoomout"), NOTEBOOK, _settings(run))
    return MiSvms(tuple(run.devkit.classes), tuple(MiSvm(**store.load(name)) for name in run.devkit.classes))


def extract_class_maps(run: Run, model: nn.Module, ids: Sequence[str]) -> ArtifactStore:
    """Write the class probabilities of superpixels; images that are on disk already are left alone.

    Args:
        run: the run; `train_zoom_out` has run.
        model: the classifier as `saliency.prepare` returns it.
        ids: images.

    Returns:
        The store. Of every image: `segments`, uint16 (H, W), 0..S-1, and `probabilities`, float32 (S, C) in [0, 1], so
        that `probabilities[segments][..., c]` is the map of class c.

    Raises:
        WorkbookError: nothing was learnt yet, or under other settings.
    """
    zoom_out = load_zoom_out(run)
    store = ArtifactStore.create(_map_folder(run), _settings(run), NOTEBOOK)
    for image_id, segments, features in _described(run, model, store.missing(ids)):
        store.save(image_id, segments=segments, probabilities=zoom_out.probabilities(features))
    return store


def open_class_maps(run: Run) -> ArtifactStore:
    """The class probabilities that `extract_class_maps` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(_map_folder(run), NOTEBOOK, _settings(run))


def _map_folder(run: Run) -> Path:
    return run.artifacts("zoomout_maps")


def _bag_settings(run: Run) -> dict[str, Any]:
    """What the features depend on; what the SVM is given does not belong to it."""
    config = asdict(run.profile.zoomout)
    for name in ("cost", "rounds", "calibration_share"):
        del config[name]
    precision = run.profile.saliency.precision
    return run.settings("forward.zoom_out", classifier=classifier_settings(run), precision=precision, zoomout=config)


def _settings(run: Run) -> dict[str, Any]:
    """What the SVMs and the class maps depend on."""
    return _bag_settings(run) | {"zoomout": asdict(run.profile.zoomout)}


def _check_config(config: ZoomOutConfig) -> None:
    largest = {"superpixels": MAX_SUPERPIXELS, "compactness": np.inf, "train_images": np.inf, "instances": np.inf}
    for name, most in largest.items():
        if not 0 < getattr(config, name) <= most:
            raise WorkbookError(
                f"zoomout.{name} = {getattr(config, name)} must be above 0 and at most {most}; mend it in the profile"
            )
    if not 0 <= config.calibration_share < 1:
        raise WorkbookError(
            f"zoomout.calibration_share = {config.calibration_share} must be at least 0 and below 1; "
            "mend it in the profile"
        )
