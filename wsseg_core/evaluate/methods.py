"""Every method of the workbook so far, by the names of `claims`: the table of notebook 05 in one list.

Shimoda & Yanai, MIRU 2016, slides, part 1, compare FCN-MIL, ZOF with GBP and FCN with GBP; DCSM is their part 2.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
from torch import nn

from wsseg_core.base.config import Profile
from wsseg_core.evaluate.ablations import dcsm_methods
from wsseg_core.evaluate.claims import combination_key
from wsseg_core.forward.class_maps import CLASS_MAPS, COMBINATIONS, FOREGROUNDS
from wsseg_core.forward.forward_backward import AnySetting, ForwardImageMaps, ForwardSetting, forward_setting
from wsseg_core.forward.mi_svm import MiSvms
from wsseg_core.forward.zoom_out import superpixels, zoom_out_features
from wsseg_core.saliency.dcsm import dcsm_setting, live_maps, live_score_map

NOTEBOOK = "05_forward_and_backward_maps"


def method_settings(profile: Profile) -> list[AnySetting]:
    """Every method so far, without a CRF and with it: the rows that notebook 05 compares in both protocols."""
    forward = partial(forward_setting, profile, saliency=False)
    both = partial(forward_setting, profile)
    return [
        *dcsm_methods(profile),
        dcsm_setting(profile, "gbp_only", min_candidates=0),
        dcsm_setting(profile, "gbp_only_crf", crf=True, min_candidates=0),
        forward("fcn_mil", prior=False),
        forward("fcn_mil_crf", crf=True, prior=False),
        forward("fcn_mil_ilp"),
        forward("fcn_mil_ilp_crf", crf=True),
        both("fcn_gbp"),
        both("fcn_gbp_crf", crf=True),
        forward("zof", source="zoomout"),
        forward("zof_crf", source="zoomout", superpixel_crf=profile.superpixel_crf),
        both("zof_gbp", source="zoomout"),
        both("zof_gbp_crf", source="zoomout", superpixel_crf=profile.superpixel_crf),
    ]


def combination_settings(profile: Profile) -> list[ForwardSetting]:
    """FCN with GBP under every combination and foreground model, and FCN-MIL under every class map; without a CRF."""
    ways = [
        forward_setting(profile, combination_key(how, foreground), combination=how, foreground=foreground)
        for how in COMBINATIONS
        for foreground in FOREGROUNDS
    ]
    alone = [
        forward_setting(profile, f"fcn_mil-{name}", saliency=False, class_map=name, prior=False) for name in CLASS_MAPS
    ]
    return ways + alone


def other_network_settings(profile: Profile) -> list[AnySetting]:
    """The methods that do not ask for zoom-out features, under the names of the profile's other network.

    Args:
        profile: as `classifier.other_network` gives it.
    """
    prefix = profile.classifier.architecture
    wanted = [setting for setting in method_settings(profile) if "zof" not in setting.name]
    return [replace(setting, name=f"{prefix}_{setting.name}") for setting in wanted]


def live_forward_maps(model: nn.Module, svms: MiSvms, image: np.ndarray, profile: Profile) -> ForwardImageMaps:
    """Maps of an image of any origin, made when a setting asks for them.

    Args:
        model: the classifier as `saliency.prepare` returns it.
        svms: what `zoomout.train_zoom_out` learnt.
        image: uint8 (H, W, 3), any size.
        profile: sizes, threshold and superpixels.
    """
    score_map = live_score_map(model, image, profile.data.image_size)
    maps = live_maps(model, image, score_map, profile, profile.classifier.threshold)
    return ForwardImageMaps(maps, score_map, partial(_live_zoom_out, model, svms, image, profile))


def _live_zoom_out(model: nn.Module, svms: MiSvms, image: np.ndarray, profile: Profile) -> dict[str, np.ndarray]:
    segments = superpixels(image, profile.zoomout)
    features = zoom_out_features(model, image, segments, profile.data.image_size)
    return {"segments": segments, "probabilities": svms.probabilities(features)}


def seconds_per_image(
    model: nn.Module, svms: MiSvms, images: Sequence[np.ndarray], setting: AnySetting, profile: Profile
) -> float:
    """Median time from an image to its mask, everything included: network, superpixels, maps, CRF; in seconds."""
    times = []
    for image in images:
        started = perf_counter()
        live_forward_maps(model, svms, image, profile).mask(setting)
        times.append(perf_counter() - started)
    return float(np.median(times))
