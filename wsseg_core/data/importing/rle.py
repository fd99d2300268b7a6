"""COCO's run-length encoding of masks, there and back.

The pixels of a mask are read column by column; the runs of 0 and 1 alternate and begin with 0. A compressed string
writes the difference of each run, from the fourth on, to the run two before, in groups of five bits, lowest first; bit
6 of a character says that another follows, and 48 is added so that all are printable. Source: the description in the
COCO API (Lin et al., "Microsoft COCO", ECCV 2014), <https://github.com/cocodataset/cocoapi>.
"""

from collections.abc import Sequence

import numpy as np

OFFSET, MORE, SIGN, BITS = 48, 32, 16, 5


def encode(mask: np.ndarray) -> dict[str, object]:
    """A mask, bool (H, W), as `{"size": [H, W], "counts": string}`."""
    pixels = np.concatenate([[0], mask.ravel(order="F").astype(np.uint8), [0]])
    edges = np.flatnonzero(np.diff(pixels))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    if counts[-1] == 0:  # nothing after the last pixel of the object
        counts.pop()
    return {"size": list(mask.shape), "counts": compress(counts)}


def decode(counts: str | Sequence[int], size: Sequence[int]) -> np.ndarray:
    """A mask from its runs, a compressed string or a list.

    Args:
        counts: the runs.
        size: (H, W).

    Returns:
        bool (H, W).

    Raises:
        ValueError: the runs are not those of so many pixels.
    """
    height, width = (int(side) for side in size)
    runs = np.array(decompress(counts) if isinstance(counts, str) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the runs cover {runs.sum()} pixels, not {height}×{width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def compress(counts: Sequence[int]) -> str:
    """Runs as a string."""
    characters = []
    for index, count in enumerate(counts):
        value, more = count - (counts[index - 2] if index > 2 else 0), True
        while more:
            low, value = value & (MORE - 1), value >> BITS
            more = value != (-1 if low & SIGN else 0)
            characters.append(chr(OFFSET + (low | MORE if more else low)))
    return "".join(characters)


def decompress(text: str) -> list[int]:
    """Runs from a string.

    Raises:
        ValueError: a character that is none of the code, or a string that ends within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - OFFSET
        if not 0 <= group < 2 * MORE:
            raise ValueError(f"{character!r} is no character of a run-length code")
        value |= (group & (MORE - 1)) << shift
        shift += BITS
        if not group & MORE:
            if group & SIGN:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a run-length code ends within a number")
    return counts
