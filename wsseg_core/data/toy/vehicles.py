"""Boat, car, motorbike and rider. Car and motorbike share their wheels.

The head of a boat is mast and sails, of a car its cabin, of a motorbike its tank, handlebar, fork and lamp.
"""

import numpy as np

from wsseg_core.data.toy.coats import DARK, FUR, GLASS, HAIR, METAL, PAINT, SKIN, TYRE, pick
from wsseg_core.data.toy.shapes import HEAD, Coat, Colour, Figure, bend, ellipse, smooth, stroke

CANVAS = (244, 240, 230)
WOOD = (110, 76, 46)


def boat(rng: np.random.Generator, coat: Coat) -> Figure:
    """A sailing boat: hull as body, mast and sails as head."""
    figure = Figure(neck=(48, 70))
    bow = rng.uniform(59, 65)
    if rng.random() < 0.5:
        figure.add([(52, 70), (54, 60), (76, 59), (80, 70)], (232, 228, 216))
        for x in (59, 66, 73):
            figure.add(ellipse(x, 64.5, 2, 2), (70, 100, 130))
    hull = [(3, 68), (28, 69), (72, 68), (98, bow), (85, 88), (78, 93), (18, 93), (9, 86)]
    figure.add(hull, coat.colour, coated=True)
    figure.add([(4, 73), (95, 71), (92, 76), (5, 78)], coat.second)
    figure.add([(13, 89), (84, 89), (78, 93), (18, 93)], coat.colour * 0.55)
    _sails(figure, rng, mast=46 + rng.normal(0, 4), top=rng.uniform(4, 14))
    return figure


def _sails(figure: Figure, rng: np.random.Generator, mast: float, top: float) -> None:
    boom = rng.uniform(80, 92)
    colour = pick(rng, [CANVAS] * 4 + PAINT, 8)
    figure.add(stroke([(mast, 71), (mast, top)], 2.2, 1.6), WOOD, HEAD)
    main = [(mast + 2, top + 3), (mast + 0.5 * (boom - mast) + 6, 34), (boom, 62), (mast + 2, 64)]
    figure.add(main, colour, HEAD)
    for height in (0.35, 0.6, 0.82):
        y = top + height * (63 - top)
        edge = mast + 2 + height * (boom - mast - 4)
        figure.add(stroke([(mast + 2, y), (edge, y - 1)], 1.2), colour * 0.6, HEAD)
    figure.add(stroke([(mast, 65), (boom + 1, 63)], 1.8), WOOD, HEAD)
    if rng.random() < 0.75:
        jib = [(mast - 2, top + 10), (mast - 2, 63), (mast - rng.uniform(26, 36), 65)]
        figure.add(jib, pick(rng, [CANVAS] * 2 + PAINT, 8), HEAD)
    figure.add([(mast, top), (mast, top + 5), (mast - 9, top + 2.5)], pick(rng, PAINT), HEAD)


def _wheel(figure: Figure, x: float, y: float, radius: float, spokes: int) -> None:
    for ratio, colour in ((1, TYRE), (0.72, METAL), (0.6, (92, 92, 98))):
        figure.add(ellipse(x, y, ratio * radius, ratio * radius), colour)
    for t in np.linspace(0, 2 * np.pi, spokes, endpoint=False):
        tip = (x + 0.64 * radius * np.cos(t), y + 0.64 * radius * np.sin(t))
        figure.add(stroke([(x, y), tip], 0.11 * radius), METAL)
    figure.add(ellipse(x, y, 0.2 * radius, 0.2 * radius), (200, 200, 204))


def car(rng: np.random.Generator, coat: Coat) -> Figure:
    """A car seen from the side: cabin with windows as head."""
    figure = Figure(neck=(46, 52))
    pillar = _cabin(figure, rng, coat)
    body = [(2, 57), (7, 51), (30, 50), (80, 51), (95, 55), (98, 62), (98, 71), (95, 74), (4, 74), (2, 70)]
    figure.add(body, coat.colour, coated=True)
    figure.add([(2, 69), (98, 69), (97, 74), (4, 74)], coat.colour * 0.5)
    for x in (pillar, 73):
        figure.add(stroke([(x, 52), (x, 70)], 0.8), coat.colour * 0.45)
    figure.add(stroke([(pillar + 4, 57), (pillar + 9, 57)], 1.6), METAL)
    figure.add(ellipse(95, 59, 3, 2.6), (255, 244, 190))
    figure.add([(2, 57), (5, 57), (5, 64), (2, 64)], (206, 34, 34))
    for x in (22, 78):
        figure.add(ellipse(x, 72, 12.5, 12.5), coat.colour * 0.35)
        _wheel(figure, x, 74, 11, 6)
    return figure


def _cabin(figure: Figure, rng: np.random.Generator, coat: Coat) -> float:
    """Roof and windows; returns where the pillar between the windows stands."""
    back, front, roof = rng.uniform(8, 26), rng.uniform(58, 66), rng.uniform(28, 35)
    rear = back + rng.uniform(2, 14)
    outline = [(back, 53), (rear, roof + 2), (rear + 5, roof), (front - 4, roof), (front, roof + 2), (81, 53)]
    figure.add(outline, coat.colour * 0.92, HEAD, coated=True)
    pillar, top = 0.5 * (rear + front), roof + 4
    glass = np.array(GLASS) * rng.uniform(0.4, 1.05)
    figure.add([(back + 5, 51), (rear + 5, top), (pillar - 1.5, top), (pillar - 1.5, 51)], glass, HEAD)
    figure.add([(pillar + 1.5, 51), (pillar + 1.5, top), (front - 3, top), (74, 51)], glass, HEAD)
    figure.add([(pillar + 5, 51), (pillar + 9, top), (pillar + 12, top), (pillar + 8, 51)], glass * 1.2, HEAD)
    return pillar


def motorbike(rng: np.random.Generator, coat: Coat) -> Figure:
    """A motorbike: tank, handlebar, fork and lamp as head."""
    figure = Figure(neck=(58, 56))
    radius = rng.uniform(14, 16.5)
    for x in (19, 81):
        _wheel(figure, x, 76, radius, 10)
    figure.add(stroke([(19, 76), (44, 70)], 4), (96, 96, 102))
    figure.add(stroke([(30, 56), (46, 78), (62, 76), (68, 54)], 3.4), (70, 70, 76))
    figure.add([(38, 60), (62, 58), (64, 76), (58, 82), (42, 81)], (122, 122, 128))
    for y in np.linspace(63, 77, 5):
        figure.add(stroke([(42, y), (60, y - 1)], 1.1), (48, 48, 52))
    figure.add(stroke(bend([(58, 78), (48, 84), (24, 82), (6, 79)]), 4.2, 5), METAL)
    mudguard = smooth([(6, 62), (14, 55), (30, 56), (40, 62), (28, 68), (12, 66)])
    figure.add(mudguard, coat.colour * 0.9, coated=True)
    figure.add(smooth([(12, 54), (26, 50), (46, 54), (46, 60), (24, 59)]), (44, 38, 38))
    _steering(figure, coat)
    return figure


def _steering(figure: Figure, coat: Coat) -> None:
    """Fork, front mudguard, tank, handlebar and lamp."""
    figure.add(stroke([(81, 76), (69, 46)], 3.6), METAL, HEAD)
    mudguard = smooth([(66, 66), (70, 57), (86, 58), (98, 68), (90, 64), (74, 64)])
    figure.add(mudguard, coat.colour * 0.9, HEAD, coated=True)
    tank = smooth([(40, 56), (46, 42), (62, 41), (71, 48), (68, 59), (50, 62)])
    figure.add(tank, coat.colour, HEAD, coated=True)
    figure.add(smooth([(48, 52), (54, 47), (66, 49), (60, 54)]), coat.second, HEAD)
    figure.add(stroke(bend([(70, 48), (68, 36), (58, 36)]), 2.6), DARK, HEAD)
    figure.add(stroke([(62, 36), (56, 37)], 3.6), DARK, HEAD)
    figure.add(ellipse(75, 47, 6, 6), METAL, HEAD)
    figure.add(ellipse(77, 47, 4.6, 5), (255, 246, 196), HEAD)


def _face(figure: Figure, rng: np.random.Generator, x: float, y: float, skin: Colour) -> None:
    """A head with hair or a helmet, turned a little to the right."""
    figure.add(stroke([(x - 1, y + 6), (x - 1, y + 13)], 7), skin * 0.85, HEAD)
    figure.add(ellipse(x, y, 8.6, 10), skin, HEAD)
    for eye in (x - 1.2, x + 5.2):
        figure.add(ellipse(eye, y - 0.5, 1.5, 1.3), (245, 245, 240), HEAD)
        figure.add(ellipse(eye + 0.4, y - 0.5, 0.9, 1.1), DARK, HEAD)
    figure.add(stroke([(x + 3, y + 1), (x + 4, y + 3)], 1), skin * 0.7, HEAD)
    figure.add(stroke([(x, y + 5.5), (x + 5, y + 5.3)], 1.2), (160, 60, 60), HEAD)
    if rng.random() < 0.5:
        shell = pick(rng, PAINT)
        helmet = smooth([(-11, 6), (-12, -8), (-2, -15), (9, -11), (11, -3), (-3, -4), (-5, 8)], at=(x, y))
        figure.add(helmet, shell, HEAD)
        figure.add(stroke([(x - 9, y - 6), (x + 8, y - 8)], 1.8), shell * 0.5 + 110, HEAD)
    else:
        long = rng.uniform(-2, 12)
        hair = smooth([(-8, long), (-11, -6), (-4, -13), (7, -12), (10, -3), (4, -6), (-4, -4), (-6, long)], at=(x, y))
        figure.add(hair, pick(rng, HAIR), HEAD)


def seated_rider(rng: np.random.Generator, coat: Coat) -> Figure:
    """A rider on the seat of the motorbike, in the frame of `motorbike`."""
    figure = Figure(neck=(44, 17))
    skin, trousers = pick(rng, SKIN, 6), pick(rng, PAINT + FUR)
    figure.add(stroke(bend([(33, 51), (60, 54), (50, 76)]), 12, 7), trousers)
    figure.add(ellipse(54, 78, 7, 3.4), DARK)
    jacket = smooth([(26, 54), (24, 40), (34, 18), (48, 15), (54, 26), (46, 46), (42, 56)])
    figure.add(jacket, coat.colour, coated=True)
    figure.add(stroke([(46, 20), (42, 50)], 1.2), coat.second)
    figure.add(stroke(bend([(45, 23), (50, 38), (62, 36)]), 9.5, 6), coat.colour * 0.82, coated=True)
    figure.add(ellipse(63, 36, 3.8, 3.6), skin)
    _face(figure, rng, 47, 5, skin)
    return figure


def rider(rng: np.random.Generator, coat: Coat) -> Figure:
    """A rider on foot."""
    figure = Figure(neck=(50, 27))
    skin, trousers = pick(rng, SKIN, 6), pick(rng, PAINT + FUR)
    for side, shade in ((-1, 0.75), (1, 1.0)):
        foot = 50 + side * rng.uniform(5, 14)
        figure.add(stroke(bend([(50 + side * 5, 58), (50 + side * 7, 76), (foot, 94)]), 11, 7), trousers * shade)
        figure.add(ellipse(foot + 2.5, 96, 6.5, 3), DARK)
    _arm(figure, rng, -1, coat, skin)
    jacket = smooth([(34, 30), (44, 25), (57, 25), (66, 30), (62, 46), (63, 63), (38, 63), (38, 46)])
    figure.add(jacket, coat.colour, coated=True)
    figure.add(stroke([(51, 27), (51, 62)], 1.4), coat.second)
    figure.add([(38, 57), (63, 57), (63, 60), (38, 60)], DARK)
    _arm(figure, rng, 1, coat, skin)
    _face(figure, rng, 50, 15, skin)
    return figure


def _arm(figure: Figure, rng: np.random.Generator, side: int, coat: Coat, skin: Colour) -> None:
    elbow, hand, low = 50 + side * rng.uniform(19, 25), 50 + side * rng.uniform(14, 32), rng.uniform(46, 62)
    sleeve = bend([(50 + side * 12, 31), (elbow, 44), (hand, low)])
    figure.add(stroke(sleeve, 9, 6), coat.colour * (0.84 + 0.06 * side), coated=True)
    figure.add(ellipse(hand, low + 2, 3.6, 3.6), skin)
