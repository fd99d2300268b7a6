"""Boat, car, motorbike and rider. Car and motorbike share wheels.

The head of a boat is mast and sails, of a car its cabin, of a motorbike its tank, handlebar, fork and lamp.
"""

import numpy as np

from wsseg_core.data.toy.coats import DARK, FUR, GLASS, HAIR, METAL, PAINT, SKIN, TYRE, pick
from wsseg_core.data.toy.shapes import HEAD, Coat, Colour, Figure, bend, ellipse, smooth, stroke


def boat(rng: np.random.Generator, coat: Coat) -> Figure:
    """A sailing boat: hull as body, mast and sails as head."""
    figure = Figure(neck=(48, 70))
    bow = rng.uniform(60, 66)
    if rng.random() < 0.5:
        figure.add([(52, 70), (54, 60), (76, 59), (80, 70)], (232, 228, 216))
        for x in (59, 66, 73):
            figure.add(ellipse(x, 64.5, 2, 2), (70, 100, 130))
    figure.add(
        [(4, 69), (28, 70), (72, 69), (98, bow), (84, 86), (78, 89), (18, 89), (10, 84)], coat.colour, coated=True
    )
    figure.add([(5, 73), (94, 71), (91, 76), (6, 77)], coat.second)
    figure.add([(13, 86), (84, 86), (78, 89), (18, 89)], coat.colour * 0.55)
    mast, top = 46 + rng.normal(0, 4), rng.uniform(2, 12)
    canvas = pick(rng, [(244, 240, 230)] * 4 + PAINT, 8)
    figure.add(stroke([(mast, 71), (mast, top)], 2.2, 1.6), (110, 76, 46), HEAD)
    boom = rng.uniform(80, 92)
    main = [(mast + 2, top + 3), (mast + 0.5 * (boom - mast) + 6, 34), (boom, 62), (mast + 2, 64)]
    figure.add(main, canvas, HEAD)
    for k in (0.35, 0.6, 0.82):
        y = top + k * (63 - top)
        edge = mast + 2 + k * (boom - mast - 4)
        figure.add(stroke([(mast + 2, y), (edge, y - 1)], 1.2), canvas * 0.6, HEAD)
    figure.add(stroke([(mast, 65), (boom + 1, 63)], 1.8), (110, 76, 46), HEAD)
    if rng.random() < 0.75:
        jib = pick(rng, [(244, 240, 230)] * 2 + PAINT, 8)
        figure.add([(mast - 2, top + 10), (mast - 2, 63), (mast - rng.uniform(26, 36), 65)], jib, HEAD)
    figure.add([(mast, top), (mast, top + 5), (mast - 9, top + 2.5)], pick(rng, PAINT), HEAD)
    return figure


def _wheel(figure: Figure, x: float, y: float, radius: float, spokes: int) -> None:
    figure.add(ellipse(x, y, radius, radius), TYRE)
    figure.add(ellipse(x, y, 0.72 * radius, 0.72 * radius), METAL)
    figure.add(ellipse(x, y, 0.6 * radius, 0.6 * radius), (92, 92, 98))
    for t in np.linspace(0, 2 * np.pi, spokes, endpoint=False):
        tip = (x + 0.64 * radius * np.cos(t), y + 0.64 * radius * np.sin(t))
        figure.add(stroke([(x, y), tip], 0.11 * radius), METAL)
    figure.add(ellipse(x, y, 0.2 * radius, 0.2 * radius), (200, 200, 204))


def car(rng: np.random.Generator, coat: Coat) -> Figure:
    """A car seen from the side: cabin with windows as head."""
    figure = Figure(neck=(46, 52))
    back, slope = rng.uniform(8, 26), rng.uniform(2, 14)
    roof, front = rng.uniform(28, 35), rng.uniform(58, 66)
    cabin = [
        (back, 53),
        (back + slope, roof + 2),
        (back + slope + 5, roof),
        (front - 4, roof),
        (front, roof + 2),
        (81, 53),
    ]
    figure.add(cabin, coat.colour * 0.92, HEAD, coated=True)
    pillar = 0.5 * (back + slope + front)
    glass = np.array(GLASS) * rng.uniform(0.4, 1.05)
    rear = [(back + 5, 51), (back + slope + 5, roof + 4), (pillar - 1.5, roof + 4), (pillar - 1.5, 51)]
    fore = [(pillar + 1.5, 51), (pillar + 1.5, roof + 4), (front - 3, roof + 4), (74, 51)]
    for window in (rear, fore):
        figure.add(window, glass, HEAD)
    figure.add([(pillar + 5, 51), (pillar + 9, roof + 4), (pillar + 12, roof + 4), (pillar + 8, 51)], glass * 1.2, HEAD)
    figure.add([(2, 57), (7, 51), (30, 50), (80, 51), (95, 55), (98, 62), (98, 71), (95, 74), (4, 74), (2, 70)],
               coat.colour, coated=True)  # fmt: skip
    figure.add([(2, 69), (98, 69), (97, 74), (4, 74)], coat.colour * 0.5)
    for x in (pillar, front + 10):
        figure.add(stroke([(x, 52), (x, 70)], 0.8), coat.colour * 0.45)
    figure.add(stroke([(pillar + 4, 57), (pillar + 9, 57)], 1.6), METAL)
    figure.add(ellipse(95, 59, 3, 2.6), (255, 244, 190))
    figure.add([(2, 57), (5, 57), (5, 64), (2, 64)], (206, 34, 34))
    for x in (22, 78):
        figure.add(ellipse(x, 72, 12.5, 12.5), coat.colour * 0.35)
        _wheel(figure, x, 74, 11, 6)
    return figure


def motorbike(rng: np.random.Generator, coat: Coat) -> Figure:
    """A motorbike: tank, handlebar, fork and lamp as head."""
    figure = Figure(neck=(58, 56))
    radius = rng.uniform(14, 16.5)
    _wheel(figure, 19, 76, radius, 10)
    _wheel(figure, 81, 76, radius, 10)
    figure.add(stroke([(19, 76), (44, 70)], 4), (96, 96, 102))
    figure.add(stroke([(30, 56), (46, 78), (62, 76), (68, 54)], 3.4), (70, 70, 76))
    figure.add([(38, 60), (62, 58), (64, 76), (58, 82), (42, 81)], (122, 122, 128))
    for k in range(5):
        figure.add(stroke([(42, 63 + 3.4 * k), (60, 62 + 3.4 * k)], 1.1), (48, 48, 52))
    figure.add(stroke(bend([(58, 78), (48, 84), (24, 82), (6, 79)]), 4.2, 5), METAL)
    figure.add(smooth([(6, 62), (14, 55), (30, 56), (40, 62), (28, 68), (12, 66)]), coat.colour * 0.9, coated=True)
    figure.add(smooth([(12, 54), (26, 50), (46, 54), (46, 60), (24, 59)]), (44, 38, 38))
    figure.add(stroke([(81, 76), (69, 46)], 3.6), METAL, HEAD)
    figure.add(
        smooth([(66, 66), (70, 57), (86, 58), (98, 68), (90, 64), (74, 64)]), coat.colour * 0.9, HEAD, coated=True
    )
    figure.add(smooth([(40, 56), (46, 42), (62, 41), (71, 48), (68, 59), (50, 62)]), coat.colour, HEAD, coated=True)
    figure.add(smooth([(48, 52), (54, 47), (66, 49), (60, 54)]), coat.second, HEAD)
    figure.add(stroke(bend([(70, 48), (68, 36), (58, 36)]), 2.6), DARK, HEAD)
    figure.add(stroke([(62, 36), (56, 37)], 3.6), DARK, HEAD)
    figure.add(ellipse(75, 47, 6, 6), METAL, HEAD)
    figure.add(ellipse(77, 47, 4.6, 5), (255, 246, 196), HEAD)
    return figure


def _face(figure: Figure, rng: np.random.Generator, x: float, y: float, skin: Colour) -> None:
    """A head with hair or a helmet, turned a little to the right."""
    figure.add(stroke([(x - 1, y + 6), (x - 1, y + 13)], 7), skin * 0.85, HEAD)
    figure.add(ellipse(x, y, 8.6, 10), skin, HEAD)
    for side in (-1, 1):
        figure.add(ellipse(x + 2 + side * 3.2, y - 0.5, 1.5, 1.3), (245, 245, 240), HEAD)
        figure.add(ellipse(x + 2.4 + side * 3.2, y - 0.5, 0.9, 1.1), DARK, HEAD)
    figure.add(stroke([(x + 3, y + 1), (x + 4, y + 3)], 1), skin * 0.7, HEAD)
    figure.add(stroke([(x, y + 5.5), (x + 5, y + 5.3)], 1.2), (160, 60, 60), HEAD)
    if rng.random() < 0.5:
        shell = pick(rng, PAINT)
        figure.add(smooth([(x - 11, y + 6), (x - 12, y - 8), (x - 2, y - 15), (x + 9, y - 11), (x + 11, y - 3), (x - 3, y - 4),
                           (x - 5, y + 8)]), shell, HEAD)  # fmt: skip
        figure.add(stroke([(x - 9, y - 6), (x + 8, y - 8)], 1.8), shell * 0.5 + 110, HEAD)
        return
    hair = pick(rng, HAIR)
    long = rng.uniform(-2, 12)
    figure.add(smooth([(x - 8, y + long), (x - 11, y - 6), (x - 4, y - 13), (x + 7, y - 12), (x + 10, y - 3), (x + 4, y - 6),
                       (x - 4, y - 4), (x - 6, y + long)]), hair, HEAD)  # fmt: skip


def _clothes(rng: np.random.Generator) -> tuple[Colour, Colour]:
    return pick(rng, SKIN, 6), pick(rng, PAINT + FUR)


def seated_rider(rng: np.random.Generator, coat: Coat) -> Figure:
    """A rider on the seat of the motorbike, in the frame of `motorbike`."""
    figure = Figure(neck=(44, 17))
    skin, trousers = _clothes(rng)
    figure.add(stroke(bend([(33, 51), (60, 54), (50, 76)]), 12, 7), trousers)
    figure.add(ellipse(54, 78, 7, 3.4), DARK)
    figure.add(smooth([(26, 54), (24, 40), (34, 18), (48, 15), (54, 26), (46, 46), (42, 56)]), coat.colour, coated=True)
    figure.add(stroke([(46, 20), (42, 50)], 1.2), coat.second)
    figure.add(stroke(bend([(45, 23), (50, 38), (62, 36)]), 9.5, 6), coat.colour * 0.82, coated=True)
    figure.add(ellipse(63, 36, 3.8, 3.6), skin)
    _face(figure, rng, 47, 5, skin)
    return figure


def rider(rng: np.random.Generator, coat: Coat) -> Figure:
    """A rider on foot."""
    figure = Figure(neck=(50, 27))
    skin, trousers = _clothes(rng)
    for side, shade in ((-1, 0.75), (1, 1.0)):
        foot = 50 + side * rng.uniform(5, 14)
        figure.add(stroke(bend([(50 + side * 5, 58), (50 + side * 7, 76), (foot, 94)]), 11, 7), trousers * shade)
        figure.add(ellipse(foot + 2.5, 96, 6.5, 3), DARK)
    for side, shade in ((-1, 0.78), (1, 0.9)):
        if side == 1:
            figure.add(smooth([(34, 30), (44, 25), (57, 25), (66, 30), (62, 46), (63, 63), (38, 63), (38, 46)]),
                       coat.colour, coated=True)  # fmt: skip
            figure.add(stroke([(51, 27), (51, 62)], 1.4), coat.second)
            figure.add([(38, 57), (63, 57), (63, 60), (38, 60)], DARK)
        elbow, hand = 50 + side * rng.uniform(19, 25), 50 + side * rng.uniform(14, 32)
        low = rng.uniform(46, 62)
        figure.add(
            stroke(bend([(50 + side * 12, 31), (elbow, 44), (hand, low)]), 9, 6), coat.colour * shade, coated=True
        )
        figure.add(ellipse(hand, low + 2, 3.6, 3.6), skin)
    _face(figure, rng, 50, 15, skin)
    return figure
