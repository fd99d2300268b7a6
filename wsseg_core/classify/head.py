"""The first phase of the classifier's training, from the stored features of its trunk.

The head gets the maps that the trunk would give it, see `classify.features`. Under average pooling a linear head gets
their averages at once: the average of linear scores is the score of the average.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from wsseg_core.classify.features import FeatureStore, extract_features
from wsseg_core.classify.scores import image_scores, label_loss, pooling_of, precision_by_class
from wsseg_core.classify.training import Key, Recipe
from wsseg_core.data.run import Run
from wsseg_core.nets.backbones import outline_of

Maps = Callable[[str, int], Tensor]  # of an image at an input size, float32 (channels, h, w)


class LabelledFeatures(Dataset):
    """Maps of images with their image-level labels, indexed by (step, index of the image).

    All images of a step have one size, drawn by (seed, step). Half of the maps are mirrored, by (seed, step, index):
    nearly, but not quite, those of the mirrored image.

    Args:
        maps: of an image at a size, float32 (channels, h, w).
        ids: of the images.
        labels: float32 (n, C) of 0 and 1.
        sizes: to draw from.
        flip: whether to mirror.
        seed: of both.
    """

    def __init__(
        self,
        maps: Maps,
        ids: Sequence[str],
        labels: Tensor,
        sizes: Sequence[int],
        flip: bool,
        seed: int,
    ) -> None:
        self.maps, self.ids, self.labels = maps, ids, labels
        self.sizes, self.flip, self.seed = sizes, flip, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        """Map, float32 (channels, h, w), and labels, float32 (C,)."""
        step, index = key
        size = self.sizes[int(np.random.default_rng([self.seed, step]).integers(len(self.sizes)))]
        values = self.maps(self.ids[index], size)
        if self.flip and np.random.default_rng([self.seed, step, index]).random() < 0.5:
            values = values.flip(2)
        return values, self.labels[index]


def head_recipe(run: Run, model: nn.Module, recipe: Recipe) -> Recipe:
    """A recipe for images turned into one for their stored features, which are made first where they are missing.

    Args:
        run: the run.
        model: the classifier whose head learns.
        recipe: of its first phase.

    Raises:
        WorkbookError: the features do not fit on the disk.
    """
    sizes, store = run.profile.features.sizes, extract_features(run, model)
    averaged = pooling_of(model) == "average" and hasattr(model, "top")
    part, maps = (
        ("score", _averages(run, model, store)) if averaged else ("head", partial(store.map, name=_deep(model)))
    )
    labels = torch.from_numpy(run.devkit.label_matrix(run.train_ids)).float()
    dataset = LabelledFeatures(maps, run.train_ids, labels, sizes, run.profile.classifier.flip, run.seed)
    stored = run.profile.data.image_size in sizes
    validate = partial(_precisions, part=part, run=run, maps=maps) if stored else recipe.validate
    return replace(recipe, loss=partial(_loss, part=part), dataset=dataset, validate=validate)


def _deep(model: nn.Module) -> str:
    return outline_of(model).deep


@torch.no_grad()
def _averages(run: Run, model: nn.Module, store: FeatureStore) -> Maps:
    """Averages of the maps that the scores are read off, of all images, (channels, 1, 1) each."""
    top = cast(Callable[[Tensor], Tensor], model.eval().top)
    keys = [(i, size) for size in run.profile.features.sizes for i in (*run.train_ids, *run.val_ids)]
    found = {
        (i, size): top(store.map(i, size, _deep(model))[None])[0].mean((1, 2), keepdim=True)
        for i, size in tqdm(keys, desc="averages of features", mininterval=1.0)
    }
    return lambda image_id, size: found[image_id, size]


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
    maps, labels = batch
    return label_loss(image_scores(getattr(model, part)(maps), pooling_of(model)), labels)


@torch.no_grad()
def _precisions(model: nn.Module, part: str, run: Run, maps: Maps) -> dict[str, float]:
    size, head = run.profile.data.image_size, getattr(model, part)
    scores = [image_scores(head(maps(i, size)[None].to(_like(model))), pooling_of(model)) for i in run.val_ids]
    return precision_by_class(run, torch.cat(scores).sigmoid().float().cpu().numpy())


def _like(model: nn.Module) -> Tensor:
    return next(model.parameters())
