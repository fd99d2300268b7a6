"""The classes of the toy devkit.

Every class has a part that is its own, called the head, and a body that it shares with others. Classifiers learn
the part that tells classes apart, so the two part masks show how much of an object a method misses.
"""

from collections.abc import Callable

import numpy as np

from wsseg_core.data.toy import animals, vehicles
from wsseg_core.data.toy.shapes import Coat, Figure

DRAW: dict[str, Callable[[np.random.Generator, Coat], Figure]] = {
    "bird": animals.bird,
    "boat": vehicles.boat,
    "car": vehicles.car,
    "cat": animals.cat,
    "dog": animals.dog,
    "motorbike": vehicles.motorbike,
    "rider": vehicles.rider,
    "sheep": animals.sheep,
}
CLASSES = tuple(DRAW)
