"""Class maps of the forward pass, alone (FCN-MIL) and enhanced by saliency maps of the backward pass.

Shimoda & Yanai, MIRU 2016, slides, part 1, and the poster "Weakly-Supervised Segmentation by Combining CNN Feature Maps
and Object Saliency Maps". Maps of the forward pass are coarse but know the class; maps of guided back-propagation,
here without subtraction, are sharp but mix the classes. The second are to enhance the first.

FCN-MIL: Pathak et al., "Fully Convolutional Multi-Class Multiple Instance Learning", ICLR 2015 workshop.
Image-level prior: Pinheiro & Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks",
CVPR 2015.

Slides and poster say "class probability maps", "unify by ILP and thresholding", "super-pixel-based CRF", and no more.
So each step is a choice with a name; none of them looks at a mask:

    class map     softmax          over all C classes at a position: which class, if any (the default)
                  sigmoid          of each class by itself, as the classifier was trained
    combination   product, geometric_mean, sum (the mean of the two), maximum; pixel by pixel, class by class
    foreground    saliency         the saliency maps say how surely there is an object, the combined maps which one
                  complement       the background is what the best combined map leaves, as in DCSM eq. 7
                  otsu             the same, after each combined map is bent so that its threshold is at one half
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from skimage.filters import threshold_otsu
from torch import Tensor, nn
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import classifier_settings
from wsseg_core.data.run import Run
from wsseg_core.data.transforms import resize_and_pad, unpad
from wsseg_core.saliency.subtraction import background

NOTEBOOK = "05_forward_and_backward_maps"
CLASS_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=0),
    "sigmoid": torch.sigmoid,
}
COMBINATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": torch.mul,
    "geometric_mean": lambda forward, saliency: (forward * saliency).sqrt(),
    "sum": lambda forward, saliency: (forward + saliency) / 2,
    "maximum": torch.maximum,
}
FOREGROUNDS = ("saliency", "complement", "otsu")


def pixel_probabilities(score_map: Tensor, size: tuple[int, int], class_map: str) -> Tensor:
    """Probability of every class at every pixel, from the classifier's score map.

    The scores are up-sampled first, and squashed then: what is interpolated are logits.

    The slides leave the function open. The sigmoid is the one of the training loss, but training saw only the largest
    score of each map (global max pooling): a few positions are saturated and the rest of the object may score as low
    as the background. The softmax over all C classes takes the background for nothing, but it compares classes where
    they stand, and keeps the rest of an object with its class; how much of the image is an object, it cannot say.

    Args:
        score_map: float (C, h, w), before the sigmoid, of the padded square input.
        size: (H, W) of the image.
        class_map: one of `CLASS_MAPS`.

    Returns:
        float32 (C, H, W) in [0, 1].

    Raises:
        WorkbookError: an unknown class map.
    """
    check_name("class map", class_map, CLASS_MAPS)
    return CLASS_MAPS[class_map](unpad(score_map.float(), size))


def image_level_prior(maps: Tensor, probabilities: Tensor) -> Tensor:
    """Weigh every pixel's class probability with the image's: float (T, H, W) times float (T,), both in [0, 1].

    Pinheiro & Collobert use it to suppress classes that are not in the image.
    """
    return maps * probabilities[:, None, None]


def combine(forward: Tensor, saliency: Tensor, combination: str) -> Tensor:
    """Enhance class maps of the forward pass with saliency maps of the same classes.

    Args:
        forward: float (T, H, W) in [0, 1].
        saliency: float (T, H, W) in [0, 1].
        combination: one of `COMBINATIONS`.

    Returns:
        float (T, H, W) in [0, 1].

    Raises:
        WorkbookError: an unknown combination.
    """
    check_name("combination", combination, COMBINATIONS)
    return COMBINATIONS[combination](forward, saliency)


def add_background(combined: Tensor, saliency: Tensor | None, foreground: str) -> Tensor:
    """Put the background before the class maps; the image itself decides how much of it there is, never a mask.

    With s_c the saliency and m_c the combined map of class c:

        saliency     p(c) = max_c' s_c' · m_c / Σ_c' m_c',  p(background) = 1 − max_c' s_c'
        complement   p(c) = m_c,  p(background) = 1 − max_c' m_c'  (DCSM eq. 7)
        otsu         `complement` with m_c to the power of log ½ / log t_c, t_c being Otsu's threshold of the values of
                     m_c in this image: t_c becomes ½, and the class is drawn where it is above its threshold, unless
                     another class is more so. A constant map has no threshold and stays as it is.

    Args:
        combined: float (T, H, W) in [0, 1].
        saliency: float (T, H, W) in [0, 1]; only "saliency" asks for it.
        foreground: one of `FOREGROUNDS`.

    Returns:
        float32 (T+1, H, W) in [0, 1], the background first. Under "saliency" the rows sum to 1, and where no combined
        map says anything the classes share the foreground equally; else rows need not sum to 1.

    Raises:
        WorkbookError: an unknown foreground, or "saliency" without saliency maps.
    """
    check_name("foreground", foreground, FOREGROUNDS)
    if foreground == "saliency":
        if saliency is None:
            raise WorkbookError("foreground 'saliency' needs saliency maps; give them or use complement or otsu")
        rest = background(saliency)
        return torch.cat([rest[None], (1 - rest) * _shares(combined)])
    if foreground == "otsu":
        combined = _bend(combined)
    return torch.cat([background(combined)[None], combined])


def _shares(maps: Tensor) -> Tensor:
    """Each map's share of their sum, (T, H, W); equal shares where the sum is 0."""
    total = maps.sum(0)
    return torch.where(total > 0, maps / total.where(total > 0, 1), 1 / max(len(maps), 1))


def _bend(maps: Tensor) -> Tensor:
    bent = maps.clone()
    for index, values in enumerate(maps.double()):  # of float32 values, a threshold in float64 is never 0 or 1
        if values.min() < values.max():
            threshold = float(threshold_otsu(values.numpy()))
            bent[index] = values ** (math.log(0.5) / math.log(threshold))
    return bent


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a choice that has no such name, and say those that there are.

    Raises:
        WorkbookError: the name is not among the known ones.
    """
    if name not in known:
        raise WorkbookError(f"{what} {name!r} is not known; use one of {', '.join(known)}")


def extract_score_maps(run: Run, model: nn.Module, ids: Sequence[str]) -> ArtifactStore:
    """Write the classifier's score maps of images at the base size; those that are on disk already are left alone.

    Args:
        run: the run.
        model: the classifier as `saliency.prepare` returns it.
        ids: images.

    Returns:
        The store. Of every image: `scores`, float16 (C, h, w), before the sigmoid, of the padded square input.
    """
    store = ArtifactStore.create(run.artifacts("score_maps"), _score_map_settings(run), NOTEBOOK)
    missing = store.missing(ids)
    if not missing:
        return store
    batch_size, like = run.profile.saliency.batch_size, next(model.parameters())
    with torch.inference_mode(), tqdm(total=len(missing), desc="score maps", mininterval=1.0) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            images = [resize_and_pad(run.devkit.image(image_id), run.profile.data.image_size) for image_id in batch]
            score_maps = model(torch.stack(images).to(like).to(memory_format=torch.channels_last))  # (B, C, h, w)
            for image_id, scores in zip(batch, score_maps.half().cpu().numpy(), strict=True):
                store.save(image_id, scores=scores)
            bar.update(len(batch))
    return store


def open_score_maps(run: Run) -> ArtifactStore:
    """The score maps that `extract_score_maps` wrote.

    Raises:
        WorkbookError: they are missing, or were made under other settings.
    """
    return ArtifactStore.open(run.artifacts("score_maps"), NOTEBOOK, _score_map_settings(run))


def _score_map_settings(run: Run) -> dict[str, Any]:
    precision = run.profile.saliency.precision
    return run.settings("forward.class_maps", classifier=classifier_settings(run), precision=precision)
