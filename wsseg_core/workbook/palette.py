"""How classes look on the screen: a colour, a hatching and an outline each, so that none is told by colour alone.

The colours are seven of Okabe and Ito's ("Color universal design", 2008), which stay apart for readers who see fewer
hues; `tests/test_palette.py` measures how far. Black and white are kept for background and void. Classes that share a
colour differ in their lines, classes that share the lines in their spacing. VOC's own map stays in files.
"""

import numpy as np

from wsseg_core.data.images import VOID

COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    np.uint8,
)
LINES = ("-", "|", "/", "\\", "x")  # as matplotlib calls them
SPACINGS = (7, 14, 4, 10)  # of the lines, in pixels of an image of `REFERENCE`; the next one when all lines are used up
DENSITIES = (3, 1, 5, 2)  # the same in legends
REFERENCE = 160


def class_colours(count: int) -> np.ndarray:
    """RGB of the foreground classes 1..count, uint8 (count, 3)."""
    return COLOURS[np.arange(count) % len(COLOURS)]


def class_hatches(count: int) -> list[str]:
    """Hatching of the same classes, for matplotlib."""
    return [LINES[c % len(LINES)] * DENSITIES[c // len(LINES) % len(DENSITIES)] for c in range(count)]


def fill(mask: np.ndarray) -> np.ndarray:
    """The plain colours of a mask: uint8 (H, W) to uint8 (H, W, 3); background black, void white."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), class_colours(VOID)])
    colours[VOID] = 255
    return colours[mask]


def hatching(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask, uint8 (H, W), on which the lines of its classes run: bool (H, W)."""
    y, x = np.indices(mask.shape)
    places = {"-": y, "|": x, "/": x + y, "\\": x - y}
    unit = _unit(mask)
    drawn = np.zeros(mask.shape, bool)
    for value in np.unique(mask[_foreground(mask)]):
        kind, round_of = LINES[(value - 1) % len(LINES)], (value - 1) // len(LINES) % len(SPACINGS)
        ways = (places["/"], places["\\"]) if kind == "x" else (places[kind],)
        for place in ways:
            drawn |= (mask == value) & (place // unit % SPACINGS[round_of] == 0)
    return drawn


def outlines(mask: np.ndarray) -> np.ndarray:
    """Pixels of classes that lie beside another label: bool (H, W)."""
    wide = np.pad(mask, 1, mode="edge")
    beside = [wide[1:-1, 2:], wide[1:-1, :-2], wide[2:, 1:-1], wide[:-2, 1:-1]]
    return _foreground(mask) & np.any([neighbour != mask for neighbour in beside], axis=0)


def _foreground(mask: np.ndarray) -> np.ndarray:
    return (mask > 0) & (mask != VOID)


def _unit(mask: np.ndarray) -> int:
    """Width of a line in pixels: a large image is shown smaller."""
    return max(1, round(max(mask.shape) / REFERENCE))
