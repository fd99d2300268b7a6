"""What surrounds the objects of the procedural scenes: four backgrounds, things of no class, light and camera.

Canvases are float32 (R, R, 3), 0..255, where R is the image side times the supersampling.
"""

from collections.abc import Callable

import cv2
import numpy as np

from wsseg_core.base.config import ToyVocConfig
from wsseg_core.data.toy.coats import FUR, PAINT, choose_coat, pick
from wsseg_core.data.toy.shapes import Coat, Figure, ellipse, smooth, smooth_noise, stroke

SKY = [(126, 172, 222), (186, 200, 214), (232, 186, 146), (96, 122, 170), (206, 214, 206)]
WATER = [(52, 102, 142), (70, 130, 130), (92, 112, 130), (40, 70, 110)]
GRASS = [(98, 142, 62), (140, 148, 70), (74, 116, 66), (170, 156, 96)]
ASPHALT = [(106, 106, 110), (132, 124, 116), (80, 82, 90)]
# objects that are at home in a scene
RESIDENTS = {
    "sea": ("boat", "boat", "bird"),
    "meadow": ("sheep", "sheep", "dog", "bird", "cat", "rider"),
    "road": ("car", "car", "motorbike", "motorbike", "rider", "dog"),
    "room": ("cat", "cat", "dog", "rider"),
}


def background(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """An empty scene, (size, size, 3) float32."""
    horizon = int(size * rng.uniform(0.3, 0.55))
    canvas = np.empty((size, size, 3), np.float32)
    _SCENES[name](canvas, horizon, rng)
    return canvas


def _plain(canvas: np.ndarray, rows: slice, colour: np.ndarray, rough: float, rng: np.random.Generator) -> None:
    """Fill rows with one colour and noise of three sizes."""
    size = canvas.shape[1]
    height = len(range(*rows.indices(size)))
    noise = sum(smooth_noise(rng, height, size, size / cell) for cell in (5, 30, 110))
    canvas[rows] = colour + rough * 0.6 * np.asarray(noise)[..., None]


def _sky(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    _plain(canvas, slice(0, horizon), pick(rng, SKY), 8, rng)
    canvas[:horizon] *= np.linspace(0.85, 1.12, horizon, dtype=np.float32)[:, None, None]


def _sea(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    _sky(canvas, horizon, rng)
    _plain(canvas, slice(horizon, size), pick(rng, WATER), 10, rng)
    waves = cv2.resize(rng.standard_normal((size // 5, 12)).astype(np.float32), (size, size - horizon))
    canvas[horizon:] += 17 * waves[..., None] + 40 * (waves > 1.6)[..., None]


def _meadow(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    _sky(canvas, horizon, rng)
    green = pick(rng, GRASS)
    for x in rng.uniform(0, size, 3):
        hill = ellipse(x, horizon + 0.02 * size, rng.uniform(0.2, 0.5) * size, rng.uniform(0.04, 0.16) * size)
        _fill(canvas, hill, green * rng.uniform(0.6, 0.9) + rng.normal(0, 8, 3))
    _plain(canvas, slice(horizon, size), green, 17, rng)
    for x, y in rng.uniform(0, 1, (40, 2)):
        foot = np.array([x * size, horizon + y * (size - horizon)])
        blade = foot - (rng.normal(0, 0.01) * size, rng.uniform(0.02, 0.06) * size)
        _fill(canvas, stroke(np.array([foot, blade]), 0.01 * size, 0.003 * size), green * rng.uniform(0.6, 1.3))


def _road(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    _sky(canvas, horizon, rng)
    x = 0
    while x < size:
        width, roof = int(rng.uniform(0.1, 0.25) * size), int(horizon * rng.uniform(0.15, 0.8))
        wall = pick(rng, FUR + PAINT)
        canvas[roof:horizon, x : x + width] = wall
        step = size // 20
        for y in range(roof + step // 2, horizon - step // 2, step):
            for left in range(x + step // 3, min(x + width, size) - step // 2, step):
                canvas[y : y + step // 2, left : left + step // 2] = wall * 0.5 + 90 * (rng.random() < 0.2)
        x += width
    _plain(canvas, slice(horizon, size), pick(rng, ASPHALT), 11, rng)
    line, dash = int(size * rng.uniform(0.75, 0.95)), size // 5
    for left in range(int(rng.integers(0, dash)), size, dash):
        canvas[line : line + size // 45, left : left + dash // 2] = (222, 220, 200)


def _room(canvas: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    wall = pick(rng, FUR + PAINT, 25)
    _plain(canvas, slice(0, horizon), wall, 6, rng)
    stripes = np.arange(size) // int(rng.uniform(0.03, 0.1) * size + 1) % 2
    canvas[:horizon] += rng.choice([0.0, 16.0]) * stripes[None, :, None]
    left, top = rng.uniform(0.05, 0.6) * size, rng.uniform(0.02, 0.1) * size
    wide, high = rng.uniform(0.15, 0.35) * size, horizon * rng.uniform(0.4, 0.7)
    frame = np.array([(left, top), (left + wide, top), (left + wide, top + high), (left, top + high)])
    _fill(canvas, frame, wall * 0.5)
    _fill(canvas, (frame - frame.mean(axis=0)) * 0.86 + frame.mean(axis=0), pick(rng, SKY + PAINT))
    floor = pick(rng, FUR, 15)
    _plain(canvas, slice(horizon, size), floor, 9, rng)
    boards = np.arange(size - horizon) // int(rng.uniform(0.03, 0.08) * size + 1) % 2
    canvas[horizon:] += rng.choice([0.0, 12.0]) * boards[:, None, None]
    canvas[horizon : horizon + size // 40] = wall * 0.7


_SCENES: dict[str, Callable[[np.ndarray, int, np.random.Generator], None]] = {
    "sea": _sea, "meadow": _meadow, "road": _road, "room": _room,
}  # fmt: skip


def _fill(canvas: np.ndarray, outline: np.ndarray, colour: np.ndarray) -> None:
    corners = np.round(np.asarray(outline) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [corners], np.clip(colour, 0, 255).tolist(), lineType=cv2.LINE_AA, shift=4)


def thing(rng: np.random.Generator, inner_edges: float) -> tuple[Figure, Coat]:
    """Something of no class, in the colours and coats of the objects: a ball, a stone, a crate, a pole or a bush."""
    figure, coat = Figure(), choose_coat(rng, "", inner_edges)
    kind = rng.integers(5)
    if kind == 0:
        figure.add(ellipse(50, 50, 40, 40 * rng.uniform(0.5, 1)), coat.colour, coated=True)
    elif kind == 1:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 7))
        reach = rng.uniform(25, 50, 7)
        figure.add(smooth(list(zip(50 + reach * np.cos(turns), 50 + reach * np.sin(turns), strict=True))), coat.colour,
                   coated=True)  # fmt: skip
    elif kind == 2:
        high = rng.uniform(20, 45)
        figure.add([(10, 50 - high), (90, 50 - high), (90, 50 + high), (10, 50 + high)], coat.colour, coated=True)
        figure.add([(10, 46), (90, 46), (90, 54), (10, 54)], coat.second)
    elif kind == 3:
        figure.add(stroke([(50 + rng.normal(0, 12), 0), (50, 100)], rng.uniform(5, 10)), coat.colour, coated=True)
    else:
        for x, y in rng.uniform(20, 80, (9, 2)):
            figure.add(ellipse(x, y, 18, 14, rng.uniform(0, 180)), coat.colour * rng.uniform(0.75, 1.15), coated=True)
    return figure, coat


def cross_contours(canvas: np.ndarray, rng: np.random.Generator, depth: float) -> None:
    """Lay shadows and highlights over everything, so that their edges cross those of the objects.

    Args:
        canvas: (R, R, 3) float32, changed in place.
        rng: source of randomness.
        depth: 0 leaves the canvas as it is; at 1 the darkest shadow keeps a fifth of the light.
    """
    size = canvas.shape[0]
    gain = np.ones((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        change = rng.choice([-0.8, -0.8, 0.6]) * rng.uniform(0.4, 1)
        mask = np.zeros((size, size), np.float32)
        if rng.random() < 0.3:
            mask = (smooth_noise(rng, size, size, size / 6) > 0.7).astype(np.float32)
        else:
            start, end = rng.uniform(0.05, 0.35, 2) * size
            band = stroke(rng.uniform(-0.1, 1.1, (2, 2)) * size, start, end)
            cv2.fillPoly(mask, [np.round(band).astype(np.int32)], 1.0)
        soft = int(rng.uniform(0.005, 0.05) * size) | 1
        gain *= 1 + depth * change * cv2.blur(mask, (soft, soft))
    canvas *= gain[..., None]


def photograph(canvas: np.ndarray, rng: np.random.Generator, config: ToyVocConfig) -> np.ndarray:
    """Light gradient, gain, colour cast, averaging down, blur and sensor noise.

    Returns:
        The image, (image_size, image_size, 3) uint8.
    """
    size = canvas.shape[0]
    turn = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slope = ramp[None, :] * np.float32(np.cos(turn)) + ramp[:, None] * np.float32(np.sin(turn))
    gain = (1 + rng.uniform(0, config.light) * slope) * (1 + config.light * rng.uniform(-0.8, 0.5))
    lit = np.clip(canvas * gain[..., None], 0, 255)
    image = cv2.resize(lit, (config.image_size, config.image_size), interpolation=cv2.INTER_AREA)
    image *= (1 + rng.normal(0, 0.05, 3)).astype(np.float32)
    sigma = rng.uniform(0, config.blur)
    if sigma > 0.2:  # a narrower kernel is one pixel wide
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    grain = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, config.noise))
    return np.clip(np.round(image + grain), 0, 255).astype(np.uint8)
