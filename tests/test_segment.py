from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.workbook import own_images

CLASSES = ["cat", "dog"]


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile whose untrained network draws every class."""
    smoke = load_profile("smoke")
    model = new_classifier(smoke.classifier, len(CLASSES), seed=0).eval()
    monkeypatch.setattr(own_images, "classifier_from_checkpoint", lambda path: (model, CLASSES))
    trained = {"data": {"image_size": smoke.data.image_size}, "classifier": {"width": smoke.classifier.width}}
    monkeypatch.setattr(own_images, "read_checkpoint", lambda path: {"settings": trained})
    return replace(smoke, classifier=replace(smoke.classifier, threshold=0.0))


def segmenter(profile: Profile) -> own_images.Segmenter:
    return own_images.checkpoint_segmenter(Path("w.ckpt"), profile)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (50, 30)), ("L", (17, 40)), ("RGBA", (32, 32)), ("RGB", (1, 1))])
def test_mask_and_overlay_of_any_image(tmp_path: Path, profile: Profile, mode: str, size: tuple[int, int]) -> None:
    channels = len(mode)
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "my.photo.png"
    Image.fromarray(noise, mode).save(path)
    drawn = own_images.segment_files([path], segmenter(profile), tmp_path / "out")
    with Image.open(tmp_path / "out/my.photo.png") as mask, Image.open(tmp_path / "out/my.photo_overlay.jpg") as shown:
        assert (mask.mode, mask.size) == ("P", size)
        assert (shown.mode, shown.size) == ("RGB", size)
        values = set(np.unique(np.asarray(mask))) - {0}
    assert set(drawn[path]) == {CLASSES[value - 1] for value in values}


def test_a_photograph_is_segmented_as_a_person_sees_it(tmp_path: Path, profile: Profile) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 30)).save(tmp_path / "phone.jpg", exif=exif)
    own_images.segment_files([tmp_path / "phone.jpg"], segmenter(profile), tmp_path)
    with Image.open(tmp_path / "phone.png") as mask, Image.open(tmp_path / "phone_overlay.jpg") as shown:
        assert mask.size == shown.size == (30, 50)


def test_a_large_image_is_worked_on_in_a_small_copy(tmp_path: Path, profile: Profile, monkeypatch) -> None:
    sizes = []

    def segment(model, image, *rest):
        sizes.append(image.shape)
        return np.tile(np.uint8([[1, 2]]), (image.shape[0], image.shape[1] // 2))

    monkeypatch.setattr(own_images, "segment_image", segment)
    Image.new("RGB", (20_000, 30)).save(tmp_path / "wide.png")
    drawn = own_images.segment_files([tmp_path / "wide.png"], segmenter(profile), tmp_path / "out")
    assert sizes == [(3, 2000, 3)]
    assert drawn == {tmp_path / "wide.png": {"cat": 0.5, "dog": 0.5}}
    with Image.open(tmp_path / "out/wide.png") as mask:
        assert mask.size == (20_000, 30)
        assert (np.asarray(mask)[:, :20] == np.repeat([1, 2], 10)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"image_size": 128}},
            "trained with data.image_size = 64, but profile 'smoke' says 128; name the prof",
        ),
        (
            {"classifier": {"width": 16}},
            "trained with classifier.width = 8, but profile 'smoke' says 16; name the prof",
        ),
    ],
)
def test_weights_of_another_profile_are_refused(tmp_path: Path, profile: Profile, changes: dict, message: str) -> None:
    other = replace(profile, **{table: replace(getattr(profile, table), **values) for table, values in changes.items()})
    with pytest.raises(WorkbookError, match=message):
        own_images.segment_files([tmp_path / "a.jpg"], segmenter(other), tmp_path)


@pytest.mark.parametrize(("name", "message"), [("", "is a folder; name the images"), ("no.jpg", "no such file")])
def test_what_is_no_image_is_told_in_one_line(tmp_path: Path, profile: Profile, name: str, message: str) -> None:
    with pytest.raises(WorkbookError, match=message):
        own_images.segment_files([tmp_path / name], segmenter(profile), tmp_path / "out")


def test_two_images_of_one_name_are_refused(tmp_path: Path, profile: Profile) -> None:
    paths = [tmp_path / "a/cat.jpg", tmp_path / "b/cat.jpg"]
    with pytest.raises(WorkbookError, match=r"b/cat\.jpg: .*a/cat\.jpg would write the same"):
        own_images.segment_files(paths, segmenter(profile), tmp_path)


def test_what_lies_beside_an_image_is_not_overwritten(tmp_path: Path, profile: Profile) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "cat.jpg")
    for name, labelme in (("cat.json", True), ("cat.png", False), ("cat_overlay.jpg", False)):
        (tmp_path / name).write_text("drawn by hand")
        with pytest.raises(WorkbookError, match=rf"{name}: would be overwritten; choose another folder"):
            own_images.segment_files([tmp_path / "cat.jpg"], segmenter(profile), tmp_path, labelme=labelme)
        assert (tmp_path / name).read_text() == "drawn by hand"
        (tmp_path / name).unlink()


def test_mask_never_overwrites_its_image(tmp_path: Path, profile: Profile) -> None:
    with pytest.raises(WorkbookError, match="would overwrite it; choose another folder"):
        own_images.segment_files([tmp_path / "cat.png"], segmenter(profile), tmp_path)
