"""Colours, and the coats that objects take from them."""

import numpy as np

from wsseg_core.data.toy.shapes import PATTERNS, Coat, Colour

FUR = [(222, 205, 178), (122, 84, 52), (66, 54, 48), (206, 142, 70), (242, 240, 234), (150, 148, 150), (92, 96, 112)]
PAINT = [(196, 38, 40), (36, 84, 168), (238, 192, 40), (46, 132, 70), (236, 236, 232), (44, 44, 50), (142, 60, 140),
         (226, 116, 36), (90, 170, 180)]  # fmt: skip
SKIN = [(238, 200, 170), (208, 160, 122), (150, 100, 68), (96, 64, 46)]
HAIR = [(40, 30, 26), (110, 70, 36), (214, 180, 104), (160, 70, 36), (120, 120, 120)]
EYES = [(90, 170, 60), (222, 180, 40), (90, 160, 210)]
DARK = (34, 32, 34)
METAL = (168, 170, 176)
TYRE = (38, 38, 42)
GLASS = (176, 208, 222)


# What a class usually wears: its colours and its pattern.
OWN_COATS = {
    "bird": ([(90, 170, 180), (36, 84, 168)], "belly"),
    "boat": ([(236, 236, 232), (36, 84, 168)], "belly"),
    "car": ([(196, 38, 40), (238, 192, 40)], "plain"),
    "cat": ([(206, 142, 70), (222, 160, 90)], "stripes"),
    "dog": ([(122, 84, 52), (66, 54, 48)], "patches"),
    "motorbike": ([(44, 44, 50), (92, 96, 112)], "plain"),
    "rider": ([(46, 132, 70), (142, 60, 140)], "plain"),
    "sheep": ([(242, 240, 234), (222, 205, 178)], "plain"),
}


def pick(rng: np.random.Generator, colours: list[tuple[int, int, int]], jitter: float = 14) -> Colour:
    """One of the colours, moved a little."""
    return np.clip(np.array(colours[rng.integers(len(colours))]) + rng.normal(0, jitter, 3), 8, 250)


def choose_coat(rng: np.random.Generator, name: str, inner_edges: float, own_coats: float = 0) -> Coat:
    """A coat in the manner of the class, or a random one in any of its usual colours.

    Args:
        rng: source of randomness.
        name: a class; anything else draws from all colours.
        inner_edges: contrast of the pattern, 0 (none) to 1 (the second colour as drawn).
        own_coats: probability of the coat that tells the class; one in four of the others has no usual colour either.
    """
    usual = {"bird": FUR + PAINT, "cat": FUR, "dog": FUR, "sheep": FUR}.get(name, PAINT)
    colour = pick(rng, usual if rng.random() < 0.75 else FUR + PAINT)
    second, pattern, grain = pick(rng, FUR + PAINT), PATTERNS[rng.integers(len(PATTERNS))], rng.uniform(3, 12)
    if rng.random() < own_coats:
        colours, pattern = OWN_COATS[name]
        colour = pick(rng, colours)
    return Coat(colour, colour + inner_edges * (second - colour), pattern, grain)
