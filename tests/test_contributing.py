"""The worked example of CONTRIBUTING.md runs as it is printed."""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from wsseg_core.base.config import load_profile
from wsseg_core.base.dependencies import PACKAGE
from wsseg_core.evaluate.labels import NAMES, row_label
from wsseg_core.evaluate.methods import METHODS, method_settings
from wsseg_core.forward.forward_backward import SOURCES, ForwardImageMaps, ForwardSource, forward_setting
from wsseg_core.saliency.dcsm import ImageMaps

EXAMPLE = re.findall(r"```python\n(.*?)```", (PACKAGE.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registries = {"SOURCES": SOURCES, "METHODS": METHODS, "NAMES": NAMES}
    before = {name: dict(registry) for name, registry in registries.items()}
    names = {**registries, "ForwardSource": ForwardSource, "forward_setting": forward_setting, "partial": partial}
    for block in EXAMPLE:
        exec(block, names)
    yield
    for name, registry in registries.items():
        registry.clear()
        registry.update(before[name])


def test_the_example_is_about_twenty_lines() -> None:
    assert sum(len(block.splitlines()) for block in EXAMPLE) <= 20


@pytest.mark.usefixtures("added")
def test_the_example_adds_a_row_that_draws() -> None:
    setting = next(setting for setting in method_settings(load_profile("smoke")) if setting.name == "middle")
    assert row_label("middle") == "middle of the image"
    image, scores = np.zeros((9, 15, 3), np.uint8), np.float32([0.1, 0.8])
    maps = ForwardImageMaps(ImageMaps(image, scores, scores > 0.5, lambda *_: {}), lambda source: {})
    mask = maps.mask(setting)
    assert mask[4, 7] == 2
    assert mask[0, 0] == mask[-1, -1] == 0
