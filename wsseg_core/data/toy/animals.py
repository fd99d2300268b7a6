"""Bird, cat, dog and sheep. Cats and dogs share their body, and its poses; the head tells them apart."""

import numpy as np

from wsseg_core.data.toy.coats import DARK, EYES, PAINT, pick
from wsseg_core.data.toy.shapes import HEAD, Coat, Colour, Figure, bend, ellipse, smooth, stroke


def _eye(figure: Figure, x: float, y: float, iris: Colour | tuple, radius: float = 2.6) -> None:
    figure.add(ellipse(x, y, radius, radius), (245, 245, 240), HEAD)
    figure.add(ellipse(x + 0.2 * radius, y, 0.75 * radius, 0.75 * radius), iris, HEAD)
    figure.add(ellipse(x + 0.3 * radius, y, 0.4 * radius, 0.4 * radius), (10, 10, 12), HEAD)


def _leg(figure: Figure, rng: np.random.Generator, x: float, colour: Colour, width: float, coated: bool = True) -> None:
    knee, foot = x + rng.normal(0, 1.5), x + rng.normal(0, 4.5)
    figure.add(stroke(bend([(x, 56), (knee, 74), (foot, 90)]), 1.7 * width, width), colour, coated=coated)
    figure.add(ellipse(foot + 1.4, 91, 0.75 * width, 0.45 * width), colour * 0.85)


def _standing(figure: Figure, rng: np.random.Generator, coat: Coat, girth: float, leg: float) -> None:
    for x in (31, 60):
        _leg(figure, rng, x, coat.colour * 0.68, leg)
    low = 62 + 5 * girth
    figure.add(stroke([(62, 50), (74, 36)], 19 * girth, 13), coat.colour, coated=True)
    torso = [(15, 52), (21, 39), (45, 42), (63, 37), (77, 48), (70, low), (46, low + 2), (20, low - 1)]
    figure.add(smooth(torso), coat.colour, coated=True)
    for x in (25, 66):
        _leg(figure, rng, x, coat.colour * 0.92, leg)


def _sitting(figure: Figure, coat: Coat, leg: float) -> None:
    figure.add(stroke([(58, 56), (58, 89)], 8, leg), coat.colour * 0.68, coated=True)
    torso = [(26, 92), (22, 72), (38, 54), (52, 40), (70, 38), (73, 58), (66, 84), (52, 94)]
    figure.add(smooth(torso), coat.colour, coated=True)
    figure.add(stroke([(64, 58), (65, 89)], 10, leg), coat.colour * 0.94, coated=True)
    figure.add(ellipse(39, 79, 14, 12, -20), coat.colour * 0.9, coated=True)
    for x in (50, 67):
        figure.add(ellipse(x, 91, 6, 3), coat.colour * 0.82)


def _pet_body(rng: np.random.Generator, coat: Coat) -> tuple[Figure, tuple[float, float]]:
    """The body that cats and dogs share, and where its tail begins."""
    figure = Figure(neck=(70, 42))
    if rng.random() < 0.3:
        _sitting(figure, coat, leg=5.5)
        return figure, (27, 86)
    _standing(figure, rng, coat, rng.uniform(0.75, 1.15), rng.uniform(4.5, 6.5))
    return figure, (21, 46)


def cat(rng: np.random.Generator, coat: Coat) -> Figure:
    """A cat: round face, pointed ears, whiskers, a long thin tail."""
    figure, (tx, ty) = _pet_body(rng, coat)
    up = rng.uniform(16, 40)
    figure.add(stroke(bend([(tx, ty), (tx - 14, ty - 4), (tx - 12, ty - up), (tx - 4, ty - up - 6)]), 5, 3.4),
               coat.colour * 0.85, coated=True)  # fmt: skip
    x, y = 75 + rng.normal(0, 1.5), 31 + rng.normal(0, 1.5)
    for side in (-1, 1):
        figure.add([(x + side * 14, y - 2), (x + side * 13, y - 21), (x + side * 2, y - 10)], coat.colour * 0.8, HEAD)
        figure.add([(x + side * 11, y - 7), (x + side * 11.5, y - 16), (x + side * 5, y - 10)], (226, 150, 150), HEAD)
    figure.add(smooth([(x - 17, y + 3), (x - 13, y - 13), (x, y - 15), (x + 13, y - 13), (x + 17, y + 3), (x + 8, y + 14),
                       (x - 8, y + 14)]), coat.colour * 1.05, HEAD, coated=True)  # fmt: skip
    for shift in (-4, 0, 4):
        figure.add(stroke([(x + shift, y - 12), (x + 0.7 * shift, y - 6)], 1.6), coat.colour * 0.45, HEAD)
    iris = pick(rng, EYES)
    for side in (-1, 1):
        figure.add(ellipse(x + side * 3.4, y + 6.5, 4.2, 3.2), coat.colour * 0.5 + 125, HEAD)
        figure.add(ellipse(x + side * 6.2, y - 1.5, 3.8, 3.2, side * 15), iris, HEAD)
        figure.add(ellipse(x + side * 6.2, y - 1.5, 1.1, 2.9), (10, 10, 12), HEAD)
        for k in (-1.5, 1, 3.5):
            figure.add(stroke([(x + side * 5, y + 6), (x + side * 20, y + 5 + k)], 0.7), (235, 235, 235), HEAD)
    figure.add([(x - 2.2, y + 3), (x + 2.2, y + 3), (x, y + 6)], (214, 110, 120), HEAD)
    return figure


def dog(rng: np.random.Generator, coat: Coat) -> Figure:
    """A dog: long snout in profile, hanging ear, tongue, collar."""
    figure, (tx, ty) = _pet_body(rng, coat)
    tip = rng.uniform(6, 24)
    figure.add(stroke(bend([(tx, ty), (tx - 9, ty - 4), (tx - 15, ty - tip)]), 7, 3), coat.colour * 0.85, coated=True)
    figure.add(stroke([(64, 38), (75, 47)], 3.2), pick(rng, PAINT))
    x, y = 75 + rng.normal(0, 1.5), 29 + rng.normal(0, 1.5)
    if rng.random() < 0.6:
        figure.add(smooth([(x + 9, y + 9), (x + 15, y + 9), (x + 15, y + 21), (x + 10, y + 20)]), (222, 90, 104), HEAD)
    figure.add(ellipse(x, y, 13, 12), coat.colour * 1.03, HEAD, coated=True)
    figure.add(smooth([(x + 3, y - 6), (x + 15, y - 2), (x + 25, y + 2), (x + 25, y + 9), (x + 14, y + 13), (x, y + 13)]),
               coat.colour * 0.6 + 70, HEAD, coated=True)  # fmt: skip
    figure.add(stroke([(x + 8, y + 9), (x + 22, y + 8)], 1), DARK, HEAD)
    figure.add(ellipse(x + 23, y + 1.5, 3.6, 2.8), DARK, HEAD)
    _eye(figure, x + 6, y - 4, (80, 48, 22))
    ear = coat.second * 0.6 if rng.random() < 0.5 else coat.colour * 0.5
    figure.add(smooth([(x - 4, y - 13), (x - 13, y - 8), (x - 17, y + 12), (x - 8, y + 19), (x - 1, y + 6)]), ear, HEAD)
    return figure


def sheep(rng: np.random.Generator, coat: Coat) -> Figure:
    """A sheep: a long bare face with ears at the sides and a cap of wool, a curly coat."""
    figure = Figure(neck=(66, 44))
    face = pick(rng, [(48, 42, 42), (226, 206, 190), (120, 92, 76)])
    for x, shade in ((31, 0.7), (58, 0.7), (25, 1.0), (64, 1.0)):
        _leg(figure, rng, x, face * shade, 4.6, coated=False)
    rx, ry = rng.uniform(25, 29), rng.uniform(17, 21)
    for t in np.linspace(0, 2 * np.pi, 15, endpoint=False):
        r = rng.uniform(5.5, 8)
        figure.add(ellipse(44 + rx * np.cos(t), 52 + ry * np.sin(t), r, r), coat.colour * 0.96, coated=True)
    figure.add(ellipse(44, 52, rx + 1, ry + 1), coat.colour, coated=True)
    for _ in range(7):
        x, y = 44 + rng.uniform(-0.7, 0.7) * rx, 52 + rng.uniform(-0.7, 0.7) * ry
        figure.add(stroke(bend([(x - 4, y), (x, y + 5), (x + 4, y)]), 1.2), coat.colour * 0.72)
    x, y = 77 + rng.normal(0, 1.5), 42 + rng.normal(0, 2)
    for side in (-1, 1):
        figure.add(ellipse(x - 2 + side * 12, y - 5, 7.5, 3.4, side * 18), face * 0.85, HEAD)
    figure.add(smooth([(x - 11, y - 12), (x + 7, y - 13), (x + 10, y), (x + 8, y + 15), (x, y + 19), (x - 6, y + 13)]),
               face, HEAD)  # fmt: skip
    if rng.random() < 0.4:
        horn = bend([(x - 6, y - 11), (x - 20, y - 14), (x - 20, y + 2), (x - 9, y + 1), (x - 11, y - 6)])
        figure.add(stroke(horn, 5.5, 2.5), (196, 170, 128), HEAD)
    for k in range(5):
        figure.add(
            ellipse(x - 10 + 4 * k, y - 13 + rng.uniform(-2, 1), 4.6, 4.6), coat.colour * 1.03, HEAD, coated=True
        )
    for side in (-1, 1):
        _eye(figure, x - 0.5 + side * 4.6, y - 2, (30, 24, 20), 2.3)
        figure.add(ellipse(x + 1.5 + side * 2, y + 12.5, 1.1, 0.8), face * 0.4, HEAD)
    return figure


def bird(rng: np.random.Generator, coat: Coat) -> Figure:
    """A bird, on its legs or in flight: round head, beak, folded or spread wings."""
    flying = rng.random() < 0.35
    figure = Figure(neck=(66, 47))
    dark = coat.colour * 0.6
    figure.add([(30, 52), (8, 56 + rng.normal(0, 4)), (3, 65), (8, 72), (34, 66)], dark)
    if flying:
        tip = rng.uniform(0, 14)
        figure.add(smooth([(46, 50), (50, 26), (68, tip), (76, tip + 6), (66, 36), (62, 52)]), dark * 0.85, coated=True)
    else:
        for x in (45, 53):
            foot = x + rng.normal(0, 2)
            figure.add(stroke([(x, 68), (foot, 90)], 1.8), (206, 130, 50))
            figure.add(stroke([(foot - 3, 91), (foot + 6, 91)], 1.8), (206, 130, 50))
    figure.add(smooth([(16, 62), (32, 45), (56, 38), (74, 38), (76, 56), (62, 73), (36, 72)]), coat.colour, coated=True)
    if flying:
        wing = [(62, 54), (58, 34), (38, tip + 2), (20, tip + 4), (22, tip + 16), (30, 44), (42, 60)]
    else:
        wing = [(60, 48), (64, 58), (46, 67), (16, 70), (24, 56), (42, 47)]
    figure.add(smooth(wing), coat.second * 0.7, coated=True)
    root, ends = np.array(wing[0]), np.array(wing[2:5])
    for end in ends:
        figure.add(stroke([0.55 * root + 0.45 * end, 0.12 * root + 0.88 * end], 1), coat.second * 0.35)
    x, y = 71 + rng.normal(0, 1), 37 + rng.normal(0, 1.5)
    length = rng.uniform(9, 20)
    beak = pick(rng, [(240, 160, 40), (60, 54, 50), (232, 210, 90)])
    figure.add([(x + 7, y - 4), (x + 10 + length, y + 2), (x + 7, y + 5)], beak, HEAD)
    figure.add(stroke([(x + 8, y + 1), (x + 7 + length, y + 2)], 0.8), beak * 0.5, HEAD)
    figure.add(ellipse(x, y, 11.5, 11), coat.colour * 1.05, HEAD, coated=True)
    if rng.random() < 0.6:
        figure.add(
            smooth([(x - 11, y - 2), (x - 8, y - 12), (x + 6, y - 12), (x + 11, y - 3)]), coat.second * 0.8, HEAD
        )
    _eye(figure, x + 4.5, y - 2, DARK, 2.8)
    return figure
