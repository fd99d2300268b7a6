"""The stage on which a scene is put together, and the ground truth that is read off it."""

import copy
from dataclasses import dataclass, replace

import cv2
import numpy as np

from wsseg_core.base.config import ToyVocConfig
from wsseg_core.data.images import VOID
from wsseg_core.data.toy import surroundings
from wsseg_core.data.toy.coats import choose_coat
from wsseg_core.data.toy.objects import CLASSES, DRAW
from wsseg_core.data.toy.shapes import NO_PART, Coat, Figure, Layer, render
from wsseg_core.data.toy.vehicles import seated_rider


@dataclass(frozen=True)
class SceneObject:
    """One visible object.

    Attributes:
        name: its class.
        box: xmin, ymin, xmax, ymax of its visible pixels, counted from 1 and inclusive as in VOC.
        truncated: whether it reaches beyond the image.
        occluded: whether something hides more than a twentieth of it.
    """

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    occluded: bool


@dataclass(frozen=True)
class Scene:
    """One drawn image and everything that is known about it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) uint8, 0 background, i + 1 for `CLASSES[i]`, 255 void.
        parts: (H, W) uint8, 0 none, 1 head, 2 body, 255 void.
        labels: (C,) uint8, 1 where the class is labelled; never all 0.
        objects: the visible objects of the labelled classes.
    """

    image: np.ndarray
    mask: np.ndarray
    parts: np.ndarray
    labels: np.ndarray
    objects: tuple[SceneObject, ...]


class Stage:
    """A canvas on which objects are put from back to front, and the record of who owns which pixel."""

    def __init__(self, canvas: np.ndarray, config: ToyVocConfig) -> None:
        self.canvas = canvas  # (R, R, 3) float32
        self.config = config
        self.size = canvas.shape[0]
        self.owner = np.zeros(canvas.shape[:2], np.uint8)  # 0 nobody, k the k-th object
        self.parts = np.zeros(canvas.shape[:2], np.uint8)
        self.cast: list[tuple[str, int, bool]] = []  # name, pixels drawn, truncated

    def put_thing(self, ratio: float, centre: np.ndarray, rng: np.random.Generator) -> None:
        """Put something of no class; its longer side is `ratio` of the canvas, its centre is relative as well."""
        figure, coat = surroundings.thing(rng, self.config.inner_edges)
        _place([figure], self.size, ratio, centre, rng)
        layer = render(figure, coat, self.size, rng)
        if layer is not None:
            self._paint(layer, 0, rng)

    def put_group(self, names: list[str], ratio: float, centre: np.ndarray, rng: np.random.Generator) -> None:
        """Put one object, or a motorbike and the rider who sits on it; measures as for `put_thing`.

        How many random numbers a figure takes depends on the window that it covers, and so on the size of its head.
        With other heads than usual, the objects after it therefore get the numbers that they would have got with usual
        ones, and stay as they were.
        """
        if self.config.head_to_body != 1:
            own = copy.deepcopy(rng)
            Stage(self.canvas.copy(), replace(self.config, head_to_body=1.0)).put_group(names, ratio, centre, rng)
            rng = own
        coats = [self._coat(name, centre, rng) for name in names]
        draw = DRAW | {"rider": seated_rider} if len(names) > 1 else DRAW
        figures = [draw[name](rng, coat) for name, coat in zip(names, coats, strict=True)]
        for figure in figures:
            figure.scale_head(self.config.head_to_body)
        _place(figures, self.size, ratio, centre, rng)
        for name, figure, coat in zip(names, figures, coats, strict=True):
            layer = render(figure, coat, self.size, rng)
            if layer is not None:
                self.cast.append((name, int((layer.parts > 0).sum()), layer.truncated))
                self._paint(layer, len(self.cast), rng)

    def _coat(self, name: str, centre: np.ndarray, rng: np.random.Generator) -> Coat:
        """A coat of the class, or one in the colour of what will lie behind it."""
        coat = choose_coat(rng, name, self.config.inner_edges, self.config.own_coats)
        deviation = rng.normal(0, 6, 3)
        if rng.random() < self.config.camouflage:
            x, y = (np.clip(centre, 0.1, 0.9) * self.size).astype(int)
            reach = self.size // 12
            behind = self.canvas[y - reach : y + reach, x - reach : x + reach].mean(axis=(0, 1)) + deviation
            coat.second = coat.second + behind - coat.colour
            coat.colour = np.clip(behind, 8, 250)
        return coat

    def _paint(self, layer: Layer, owner: int, rng: np.random.Generator) -> None:
        solid = layer.parts > 0
        opacity: np.ndarray = solid.astype(np.float32)
        sigma = rng.uniform(0, self.config.blur) * self.config.supersampling
        if sigma > 0.3:
            opacity = cv2.GaussianBlur(opacity, (0, 0), sigma)
        self._cast_shadow(layer, rng)
        self.canvas[layer.window] += opacity[..., None] * (layer.colour - self.canvas[layer.window])
        self.owner[layer.window][solid] = owner
        self.parts[layer.window][solid] = layer.parts[solid] if owner else NO_PART

    def _cast_shadow(self, layer: Layer, rng: np.random.Generator) -> None:
        """Darken the ground beside a figure: its outline, flattened and sheared about its feet."""
        rows, columns = layer.window
        flat, shear, depth = rng.uniform((0.15, -0.5, 0.2), (0.4, 0.5, 0.9)) * (1, 1, self.config.shadows)
        height = int(np.ceil(flat * (rows.stop - rows.start)))
        lean = np.array([[1, -shear, columns.start + shear * layer.parts.shape[0]], [0, flat, 0]])
        shadow = cv2.warpAffine((layer.parts > 0).astype(np.float32), lean, (self.size, height))
        ground = self.canvas[rows.stop - height : rows.stop]
        ground *= 1 - np.float32(depth) * cv2.blur(shadow, (5, 5))[..., None]

    def scene(self, image: np.ndarray) -> Scene:
        """Read masks, labels and boxes off the canvas, at the size of the image.

        Args:
            image: the photograph of this stage, (H, W, 3) uint8.
        """
        step = self.config.supersampling
        owner = self.owner[step // 2 :: step, step // 2 :: step]
        parts = self.parts[step // 2 :: step, step // 2 :: step].copy()
        values = np.array([0] + [CLASSES.index(name) + 1 for name, _, _ in self.cast], np.uint8)
        mask = values[owner]
        mask[_contour(owner)] = VOID
        counts = np.bincount(mask.ravel(), minlength=VOID + 1)[1 : len(CLASSES) + 1]
        labels = (counts >= max(1, self.config.min_label_fraction * mask.size)).astype(np.uint8)
        mask[np.isin(mask, np.flatnonzero(labels == 0) + 1)] = VOID
        parts[mask == VOID] = VOID
        return Scene(image, mask, parts, labels, self._objects(owner, labels))

    def _objects(self, owner: np.ndarray, labels: np.ndarray) -> tuple[SceneObject, ...]:
        objects = []
        for k, (name, drawn, truncated) in enumerate(self.cast, start=1):
            y, x = np.nonzero(owner == k)
            if len(x) and labels[CLASSES.index(name)]:
                box = (int(x.min()) + 1, int(y.min()) + 1, int(x.max()) + 1, int(y.max()) + 1)
                objects.append(SceneObject(name, box, truncated, len(x) * self.config.supersampling**2 < 0.95 * drawn))
        return tuple(objects)


def _place(figures: list[Figure], size: int, ratio: float, centre: np.ndarray, rng: np.random.Generator) -> None:
    """Map figures that share a frame onto the canvas: the longer side of the group is `ratio` of the canvas."""
    bounds = [figure.bounds() for figure in figures]
    low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
    scale = size * ratio / (high - low).max()
    turn = np.radians(rng.normal(0, 7))
    flip = rng.choice([-1, 1])
    matrix = scale * np.array([[flip * np.cos(turn), -np.sin(turn)], [flip * np.sin(turn), np.cos(turn)]])
    shift = centre * size - matrix @ ((low + high) / 2)
    for figure in figures:
        figure.transform(np.column_stack([matrix, shift]))


def _contour(owner: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour belongs to another object; (H, W) bool, one pixel wide."""
    edge = np.zeros(owner.shape, bool)
    edge[:, :-1] |= owner[:, :-1] != owner[:, 1:]
    edge[:-1] |= owner[:-1] != owner[1:]
    return edge
