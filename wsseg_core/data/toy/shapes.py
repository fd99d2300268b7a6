"""The pencil of the procedural scenes: outlines, figures made of them, coats, and the layer a figure becomes.

A figure is drawn in object units: a frame of about 100 x 100, x to the right, y down, facing right. `render` maps
it onto the canvas, so that everything is filled once, at the resolution of the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

NO_PART, HEAD, BODY = 0, 1, 2

Colour = np.ndarray  # (3,) float, RGB, 0..255
Outline = np.ndarray  # (n, 2) float, a closed polygon in object units
Points = Sequence[tuple[float, float]] | np.ndarray


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Outline:
    """An ellipse around (x, y) with radii rx and ry, turned clockwise by `turn` degrees; (24, 2)."""
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * c - v * s, y + u * s + v * c], axis=1)


def smooth(points: Points, at: tuple[float, float] = (0, 0)) -> Outline:
    """A closed curve that rounds the corners of a polygon, moved by `at`.

    Three rounds of corner cutting (Chaikin, "An algorithm for high-speed curve generation", 1974).
    """
    p = np.asarray(points, float)
    for _ in range(3):
        following = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * following, 0.25 * p + 0.75 * following], axis=1).reshape(-1, 2)
    return p + at


def bend(points: Points, at: tuple[float, float] = (0, 0)) -> np.ndarray:
    """An open curve that rounds the inner corners of a line and keeps its two ends, moved by `at`."""
    p = np.asarray(points, float)
    for _ in range(3):
        cut = np.stack([0.75 * p[:-1] + 0.25 * p[1:], 0.25 * p[:-1] + 0.75 * p[1:]], axis=1).reshape(-1, 2)
        p = np.concatenate([p[:1], cut, p[-1:]])
    return p + at


def stroke(points: Points, width: float, end_width: float | None = None) -> Outline:
    """The outline of a line with round ends whose width goes from `width` to `end_width`."""
    p = np.asarray(points, float)
    along = np.gradient(p, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    half = np.linspace(width, width if end_width is None else end_width, len(p))[:, None] / 2
    turn = np.linspace(0, np.pi, 7)[1:-1, None]
    end = p[-1] + half[-1] * (np.cos(turn) * across[-1] + np.sin(turn) * along[-1])
    start = p[0] - half[0] * (np.cos(turn) * across[0] + np.sin(turn) * along[0])
    return np.concatenate([p + half * across, end, (p - half * across)[::-1], start])


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Noise of about zero mean and unit deviation that changes over `cell` pixels; (height, width) float32."""
    grid = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


@dataclass
class Coat:
    """What covers the body of an object: two colours, the pattern that they form, and grain.

    Attributes:
        colour: the main colour.
        second: the colour of the pattern and of contrasting parts.
        pattern: one of `PATTERNS`.
        grain: amplitude of the fine noise, grey levels.
    """

    colour: Colour
    second: Colour
    pattern: str = "plain"
    grain: float = 6.0


PATTERNS = ("plain", "stripes", "patches", "spots", "belly")


def pattern_weight(rng: np.random.Generator, pattern: str, height: int, width: int) -> np.ndarray:
    """Where the second colour of a coat shows; (height, width) float32 in 0..1."""
    side = max(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32) / side
    if pattern == "stripes":
        turn, period = rng.uniform(0, np.pi), rng.uniform(0.06, 0.16)
        phase = (x * np.cos(turn) + y * np.sin(turn)) / period + 0.35 * smooth_noise(rng, height, width, side / 5)
        return (np.sin(2 * np.pi * phase) > rng.uniform(0, 0.6)).astype(np.float32)
    if pattern == "patches":
        return (smooth_noise(rng, height, width, side / 4) > 0.35).astype(np.float32)
    if pattern == "spots":
        return (smooth_noise(rng, height, width, side / 14) > 0.9).astype(np.float32)
    if pattern == "belly":
        return np.clip((y * side / height - rng.uniform(0.5, 0.7)) * 8, 0, 1).astype(np.float32)
    return np.zeros((height, width), np.float32)


@dataclass
class Shape:
    """One filled outline; `coated` ones take the pattern and the grain of the coat."""

    outline: Outline
    colour: Colour
    part: int
    coated: bool


@dataclass
class Figure:
    """Shapes from back to front, and the point about which the head is scaled."""

    neck: tuple[float, float] = (50.0, 50.0)
    shapes: list[Shape] = field(default_factory=list)

    def add(self, outline: Points, colour: Colour | tuple, part: int = BODY, coated: bool = False) -> None:
        """Put one more shape in front."""
        self.shapes.append(Shape(np.asarray(outline, float), np.asarray(colour, float), part, coated))

    def scale_head(self, ratio: float) -> None:
        """Scale the head about the neck."""
        for shape in self.shapes:
            if shape.part == HEAD:
                shape.outline = (shape.outline - self.neck) * ratio + self.neck

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper left and lower right corner in object units, each (2,)."""
        points = np.concatenate([shape.outline for shape in self.shapes])
        return points.min(axis=0), points.max(axis=0)

    def transform(self, matrix: np.ndarray) -> None:
        """Map every outline by a (2, 3) affine matrix."""
        for shape in self.shapes:
            shape.outline = shape.outline @ matrix[:, :2].T + matrix[:, 2]


@dataclass
class Layer:
    """A rendered figure, cut to the window of the canvas that it covers.

    Attributes:
        window: rows and columns of the canvas.
        colour: (h, w, 3) float32, 0..255.
        parts: (h, w) uint8, `NO_PART` outside.
        truncated: whether the figure reaches beyond the canvas.
    """

    window: tuple[slice, slice]
    colour: np.ndarray
    parts: np.ndarray
    truncated: bool


def render(figure: Figure, coat: Coat, size: int, rng: np.random.Generator) -> Layer | None:
    """Fill a figure whose outlines are in pixels of a square canvas.

    Args:
        figure: the figure, already mapped onto the canvas.
        coat: pattern and grain of its coated shapes.
        size: side of the canvas, pixels.
        rng: draws pattern, grain and shading.

    Returns:
        The layer, or nothing when the figure lies outside of the canvas.
    """
    low, high = figure.bounds()
    left, top = np.clip(np.floor(low).astype(int), 0, size)
    right, bottom = np.clip(np.ceil(high).astype(int) + 1, 0, size)
    if right - left < 2 or bottom - top < 2:
        return None
    # the colour outside of the figure shows where its contour is blurred
    colour = np.full((bottom - top, right - left, 3), np.clip(coat.colour, 0, 255), np.uint8)
    parts = np.zeros(colour.shape[:2], np.uint8)
    coated = np.zeros(colour.shape[:2], np.uint8)
    for shape in figure.shapes:
        # fillPoly takes fixed-point corners: 4 bits of a pixel
        corners = np.round((shape.outline - (left, top)) * 16).astype(np.int32)
        cv2.fillPoly(colour, [corners], tuple(np.clip(shape.colour, 0, 255).tolist()), shift=4)
        cv2.fillPoly(parts, [corners], shape.part, shift=4)
        cv2.fillPoly(coated, [corners], int(shape.coated), shift=4)
    truncated = bool((low < 0).any() or (high > size).any())
    shaded = _shade(_cover(colour.astype(np.float32), coated, coat, rng), parts, rng)
    return Layer((slice(top, bottom), slice(left, right)), shaded, parts, truncated)


def _cover(colour: np.ndarray, coated: np.ndarray, coat: Coat, rng: np.random.Generator) -> np.ndarray:
    height, width = coated.shape
    weight = pattern_weight(rng, coat.pattern, height, width) * coated
    change = (coat.second - coat.colour).astype(np.float32)
    grain = coat.grain * (0.7 * smooth_noise(rng, height, width, 3) + 0.7 * smooth_noise(rng, height, width, 20))
    return colour + weight[..., None] * change + (grain * (0.4 + 0.6 * coated))[..., None]


def _shade(colour: np.ndarray, parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from above: the rim that faces it is brighter, the other one darker."""
    reach = max(3, min(parts.shape) // 6) | 1
    solid = cv2.blur((parts > 0).astype(np.float32), (reach, reach))
    slope = cv2.Sobel(solid, cv2.CV_32F, 0, 1, ksize=3) + 0.5 * cv2.Sobel(solid, cv2.CV_32F, 1, 0, ksize=3)
    strength = rng.uniform(0.1, 0.35) * reach / 8
    return colour * np.clip(1 + strength * slope, 0.6, 1.35)[..., None]
