"""Forward and backward maps united, with made-up maps of the other stages."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import CrfConfig, SuperpixelCrfConfig, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.crf.dense import dense_crf
from wsseg_core.data.run import Run
from wsseg_core.forward.class_maps import (
    add_background,
    combine,
    extract_score_maps,
    pixel_probabilities,
)
from wsseg_core.forward.forward_backward import (
    SOURCES,
    ForwardImageMaps,
    ForwardMaps,
    ForwardSetting,
    forward_setting,
)
from wsseg_core.saliency.dcsm import ImageMaps, SavedMaps, Setting, dcsm_setting
from wsseg_core.saliency.extraction import classify, extract, planned_extractions

SIDE = 12
CLASSES = [1, 3]  # the detected ones of 4, best first
PROBABILITIES = np.float32([0.2, 0.9, 0.1, 0.7])
GBP = Setting("gbp", sizes=(8,), layers=(("a", "b"), ("c",)), min_candidates=0)
PLAIN = ForwardSetting("plain", sizes=(8,))
ENHANCED = replace(PLAIN, saliency=GBP, foreground="saliency")
ZOOM_OUT = replace(ENHANCED, source="zoomout")
CRF = CrfConfig(w1=5, gamma_beta=80, iterations=2)


def made_up(ranking: np.ndarray, guided: bool, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
    return {
        layer: torch.rand(4, SIDE, SIDE, generator=torch.Generator().manual_seed(ord(layer)))[ranking]
        for layer in layers
    }


def superpixel_maps() -> dict[str, np.ndarray]:
    """Nine superpixels of 4x4 pixels, the last column narrower."""
    rows, columns = np.mgrid[:SIDE, : SIDE - 2] // 4
    probabilities = np.random.default_rng(1).random((9, 4), np.float32)
    return {"segments": (3 * rows + columns).astype(np.uint16), "probabilities": probabilities}


def refuse() -> dict[str, np.ndarray]:
    raise AssertionError("no zoom-out map is needed")


def image_maps(probabilities: np.ndarray = PROBABILITIES, read_zoom_out=superpixel_maps) -> ForwardImageMaps:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE - 2, 3), np.uint8)
    maps = ImageMaps(image, probabilities, probabilities > 0.5, made_up)
    scores = 3 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(2))
    read = {"fcn": lambda: {"scores": scores.numpy()}, "zoomout": read_zoom_out}
    return ForwardImageMaps(maps, lambda source: read[source]())


def by_the_definition(setting: ForwardSetting) -> np.ndarray:
    """Label probabilities of one setting, without a CRF, step by step."""
    maps, forward = image_maps(), []
    for c in CLASSES:
        if setting.source == "zoomout":
            zoom_out = superpixel_maps()
            forward.append(torch.from_numpy(zoom_out["probabilities"][zoom_out["segments"]][..., c]))
        else:
            forward.append(pixel_probabilities(maps.score_map, (SIDE, SIDE - 2), setting.class_map)[c])
        forward[-1] = forward[-1] * (maps.probabilities[c] if setting.prior else 1)
    if setting.saliency is None:
        return add_background(torch.stack(forward), None, setting.foreground).numpy()
    saliency = maps.maps.saliency(setting.saliency)
    combined = combine(torch.stack(forward), saliency, setting.combination)
    return add_background(combined, saliency, setting.foreground).numpy()


SETTINGS = [
    PLAIN,
    replace(PLAIN, prior=False, class_map="sigmoid"),
    replace(PLAIN, foreground="otsu"),
    ENHANCED,
    replace(ENHANCED, combination="sum", foreground="complement"),
    replace(ENHANCED, saliency=replace(GBP, min_candidates=3)),
    ZOOM_OUT,
    replace(ZOOM_OUT, saliency=None, foreground="complement", prior=False),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_label_probabilities_follow_the_definition(setting: ForwardSetting) -> None:
    probabilities = image_maps().label_probabilities(setting)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, by_the_definition(setting), atol=1e-6)
    refined = image_maps().label_probabilities(replace(setting, crf=CRF))
    np.testing.assert_allclose(refined, dense_crf(image_maps().image, probabilities, CRF), atol=1e-5)


def test_many_settings_of_both_kinds_at_once_are_each_of_them_alone() -> None:
    other_crf = CrfConfig(w1=0, w2=9, gamma_gamma=200, iterations=2)
    bare: list[Setting | ForwardSetting] = [GBP, replace(GBP, alpha=0.5), *SETTINGS]
    settings = [replace(setting, crf=crf) for crf in (None, CRF, other_crf) for setting in bare]
    settings += [replace(ZOOM_OUT, superpixel_crf=SuperpixelCrfConfig()), replace(ENHANCED, name="again")]
    for setting, mask in zip(settings, image_maps().masks(settings), strict=True):
        np.testing.assert_array_equal(mask, image_maps().mask(setting))
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 2, 4}  # a class that is not in the image is never drawn


def test_a_mask_is_the_best_label() -> None:
    maps = image_maps()
    for setting in (PLAIN, replace(ENHANCED, crf=CRF), GBP):
        best = maps.label_probabilities(setting).argmax(0)
        np.testing.assert_array_equal(maps.mask(setting), np.array([0, 2, 4])[best])


def test_the_superpixel_crf_draws_whole_superpixels() -> None:
    setting = replace(ZOOM_OUT, superpixel_crf=SuperpixelCrfConfig(weight=0))
    labels, segments = image_maps().label_probabilities(setting), superpixel_maps()["segments"]
    before = by_the_definition(ZOOM_OUT)
    for number in range(9):  # neighbours do not count, so that each superpixel has its own best label
        best = before[:, segments == number].mean(1).argmax()
        np.testing.assert_array_equal(labels[:, segments == number].T, [np.eye(3)[best]] * (segments == number).sum())


def test_zoom_out_maps_are_read_when_asked_for_and_once() -> None:
    image_maps(read_zoom_out=refuse).masks([PLAIN, ENHANCED, GBP])
    reads = []
    maps = image_maps(read_zoom_out=lambda: reads.append(1) or superpixel_maps())
    maps.masks([ZOOM_OUT, replace(ZOOM_OUT, superpixel_crf=SuperpixelCrfConfig())])
    assert len(reads) == 1


def test_an_image_without_a_class_is_background() -> None:
    maps = image_maps(PROBABILITIES / 10)
    crfs = [replace(ENHANCED, crf=CRF), replace(ZOOM_OUT, superpixel_crf=SuperpixelCrfConfig())]
    for setting in (GBP, *SETTINGS, *crfs):
        np.testing.assert_array_equal(maps.mask(setting), np.zeros((SIDE, SIDE - 2)))
        np.testing.assert_array_equal(maps.label_probabilities(setting), np.ones((1, SIDE, SIDE - 2)))


def test_names_that_are_not_known_are_told_with_those_that_are() -> None:
    half = torch.full((1, 2, 2), 0.5)
    with pytest.raises(WorkbookError, match="class map 'tanh' is not known; use one of softmax, sigmoid"):
        pixel_probabilities(half, (2, 2), "tanh")
    with pytest.raises(WorkbookError, match="combination 'minimum' is not known; use one of product, "):
        combine(half, half, "minimum")
    with pytest.raises(WorkbookError, match="foreground 'masks' is not known; use one of saliency, complement, otsu"):
        add_background(half, None, "masks")
    with pytest.raises(WorkbookError, match="foreground 'saliency' needs saliency maps"):
        add_background(half, None, "saliency")


@pytest.mark.parametrize(
    ("setting", "changes", "message"),
    [
        (PLAIN, {"source": "psa"}, "source 'psa' is not known; use one of fcn, zoomout"),
        (PLAIN, {"class_map": "tanh"}, "class map 'tanh'"),
        (ENHANCED, {"combination": "minimum"}, "combination 'minimum'"),
        (PLAIN, {"foreground": "masks"}, "foreground 'masks'"),
        (ENHANCED, {"saliency": None}, "plain: foreground 'saliency' needs saliency maps"),
        (ZOOM_OUT, {"crf": CRF, "superpixel_crf": SuperpixelCrfConfig()}, "plain: two CRFs"),
        (ENHANCED, {"superpixel_crf": SuperpixelCrfConfig()}, "source 'fcn' has no superpixels"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: ForwardSetting, changes: dict, message: str) -> None:
    with pytest.raises(WorkbookError, match=message):
        replace(setting, **changes)


def test_the_method_takes_its_values_from_the_profile() -> None:
    profile = load_profile("study")
    setting = forward_setting(profile, "fcn+gbp", crf=True)
    assert (setting.class_map, setting.combination, setting.foreground) == ("softmax", "product", "saliency")
    assert (setting.sizes, setting.crf, setting.prior) == ((102, 128, 154), profile.crf, True)
    assert setting.saliency == dcsm_setting(profile, "gbp", min_candidates=0)
    alone = forward_setting(profile, "fcn-mil", saliency=False, prior=False)
    assert (alone.saliency, alone.foreground, alone.sizes, alone.prior) == (None, "complement", (128,), False)
    changed = forward_setting(profile, "zof", source="zoomout", superpixel_crf=profile.superpixel_crf)
    assert (changed.source, changed.superpixel_crf) == ("zoomout", profile.superpixel_crf)


def saved_maps(run: Run, model: nn.Module) -> SavedMaps:
    classify(run, model, run.val_ids)
    for extraction in planned_extractions(run.profile):
        extract(run, model, run.val_ids, extraction)
    return SavedMaps(run, known_labels=True)


def test_the_maps_of_a_run_are_opened_and_drawn(run: Run, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = saved_maps(run, model)
    with pytest.raises(WorkbookError, match="run notebook 05_forward_and_backward_maps first"):
        ForwardMaps(run, saved).of(run.val_ids[0]).mask(forward_setting(run.profile, "a"))
    extract_score_maps(run, model, run.val_ids)
    zoom_out = ArtifactStore.create(run.artifacts("zoomout_maps"), {}, "05")
    monkeypatch.setitem(SOURCES, "zoomout", SOURCES["zoomout"]._replace(open=lambda run: zoom_out))
    maps = ForwardMaps(run, saved)
    assert maps.devkit is run.devkit
    assert maps.known_labels
    assert maps.depends_on.items() >= {"seed": 0, "threshold": 0.5}.items()
    maps = pickle.loads(pickle.dumps(maps))  # as a worker process gets them
    for image_id in run.val_ids:
        height, width = run.devkit.image(image_id).shape[:2]
        zoom_out.save(image_id, segments=np.zeros((height, width), np.uint16), probabilities=np.float32([[0.9] * 3]))
        settings = [forward_setting(run.profile, "a", source, crf=True) for source in ("fcn", "zoomout")]
        for mask in maps.of(image_id).masks([*settings, dcsm_setting(run.profile)]):
            assert mask.shape == (height, width)
            assert set(np.unique(mask)) <= {0, *(np.flatnonzero(run.devkit.labels(image_id)) + 1)}
