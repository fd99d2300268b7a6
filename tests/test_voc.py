"""The devkit reader: what it gives back, and the line that each bad input gets."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import TINY_CLASSES, TINY_SPLITS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.images import VOC_PALETTE, DevkitError, image_size, read_image, write_palette_png
from wsseg_core.data.masks import VocMasks, _never_drawn
from wsseg_core.data.voc import TRAIN_AUG_COUNT, VOC_CLASSES, VocDevkit

FIRST = "2007_000001"  # a cat and a dog


def message_of(action, *arguments) -> str:
    """The one line that a call fails with."""
    with pytest.raises(WorkbookError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_sbd(dataset: Path, train: list[str], val: list[str]) -> None:
    (dataset / "cls").mkdir(parents=True)
    (dataset / "train.txt").write_text("\n".join(train))
    (dataset / "val.txt").write_text("\n".join(val))


def write_mat(path: Path, mask: np.ndarray) -> None:
    """A mask in SBD's nesting: a 1×1 structure array GTcls with the field Segmentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"GTcls": {"Segmentation": mask, "CategoriesPresent": np.unique(mask)}})


class TestReading:
    def test_palette_has_the_published_colours(self):
        # Everingham et al. show them; aeroplane, bicycle, bird, ..., tvmonitor, and void.
        assert VOC_PALETTE[[0, 1, 2, 3, 8, 15, 20, 255]].tolist() == [
            [0, 0, 0],
            [128, 0, 0],
            [0, 128, 0],
            [128, 128, 0],
            [64, 0, 0],
            [192, 128, 128],
            [0, 64, 128],
            [224, 224, 192],
        ]
        assert len(np.unique(VOC_PALETTE, axis=0)) == 256

    def test_devkit_gives_images_labels_and_splits(self, tiny_devkit):
        devkit = VocDevkit(tiny_devkit)
        assert devkit.classes == TINY_CLASSES
        assert devkit.splits() == ["train", "val"]
        assert devkit.ids("train") == TINY_SPLITS["train"]
        image = devkit.image(FIRST)
        assert image.shape == (32, 48, 3)
        assert image.dtype == np.uint8
        # The second object is marked difficult, and the parts' names are no classes: both annotations count once.
        assert devkit.labels(FIRST).tolist() == [1, 1, 0]
        assert devkit.label_matrix(devkit.ids("train")[:3]).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
        assert devkit.label_matrix([]).shape == (0, 3)

    def test_without_a_class_file_the_classes_are_those_of_voc(self, tiny_devkit):
        (tiny_devkit / "classes.txt").unlink()
        devkit = VocDevkit(tiny_devkit)
        assert devkit.classes == VOC_CLASSES
        assert devkit.num_classes == 20
        assert np.flatnonzero(devkit.labels(FIRST)).tolist() == [7, 11]

    def test_masks_agree_with_labels_and_parts(self, tiny_devkit):
        devkit = VocDevkit(tiny_devkit)
        for image_id in devkit.ids("train"):
            mask = VocMasks(devkit).mask(image_id)
            parts = VocMasks(devkit, kind="parts").mask(image_id)
            assert mask.shape == parts.shape == devkit.image(image_id).shape[:2]
            assert set(np.unique(mask)) - {0, 255} == set(np.flatnonzero(devkit.labels(image_id)) + 1)
            assert ((mask == 0) == (parts == 0)).all()

    def test_labels_file_replaces_annotations(self, tiny_devkit):
        (tiny_devkit / "Annotations").rename(tiny_devkit / "unused")
        (tiny_devkit / "labels.csv").write_text(f"{FIRST},sheep,cat\n2007_000002\n")
        assert VocDevkit(tiny_devkit).label_matrix([FIRST, "2007_000002"]).tolist() == [[1, 0, 1], [0, 0, 0]]

    @settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
    @given(mask=hnp.arrays(np.uint8, (32, 48), elements=st.sampled_from([0, 1, 2, 3, 255])))
    def test_a_written_mask_is_read_back(self, tiny_devkit, mask):
        path = tiny_devkit / f"SegmentationClass/{FIRST}.png"
        write_palette_png(path, mask)
        assert (VocMasks(VocDevkit(tiny_devkit)).mask(FIRST) == mask).all()
        assert (read_image(path) == VOC_PALETTE[mask]).all()

    def test_greyscale_mask_holds_labels(self, tiny_devkit):
        mask = np.full((32, 48), 3, np.uint8)
        Image.fromarray(mask).save(tiny_devkit / f"SegmentationClass/{FIRST}.png")
        assert (VocMasks(VocDevkit(tiny_devkit)).mask(FIRST) == 3).all()

    @pytest.mark.parametrize(
        ("mode", "colour", "suffix", "expected"),
        [
            ("L", 90, "png", (90, 90, 90)),
            ("RGBA", (10, 20, 30, 0), "png", (10, 20, 30)),
            ("CMYK", (0, 0, 0, 155), "jpg", (100, 100, 100)),
            ("L", 90, "jpeg", (90, 90, 90)),
            ("L", 90, "JPG", (90, 90, 90)),
            ("LA", (90, 0), "tif", (90, 90, 90)),
        ],
    )
    def test_every_kind_of_image_becomes_rgb(self, tiny_devkit, mode, colour, suffix, expected):
        Image.new(mode, (5, 4), colour).save(tiny_devkit / f"JPEGImages/odd.{suffix}")
        image = VocDevkit(tiny_devkit).image("odd")
        assert image.shape == (4, 5, 3)
        assert np.abs(image.astype(int) - expected).max() <= 2

    def test_palette_with_transparency(self, tiny_devkit):
        image = Image.fromarray(np.array([[0, 1]], np.uint8))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(tiny_devkit / "JPEGImages/odd.png", transparency=bytes([0, 128]))
        assert VocDevkit(tiny_devkit).image("odd").tolist() == [[[10, 20, 30], [40, 50, 60]]]

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bits_keep_their_upper_8(self, tiny_devkit, suffix):
        values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
        Image.fromarray(values).save(tiny_devkit / f"JPEGImages/odd.{suffix}")
        expected = np.array([[0, 0, 1], [128, 254, 255]])
        assert (VocDevkit(tiny_devkit).image("odd") == expected[:, :, None]).all()

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_32_bits_are_refused(self, tiny_devkit, kind):
        Image.fromarray(np.ones((2, 3), kind)).save(tiny_devkit / "JPEGImages/odd.tif")
        assert "odd.tif: has 32 bits a channel" in message_of(VocDevkit(tiny_devkit).image, "odd")

    def test_exif_orientation_turns_an_image_as_a_person_sees_it(self, tmp_path):
        pixels = np.zeros((2, 3, 3), np.uint8)
        pixels[0, 2] = 255  # upper right
        exif = Image.Exif()
        for value, (shape, corner) in {1: ((2, 3), (0, 2)), 3: ((2, 3), (1, 0)), 6: ((3, 2), (2, 1))}.items():
            exif[0x0112] = value
            Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
            image = read_image(tmp_path / "a.png")
            assert image.shape[:2] == image_size(tmp_path / "a.png") == shape
            assert np.argwhere(image[:, :, 0] == 255).tolist() == [list(corner)]

    @pytest.mark.parametrize("sideways", [False, True])
    def test_a_mask_belongs_to_the_turned_image(self, tiny_devkit, sideways):
        path = tiny_devkit / f"JPEGImages/{FIRST}.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:  # 48 wide, 32 high: upright it is 32 wide
            image.save(path, exif=exif)
        masks = VocMasks(VocDevkit(tiny_devkit))
        if sideways:
            message = message_of(masks.mask, FIRST)
            assert "the mask is 48×32, its image 32×48 when it is turned as its EXIF orientation 6 says" in message
        else:
            write_palette_png(tiny_devkit / f"SegmentationClass/{FIRST}.png", np.ones((48, 32), np.uint8))
            assert masks.mask(FIRST).shape == VocDevkit(tiny_devkit).image(FIRST).shape[:2] == (48, 32)

    @pytest.mark.parametrize("excess", [1.5, 3])
    def test_too_many_pixels(self, tiny_devkit, excess, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(32 * 48 / excess))
        message = message_of(VocDevkit(tiny_devkit).image, FIRST)
        assert f"{FIRST}.jpg: has more than " in message

    def test_a_mask_of_1_bit_holds_the_first_class(self, tiny_devkit):
        mask = np.zeros((32, 48), bool)
        mask[3:5] = True
        Image.fromarray(mask).save(tiny_devkit / f"SegmentationClass/{FIRST}.png")
        assert (VocMasks(VocDevkit(tiny_devkit)).mask(FIRST) == mask).all()


class TestChosenClasses:
    """The tiny devkit's cat, dog, sheep (1, 2, 3 in its masks), opened as sheep, cat (1, 2)."""

    @pytest.fixture
    def chosen(self, tiny_devkit) -> VocDevkit:
        return VocDevkit(tiny_devkit, ("sheep", "cat"))

    def test_labels_follow_the_order_asked_for(self, chosen):
        assert (chosen.classes, chosen.num_classes, chosen.all_classes) == (("sheep", "cat"), 2, TINY_CLASSES)
        assert chosen.label_matrix(chosen.ids("train")[:3]).tolist() == [[0, 1], [0, 0], [1, 0]]
        assert chosen.label_matrix([]).shape == (0, 2)

    def test_masks_are_renumbered_and_the_rest_is_background(self, tiny_devkit, chosen):
        ids = chosen.ids("train")
        assert set.union(*(set(np.unique(VocMasks(VocDevkit(tiny_devkit)).mask(i))) for i in ids)) == {0, 1, 2, 3, 255}
        for image_id in ids:
            stored, seen = (VocMasks(devkit).mask(image_id) for devkit in (VocDevkit(tiny_devkit), chosen))
            assert seen.dtype == np.uint8
            assert ((seen == 1) == (stored == 3)).all()
            assert ((seen == 2) == (stored == 1)).all()
            assert ((seen == 0) == ((stored == 0) | (stored == 2))).all()
            assert ((seen == 255) == (stored == 255)).all()
            assert set(np.unique(seen)) - {0, 255} == set(np.flatnonzero(chosen.labels(image_id)) + 1)

    def test_parts_of_other_classes_are_background(self, tiny_devkit, chosen):
        """The first image shows a cat in the upper left quarter and a dog in the lower right one."""
        stored, seen = (VocMasks(devkit, "parts").mask(FIRST) for devkit in (VocDevkit(tiny_devkit), chosen))
        assert (seen[:16] == stored[:16]).all()
        assert set(np.unique(stored[16:])) == {0, 1, 2, 255}
        assert set(np.unique(seen[16:, :-1])) == {0}

    def test_classes_of_voc_may_be_chosen(self, tiny_devkit):
        (tiny_devkit / "classes.txt").unlink()
        devkit = VocDevkit(tiny_devkit, ("dog", "cat"))
        assert devkit.labels(FIRST).tolist() == [1, 1]
        assert devkit.class_list == "2 of 20 classes (dog, cat)"
        assert VocDevkit(tiny_devkit).class_list == "all 20 classes"

    def test_what_is_not_chosen_is_still_checked(self, tiny_devkit, chosen):
        mask = np.zeros((32, 48), np.uint8)
        mask[0, 0] = 4
        write_palette_png(tiny_devkit / f"SegmentationClass/{FIRST}.png", mask)
        assert "label 4 is out of range (0..3" in message_of(VocMasks(chosen).mask, FIRST)

    def test_a_class_that_the_devkit_lacks(self, tiny_devkit):
        message = message_of(VocDevkit, tiny_devkit, ("cat", "dgo"))
        assert message.startswith("data.classes of the profile: unknown class 'dgo'")
        assert f"the nearest one in {tiny_devkit} is 'dog'" in message

    def test_a_class_chosen_twice(self, tiny_devkit):
        assert "lists the class 'cat' 2 times" in message_of(VocDevkit, tiny_devkit, ("cat", "cat"))


class TestSbd:
    def test_train_aug_is_train_and_sbd_without_val(self, tiny_devkit):
        write_sbd(tiny_devkit / "sbd", ["2007_000001", "2009_000001"], ["2008_000001", "2009_000002"])
        expected = [*TINY_SPLITS["train"], "2009_000001", "2009_000002"]
        assert VocDevkit(tiny_devkit).ids("train_aug") == expected

    def test_sbd_is_found_where_its_archive_puts_it(self, tmp_path, tiny_devkit):
        root = tmp_path / "VOCdevkit/VOC2012"
        root.parent.mkdir()
        tiny_devkit.rename(root)
        write_sbd(tmp_path / "benchmark_RELEASE/dataset", ["2009_000001"], ["2009_000002"])
        assert "2009_000002" in VocDevkit(root).ids("train_aug")

    def test_a_split_file_is_preferred(self, tiny_devkit):
        write_sbd(tiny_devkit / "sbd", ["2009_000001"], ["2009_000002"])
        (tiny_devkit / "ImageSets/Segmentation/train_aug.txt").write_text("2007_000003\n")
        assert VocDevkit(tiny_devkit).ids("train_aug") == ["2007_000003"]

    @pytest.mark.parametrize("missing", [0, 1])
    def test_train_aug_of_voc_is_counted(self, tiny_devkit, missing):
        (tiny_devkit / "classes.txt").unlink()
        names = [f"2010_{number:06d}" for number in range(TRAIN_AUG_COUNT)]
        val = [f"2011_{number:06d}" for number in range(1449)]
        lists = tiny_devkit / "ImageSets/Segmentation"
        (lists / "train.txt").write_text("\n".join(names[:1464]))
        (lists / "val.txt").write_text("\n".join(val))
        write_sbd(tiny_devkit / "sbd", names[1000:8498], names[8000 : TRAIN_AUG_COUNT - missing] + val[:700])
        devkit = VocDevkit(tiny_devkit)
        if missing:
            assert "10,581 ids, not 10,582" in message_of(devkit.ids, "train_aug")
        else:
            assert devkit.ids("train_aug") == names

    def test_sbd_masks_stand_in_for_missing_ones(self, tiny_devkit):
        write_sbd(tiny_devkit / "sbd", [FIRST], ["2007_000002"])
        mask = np.zeros((32, 48), np.uint8)
        mask[4:9, 7:20] = 3
        write_mat(tiny_devkit / f"sbd/cls/{FIRST}.mat", mask)
        masks = VocMasks(VocDevkit(tiny_devkit))
        assert 255 in masks.mask(FIRST)  # the devkit's own mask goes first
        (tiny_devkit / f"SegmentationClass/{FIRST}.png").unlink()
        assert (masks.mask(FIRST) == mask).all()

    def test_damaged_mat_file(self, tiny_devkit):
        write_sbd(tiny_devkit / "sbd", [FIRST], ["2007_000002"])
        (tiny_devkit / f"SegmentationClass/{FIRST}.png").unlink()
        mat = tiny_devkit / f"sbd/cls/{FIRST}.mat"
        scipy.io.savemat(mat, {"other": 1})
        masks = VocMasks(VocDevkit(tiny_devkit))
        assert f"{mat}: not an SBD mask" in message_of(masks.mask, FIRST)
        mat.write_bytes(b"not a matrix")
        assert f"{mat}: not an SBD mask" in message_of(masks.mask, FIRST)

    def test_no_sbd(self, tiny_devkit):
        message = message_of(VocDevkit(tiny_devkit).ids, "train_aug")
        assert "train_aug.txt: missing" in message
        assert "wsseg data fetch voc" in message


class TestBadInput:
    def test_missing_devkit(self, tmp_path):
        message = message_of(VocDevkit, tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in message
        assert "wsseg data toyvoc" in message
        assert "wsseg data fetch voc" in message

    def test_missing_split(self, tiny_devkit):
        message = message_of(VocDevkit(tiny_devkit).ids, "trian")
        assert "trian.txt: missing split file" in message
        assert "(train, val)" in message

    @pytest.mark.parametrize("content", [b"", b"\n  \n"])
    def test_empty_split(self, tiny_devkit, content):
        (tiny_devkit / "ImageSets/Segmentation/val.txt").write_bytes(content)
        assert "val.txt: is empty" in message_of(VocDevkit(tiny_devkit).ids, "val")

    def test_split_that_is_no_text(self, tiny_devkit):
        (tiny_devkit / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe\x00\x81")
        assert "val.txt: cannot be read as text" in message_of(VocDevkit(tiny_devkit).ids, "val")

    @pytest.mark.parametrize("entry", ["/data/photos/a.jpg", "../a"])
    def test_an_id_that_leads_out_of_the_devkit(self, tiny_devkit, entry):
        (tiny_devkit / "ImageSets/Segmentation/val.txt").write_text(f"{entry}\n")
        assert f"val.txt: {entry!r} leads out of JPEGImages" in message_of(VocDevkit(tiny_devkit).ids, "val")

    def test_a_table_of_labels_with_an_open_quotation_mark(self, tiny_devkit):
        (tiny_devkit / "Annotations").rename(tiny_devkit / "unused")
        (tiny_devkit / "labels.csv").write_text('"a,cat\n' + "b,cat\n" * 30_000)
        assert "labels.csv: not a table of commas" in message_of(VocDevkit(tiny_devkit).labels, "a")

    def test_id_without_an_image(self, tiny_devkit):
        assert "nothing.jpg: missing image" in message_of(VocDevkit(tiny_devkit).image, "nothing")

    def test_an_image_of_another_kind_is_named(self, tiny_devkit):
        path = tiny_devkit / "JPEGImages/a[1].v2.bmp"
        Image.new("RGB", (2, 2)).save(path)
        devkit = VocDevkit(tiny_devkit)
        assert f"{path}: a kind of file that is not read; save it as" in message_of(devkit.image, "a[1].v2")
        assert "a[1].jpg: missing image" in message_of(devkit.image, "a[1]")

    @pytest.mark.parametrize("keep", [0, 30, 500])
    def test_truncated_jpeg(self, tiny_devkit, keep):
        path = tiny_devkit / f"JPEGImages/{FIRST}.jpg"
        path.write_bytes(path.read_bytes()[:keep])
        assert f"{path}: cannot be decoded" in message_of(VocDevkit(tiny_devkit).image, FIRST)

    def test_unknown_class(self, tiny_devkit):
        path = tiny_devkit / f"Annotations/{FIRST}.xml"
        path.write_text(path.read_text().replace("<name>dog<", "<name>dogg<"))
        message = message_of(VocDevkit(tiny_devkit).labels, FIRST)
        assert f"{path}: unknown class 'dogg'" in message
        assert "'dog'" in message

    @pytest.mark.parametrize("name", ["background", "_background_", "__ignore__", "Void"])
    def test_a_class_list_with_the_background(self, tiny_devkit, name):
        (tiny_devkit / "classes.txt").write_text(f"{name}\ncat\ndog\nsheep\n")
        assert f"classes.txt: {name!r} is no class" in message_of(VocDevkit, tiny_devkit)

    def test_a_class_list_with_a_class_twice(self, tiny_devkit):
        (tiny_devkit / "classes.txt").write_text("cat\ndog\ncat\n")
        assert "classes.txt: lists the class 'cat' 2 times; keep one" in message_of(VocDevkit, tiny_devkit)

    @pytest.mark.parametrize("count", [254, 255])
    def test_a_mask_has_room_for_254_classes(self, tiny_devkit, count):
        (tiny_devkit / "classes.txt").write_text("\n".join(f"class {number}" for number in range(count)))
        if count == 254:
            assert VocDevkit(tiny_devkit).mask_values.tolist() == list(range(256))
        else:
            assert "255 classes; use at most 254" in message_of(VocDevkit, tiny_devkit)

    @pytest.mark.parametrize("content", [b"", b"<annotation><object></annotation>", b"\xff\x00"])
    def test_malformed_annotation(self, tiny_devkit, content):
        path = tiny_devkit / f"Annotations/{FIRST}.xml"
        path.write_bytes(content)
        assert f"{path}: malformed XML" in message_of(VocDevkit(tiny_devkit).labels, FIRST)

    def test_missing_labels(self, tiny_devkit):
        assert "nothing.xml: missing annotation" in message_of(VocDevkit(tiny_devkit).labels, "nothing")
        (tiny_devkit / "Annotations").rename(tiny_devkit / "unused")
        assert "neither this file nor an Annotations" in message_of(VocDevkit(tiny_devkit).labels, FIRST)
        (tiny_devkit / "labels.csv").write_text("other,cat\n")
        assert f"no line for image {FIRST}" in message_of(VocDevkit(tiny_devkit).labels, FIRST)

    def test_errors_survive_a_process_pool(self, tiny_devkit):
        with pytest.raises(DevkitError) as caught:
            VocDevkit(tiny_devkit).image("nothing")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class TestBadMasks:
    @pytest.fixture
    def path(self, tiny_devkit) -> Path:
        return tiny_devkit / f"SegmentationClass/{FIRST}.png"

    @pytest.fixture
    def masks(self, tiny_devkit) -> VocMasks:
        return VocMasks(VocDevkit(tiny_devkit))

    def test_colours_instead_of_labels(self, masks, path):
        Image.fromarray(VOC_PALETTE[masks.mask(FIRST)]).save(path)
        assert f"{path}: wrong palette: a RGB image" in message_of(masks.mask, FIRST)

    def test_another_palette(self, masks, path):
        image = Image.fromarray(np.ones((32, 48), np.uint8))
        image.putpalette([0, 0, 0, 9, 8, 7])
        image.save(path)
        assert f"{path}: wrong palette: label 1 has colour (9, 8, 7)" in message_of(masks.mask, FIRST)

    def test_label_out_of_range(self, masks, path):
        mask = np.zeros((32, 48), np.uint8)
        mask[3, 4] = 4
        write_palette_png(path, mask)
        assert f"{path}: label 4 is out of range (0..3, 255 for void)" in message_of(masks.mask, FIRST)

    def test_part_out_of_range(self, masks):
        path = masks.devkit.root / f"SegmentationParts/{FIRST}.png"
        write_palette_png(path, np.full((32, 48), 3, np.uint8))
        parts = VocMasks(masks.devkit, kind="parts")
        assert f"{path}: label 3 is out of range (0..2" in message_of(parts.mask, FIRST)

    def test_another_size_than_the_image(self, masks, path):
        write_palette_png(path, np.zeros((48, 32), np.uint8))
        assert f"{path}: the mask is 32×48, its image 48×32" in message_of(masks.mask, FIRST)

    def test_damaged_or_missing(self, masks, path):
        path.write_bytes(path.read_bytes()[:60])
        assert f"{path}: cannot be decoded" in message_of(masks.mask, FIRST)
        path.unlink()
        assert f"{path}: missing mask" in message_of(masks.mask, FIRST)

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_training_images_without_any_mask_are_void(self, tiny_devkit, split):
        """One missing mask is a fault; a training split without any is not, and a split to be scored needs them."""
        masks, ids = VocMasks(VocDevkit(tiny_devkit)), TINY_SPLITS[split]
        for image_id in ids[1:]:
            (tiny_devkit / f"SegmentationClass/{image_id}.png").unlink()
        assert f"{ids[1]}.png: missing mask" in message_of(masks.mask, ids[1])
        _never_drawn.cache_clear()
        (tiny_devkit / f"SegmentationClass/{ids[0]}.png").unlink()
        assert not masks.has(ids[0])
        if split == "val":
            assert f"{ids[0]}.png: missing mask" in message_of(masks.mask, ids[0])
        else:
            assert masks.mask(ids[0]).tolist() == np.full((32, 48), 255).tolist()

    def test_unknown_kind(self, tiny_devkit):
        with pytest.raises(ValueError, match="'class' or 'parts'"):
            VocMasks(VocDevkit(tiny_devkit), kind="objects")
