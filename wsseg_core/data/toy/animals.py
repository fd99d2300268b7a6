"""Bird, cat, dog and sheep. Cats and dogs share their body and its poses; the head tells them apart.

Measures are object units (see `shapes`); a head is drawn about its own centre and moved to its place.
"""

import numpy as np

from wsseg_core.data.toy.coats import DARK, EYES, PAINT, pick
from wsseg_core.data.toy.shapes import HEAD, Coat, Colour, Figure, bend, ellipse, smooth, stroke


def _eye(figure: Figure, x: float, y: float, iris: Colour | tuple, radius: float) -> None:
    figure.add(ellipse(x, y, radius, radius), (245, 245, 240), HEAD)
    figure.add(ellipse(x + 0.2 * radius, y, 0.75 * radius, 0.75 * radius), iris, HEAD)
    figure.add(ellipse(x + 0.3 * radius, y, 0.4 * radius, 0.4 * radius), (10, 10, 12), HEAD)


def _leg(figure: Figure, rng: np.random.Generator, x: float, colour: Colour, width: float, coated: bool = True) -> None:
    knee, foot = x + rng.normal(0, 1.5), x + rng.normal(0, 4.5)
    figure.add(stroke(bend([(x, 56), (knee, 74), (foot, 90)]), 1.7 * width, width), colour, coated=coated)
    figure.add(ellipse(foot + 1.4, 91, 0.75 * width, 0.45 * width), colour * 0.85)


def _standing(figure: Figure, rng: np.random.Generator, coat: Coat) -> None:
    girth, leg = rng.uniform(0.75, 1.15), rng.uniform(4.5, 6.5)
    for x in (31, 60):
        _leg(figure, rng, x, coat.colour * 0.68, leg)
    low = 62 + 5 * girth
    figure.add(stroke([(62, 50), (74, 36)], 19 * girth, 13), coat.colour, coated=True)
    torso = smooth([(15, 52), (21, 39), (45, 42), (63, 37), (77, 48), (70, low), (46, low + 2), (20, low - 1)])
    figure.add(torso, coat.colour, coated=True)
    for x in (25, 66):
        _leg(figure, rng, x, coat.colour * 0.92, leg)


def _sitting(figure: Figure, coat: Coat) -> None:
    figure.add(stroke([(58, 56), (58, 89)], 8, 5.5), coat.colour * 0.68, coated=True)
    torso = smooth([(24, 94), (20, 72), (38, 54), (52, 34), (74, 28), (75, 58), (66, 84), (52, 94)])
    figure.add(torso, coat.colour, coated=True)
    figure.add(stroke([(64, 58), (65, 89)], 10, 5.5), coat.colour * 0.94, coated=True)
    figure.add(ellipse(39, 79, 14, 12, -20), coat.colour * 0.9, coated=True)
    for x in (50, 67):
        figure.add(ellipse(x, 91, 6, 3), coat.colour * 0.82)


def _pet_body(rng: np.random.Generator, coat: Coat) -> tuple[Figure, tuple[float, float]]:
    """The body that cats and dogs share, and where its tail begins."""
    figure = Figure(neck=(70, 42))
    if rng.random() < 0.3:
        _sitting(figure, coat)
        return figure, (30, 85)
    _standing(figure, rng, coat)
    return figure, (21, 46)


def cat(rng: np.random.Generator, coat: Coat) -> Figure:
    """A cat: round face, pointed ears, whiskers, a long thin tail."""
    figure, root = _pet_body(rng, coat)
    up = rng.uniform(16, 40)
    tail = bend([(0, 0), (-14, -4), (-12, -up), (-4, -up - 6)], at=root)
    figure.add(stroke(tail, 5, 3.4), coat.colour * 0.85, coated=True)
    _cat_head(figure, rng, coat, 75 + rng.normal(0, 1.5), 31 + rng.normal(0, 1.5))
    return figure


def _cat_head(figure: Figure, rng: np.random.Generator, coat: Coat, x: float, y: float) -> None:
    for side in (-1, 1):
        ear = np.array([(14, -2), (13, -21), (2, -10)]) * (side, 1) + (x, y)
        figure.add(ear, coat.colour * 0.8, HEAD)
        figure.add((ear - ear.mean(axis=0)) * 0.5 + ear.mean(axis=0), (226, 150, 150), HEAD)
    face = smooth([(-17, 3), (-13, -13), (0, -15), (13, -13), (17, 3), (8, 14), (-8, 14)], at=(x, y))
    figure.add(face, coat.colour * 1.05, HEAD, coated=True)
    for shift in (-4, 0, 4):
        figure.add(stroke([(x + shift, y - 12), (x + 0.7 * shift, y - 6)], 1.6), coat.colour * 0.45, HEAD)
    iris = pick(rng, EYES)
    for side in (-1, 1):
        figure.add(ellipse(x + side * 3.4, y + 6.5, 4.2, 3.2), coat.colour * 0.5 + 125, HEAD)
        figure.add(ellipse(x + side * 6.2, y - 1.5, 3.8, 3.2, side * 15), iris, HEAD)
        figure.add(ellipse(x + side * 6.2, y - 1.5, 1.1, 2.9), (10, 10, 12), HEAD)
        for droop in (3.5, 6, 8.5):
            figure.add(stroke([(x + side * 5, y + 6), (x + side * 20, y + droop)], 0.7), (235, 235, 235), HEAD)
    figure.add([(x - 2.2, y + 3), (x + 2.2, y + 3), (x, y + 6)], (214, 110, 120), HEAD)


def dog(rng: np.random.Generator, coat: Coat) -> Figure:
    """A dog: long snout in profile, hanging ear, tongue, collar."""
    figure, root = _pet_body(rng, coat)
    tail = bend([(0, 0), (-9, -4), (-15, -rng.uniform(6, 24))], at=root)
    figure.add(stroke(tail, 7, 3), coat.colour * 0.85, coated=True)
    figure.add(stroke([(64, 38), (75, 47)], 3.2), pick(rng, PAINT))
    x, y = 75 + rng.normal(0, 1.5), 29 + rng.normal(0, 1.5)
    if rng.random() < 0.6:
        figure.add(smooth([(9, 9), (15, 9), (15, 21), (10, 20)], at=(x, y)), (222, 90, 104), HEAD)
    figure.add(ellipse(x, y, 13, 12), coat.colour * 1.03, HEAD, coated=True)
    snout = smooth([(3, -6), (15, -2), (25, 2), (25, 9), (14, 13), (0, 13)], at=(x, y))
    figure.add(snout, coat.colour * 0.6 + 70, HEAD, coated=True)
    figure.add(stroke([(x + 8, y + 9), (x + 22, y + 8)], 1), DARK, HEAD)
    figure.add(ellipse(x + 23, y + 1.5, 3.6, 2.8), DARK, HEAD)
    _eye(figure, x + 6, y - 4, (80, 48, 22), 2.6)
    ear = coat.second * 0.6 if rng.random() < 0.5 else coat.colour * 0.5
    figure.add(smooth([(-4, -13), (-13, -8), (-17, 12), (-8, 19), (-1, 6)], at=(x, y)), ear, HEAD)
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
    for dx, dy in rng.uniform(-0.7, 0.7, (7, 2)):
        curl = bend([(-4, 0), (0, 5), (4, 0)], at=(44 + dx * rx, 52 + dy * ry))
        figure.add(stroke(curl, 1.2), coat.colour * 0.72)
    _sheep_head(figure, rng, coat, face, 77 + rng.normal(0, 1.5), 42 + rng.normal(0, 2))
    return figure


def _sheep_head(figure: Figure, rng: np.random.Generator, coat: Coat, face: Colour, x: float, y: float) -> None:
    for side in (-1, 1):
        figure.add(ellipse(x - 2 + side * 12, y - 5, 7.5, 3.4, side * 18), face * 0.85, HEAD)
    figure.add(smooth([(-11, -12), (7, -13), (10, 0), (8, 15), (0, 19), (-6, 13)], at=(x, y)), face, HEAD)
    if rng.random() < 0.4:
        horn = bend([(-6, -11), (-20, -14), (-20, 2), (-9, 1), (-11, -6)], at=(x, y))
        figure.add(stroke(horn, 5.5, 2.5), (196, 170, 128), HEAD)
    for dx, dy in zip((-10, -6, -2, 2, 6), rng.uniform(-15, -12, 5), strict=True):
        figure.add(ellipse(x + dx, y + dy, 4.6, 4.6), coat.colour * 1.03, HEAD, coated=True)
    for side in (-1, 1):
        _eye(figure, x - 0.5 + side * 4.6, y - 2, (30, 24, 20), 2.3)
        figure.add(ellipse(x + 1.5 + side * 2, y + 12.5, 1.1, 0.8), face * 0.4, HEAD)


def bird(rng: np.random.Generator, coat: Coat) -> Figure:
    """A bird, on its legs or in flight: round head, beak, folded or spread wings."""
    flying, tip = rng.random() < 0.35, rng.uniform(0, 14)
    figure = Figure(neck=(66, 47))
    figure.add([(30, 52), (8, 56 + rng.normal(0, 4)), (3, 65), (8, 72), (34, 66)], coat.colour * 0.6)
    if flying:
        far_wing = smooth([(46, 50), (50, 26), (68, tip), (76, tip + 6), (66, 36), (62, 52)])
        figure.add(far_wing, coat.colour * 0.5, coated=True)
    else:
        for x, foot in zip((45, 53), rng.normal((45, 53), 2), strict=True):
            figure.add(stroke([(x, 68), (foot, 90)], 1.8), (206, 130, 50))
            figure.add(stroke([(foot - 3, 91), (foot + 6, 91)], 1.8), (206, 130, 50))
    body = smooth([(16, 62), (32, 45), (56, 38), (74, 38), (76, 56), (62, 73), (36, 72)])
    figure.add(body, coat.colour, coated=True)
    if flying:
        wing = np.array([(62, 54), (58, 34), (38, tip + 2), (20, tip + 4), (22, tip + 16), (30, 44), (42, 60)])
    else:
        wing = np.array([(60, 48), (64, 58), (46, 67), (16, 70), (24, 56), (42, 47)])
    figure.add(smooth(wing), coat.second * 0.7, coated=True)
    for end in wing[2:5]:
        feather = np.array([0.55 * wing[0] + 0.45 * end, 0.12 * wing[0] + 0.88 * end])
        figure.add(stroke(feather, 1), coat.second * 0.35)
    _bird_head(figure, rng, coat, 71 + rng.normal(0, 1), 37 + rng.normal(0, 1.5))
    return figure


def _bird_head(figure: Figure, rng: np.random.Generator, coat: Coat, x: float, y: float) -> None:
    length = rng.uniform(9, 20)
    beak = pick(rng, [(240, 160, 40), (60, 54, 50), (232, 210, 90)])
    figure.add([(x + 7, y - 4), (x + 10 + length, y + 2), (x + 7, y + 5)], beak, HEAD)
    figure.add(stroke([(x + 8, y + 1), (x + 7 + length, y + 2)], 0.8), beak * 0.5, HEAD)
    figure.add(ellipse(x, y, 11.5, 11), coat.colour * 1.05, HEAD, coated=True)
    if rng.random() < 0.6:
        figure.add(smooth([(-11, -2), (-8, -12), (6, -12), (11, -3)], at=(x, y)), coat.second * 0.8, HEAD)
    _eye(figure, x + 4.5, y - 2, DARK, 2.8)
