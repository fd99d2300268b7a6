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


def pick(rng: np.random.Generator, colours: list[tuple[int, int, int]], jitter: float = 14) -> Colour:
    """One of the colours, moved a little."""
    return np.clip(np.array(colours[rng.integers(len(colours))]) + rng.normal(0, jitter, 3), 8, 250)


def choose_coat(rng: np.random.Generator, name: str, inner_edges: float) -> Coat:
    """A random coat; one in four takes a colour that is not usual for the class.

    Args:
        rng: source of randomness.
        name: a class; anything else draws from all colours.
        inner_edges: contrast of the pattern, 0 (none) to 1 (the second colour as drawn).
    """
    usual = {"bird": FUR + PAINT, "cat": FUR, "dog": FUR, "sheep": FUR}.get(name, PAINT)
    colour = pick(rng, usual if rng.random() < 0.75 else FUR + PAINT)
    second = colour + inner_edges * (pick(rng, FUR + PAINT) - colour)
    return Coat(colour, second, PATTERNS[rng.integers(len(PATTERNS))], rng.uniform(3, 12))
