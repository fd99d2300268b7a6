"""Explorer of notebook 05: forward maps, from positions or from superpixels, and backward maps, united."""

from functools import lru_cache

import ipywidgets
import numpy as np
from matplotlib.figure import Figure
from skimage.segmentation import mark_boundaries

from wsseg_core.data.run import Run
from wsseg_core.forward.class_maps import COMBINATIONS, FOREGROUNDS
from wsseg_core.forward.forward_backward import SOURCES, ForwardMaps, forward_setting
from wsseg_core.forward.zoom_out import superpixels
from wsseg_core.saliency.dcsm import SavedMaps
from wsseg_core.workbook.widgets import Controls, Masked, Pictures, Setting, examples_first, explorer


def forward_explorer(run: Run) -> ipywidgets.VBox | Figure:
    """Superpixels, both maps of a class, their union and its mask: image, class, source, combination, background.

    Raises:
        WorkbookError: notebook 05 has not made the forward maps.
    """
    profile, maps_of = run.profile, lru_cache(maxsize=4)(ForwardMaps(run, SavedMaps(run)).of)
    controls: Controls = {
        "rank": {"1": 0, "2": 1, "3": 2},
        "source": {name: name for name in SOURCES},
        "combination": {name: name for name in COMBINATIONS},
        "foreground": {name: name for name in FOREGROUNDS},
    }
    start = {"rank": "1", "source": "fcn", "combination": profile.forward.combination}
    start["foreground"] = profile.forward.foreground
    changes: list[Setting] = [{}, {"source": "zoomout"}, {"combination": "maximum"}, {"foreground": "otsu"}]

    def draw(image_id: str, rank: int, source: str, combination: str, foreground: str) -> Pictures:
        setting = forward_setting(profile, "explored", source, combination=combination, foreground=foreground)
        maps = maps_of(image_id)
        image, segments = maps.image, superpixels(maps.image, profile.zoomout)
        pieces = (255 * mark_boundaries(image, segments, color=(1, 1, 1))).astype(np.uint8)
        pictures: dict[str, np.ndarray | Masked] = {"superpixels": pieces}
        if rank < maps.targets:
            name = run.devkit.classes[maps.classes[rank]]
            assert setting.saliency
            pictures[f"{name}, forward"] = maps.class_maps(setting)[rank].numpy()
            pictures[f"{name}, backward"] = maps.maps.saliency(setting.saliency)[rank].numpy()
            pictures[f"{name}, united"] = maps.label_probabilities(setting)[1 + rank]
        return pictures | {"mask": Masked(image, maps.mask(setting))}

    return explorer(run, examples_first(run), draw, controls, [start | change for change in changes])
