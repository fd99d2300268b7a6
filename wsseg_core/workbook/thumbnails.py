"""Small pictures to choose an image from: the browser's own list, laid out as one row that scrolls.

It stays a list: one stop of the tab key, arrows up and down, and typing ahead. Its options are words, an image's id and
labels, which a screen reader reads; only the style sheet puts a picture in their place. A browser that cannot lay a
list out as a row shows the words.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import ipywidgets
import numpy as np

from wsseg_core.data.voc import VocDevkit

HEIGHT = 56  # pixels on the screen, of every thumbnail
WIDEST = 2 * HEIGHT  # of a panorama, which is drawn smaller
KEPT = 512  # thumbnails in memory, about 2 kB each
ROW = """
.{row} select {{ white-space: nowrap; overflow: auto hidden; height: {row_height}px; padding: 0; font-size: 0 }}
.{row} option {{ display: inline-block; height: {height}px; padding: 0; border: 3px solid transparent; font-size: 0;
  background: center / contain no-repeat }}
.{row} option:checked {{ border-color: var(--jp-brand-color1, #1976d2) }}
"""


def image_list() -> ipywidgets.Select:
    """The list, still without options, as wide as there is room; `style_sheet` gives it its pictures."""
    images = ipywidgets.Select(description="image", style={"description_width": "initial"}, layout={"width": "98%"})
    images.add_class(_name(images))
    return images


def style_sheet(images: ipywidgets.Select, devkit: VocDevkit, ids: Sequence[str]) -> str:
    """The thumbnails of a list, as a `<style>` element that touches nothing else on the page.

    Args:
        images: what `image_list` gave.
        devkit: where the images are.
        ids: one an option, in their order.

    Raises:
        DevkitError: an image is missing or cannot be decoded.
    """
    row = _name(images)
    rules = [ROW.format(row=row, height=HEIGHT, row_height=HEIGHT + 24)]  # the frame, and the bar that scrolls
    for number, image_id in enumerate(ids, start=1):
        width, source = _thumbnail(devkit, image_id)
        rules.append(f".{row} option:nth-child({number}) {{ width: {width}px; background-image: url({source}) }}")
    return "<style>{}</style>".format("\n".join(rules))


def when_idle(work: Callable[[], None]) -> None:
    """Do something once the running cell is done; at once where there is no event loop, outside a kernel."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work()
    else:
        loop.call_soon(work)


def _name(images: ipywidgets.Select) -> str:
    return f"thumbnails-{images.model_id}"


@lru_cache(KEPT)
def _thumbnail(devkit: VocDevkit, image_id: str) -> tuple[int, str]:
    """Width on the screen, and a JPEG as a data URI."""
    image = devkit.image(image_id)
    height, width = image.shape[:2]
    scale = min(HEIGHT / height, WIDEST / width)
    size = [max(1, round(scale * side)) for side in (width, height)]
    small: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return size[0], f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
