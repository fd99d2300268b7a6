"""Who stands where: the composition of one scene."""

import numpy as np

from wsseg_core.base.config import ToyVocConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.toy import surroundings
from wsseg_core.data.toy.objects import CLASSES
from wsseg_core.data.toy.stage import Scene, Stage

SPLITS = ("train", "val")
ATTEMPTS = 50
CROWDING = (1, 0.85, 0.72)  # objects are smaller where there are two or three
# who comes along with whom, and how often; times the co-occurrence
PARTNERS = {
    "rider": ("motorbike", 0.6),
    "motorbike": ("rider", 0.6),
    "cat": ("dog", 0.3),
    "dog": ("cat", 0.2),
    "sheep": ("dog", 0.25),
    "boat": ("bird", 0.25),
}


def draw_scene(index: int, split: str, config: ToyVocConfig) -> Scene:
    """Draw one image of a split.

    Its random numbers are seeded by (seed, split, index). Background, clutter, objects, occluder and light each
    have a generator of their own, so that turning one factor leaves the rest of the picture as it was:

    - shadows, light, blur, noise, inner edges and camouflage do not change the mask;
    - an occluder and things of clutter come or go, one after the other, and nothing else moves;
    - under another head-to-body ratio an object keeps class, pose, colours and place, but not its grain and shadow;
    - co-occurrence decides who is there: where a partner comes or goes, all objects are drawn anew, in the same
      surroundings.

    A scene none of whose objects would be labelled is drawn anew as a whole.

    Args:
        index: which one, from 0.
        split: "train" or "val".
        config: the factors.

    Raises:
        WorkbookError: the factors leave no object large enough to be labelled.
    """
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    for _ in range(ATTEMPTS):
        scene = _draw(rng, config)
        if scene.labels.any():
            return scene
    raise WorkbookError(
        f"toyvoc: no object of {split} image {index} reaches min_label_fraction = {config.min_label_fraction}; "
        "lower it, or raise object_size"
    )


def _draw(rng: np.random.Generator, config: ToyVocConfig) -> Scene:
    behind, clutter, cast, front, light = rng.spawn(5)
    name = str(behind.choice(list(surroundings.RESIDENTS)))
    stage = Stage(surroundings.background(name, behind, config.image_size * config.supersampling), config)
    for _ in range(int(clutter.integers(0, config.clutter + 1))):
        stage.put_thing(clutter.uniform(0.08, 0.3), clutter.uniform(0, 1, 2), clutter)
    _put_objects(stage, _choose_objects(name, cast, config), cast)
    if front.random() < config.occlusion:
        stage.put_thing(front.uniform(0.2, 0.5), front.uniform(0.2, 0.8, 2), front)
    surroundings.cross_contours(stage.canvas, light, config.shadows)
    return stage.scene(surroundings.photograph(stage.canvas, light, config))


def _choose_objects(scene: str, rng: np.random.Generator, config: ToyVocConfig) -> list[str]:
    count = 1 + int(rng.choice(len(config.object_counts), p=config.object_counts))
    names: list[str] = []
    while len(names) < count:
        follows = rng.random() < config.context
        names.append(str(rng.choice(surroundings.RESIDENTS[scene] if follows else CLASSES)))
        partner, probability = PARTNERS.get(names[-1], ("", 0.0))
        if rng.random() < probability * config.cooccurrence:
            names.append(partner)
    return names[:3]


def _put_objects(stage: Stage, names: list[str], rng: np.random.Generator) -> None:
    """Put the objects side by side, in random order; a rider next to a motorbike mostly sits on it."""
    count = len(names)
    slots = rng.permutation(count)
    while names:
        slot = slots[len(names) - 1]
        seated = set(names[:2]) == {"rider", "motorbike"} and rng.random() < 0.85
        group = ["motorbike", "rider"] if seated else names[:1]
        names = names[len(group) :]
        ratio = CROWDING[count - 1] * rng.uniform(*stage.config.object_size) * (1.15 if seated else 1)
        centre = np.array([(slot + 0.5) / count + rng.normal(0, 0.07), rng.uniform(0.4, 0.68)])
        stage.put_group(group, ratio, centre, rng)
