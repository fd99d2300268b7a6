"""The devkit validator: finds everything, file by file, and stops at nothing."""

import shutil

import numpy as np
import pytest
from conftest import TINY_SPLITS, write_tiny_devkit
from PIL import Image

from wsseg_core.data.check import check_devkit, inspect_devkit
from wsseg_core.data.images import write_palette_png


def lines_of(root, splits=None) -> list[str]:
    return [str(problem) for problem in check_devkit(root, splits, workers=1)]


def test_a_whole_devkit_has_no_problem(tiny_devkit):
    assert lines_of(tiny_devkit) == []


def test_every_problem_is_listed_once(tiny_devkit):
    image = tiny_devkit / "JPEGImages/2007_000001.jpg"
    image.write_bytes(image.read_bytes()[:400])
    (tiny_devkit / "JPEGImages/2007_000002.jpg").write_bytes(b"")  # unreadable for the image and for its mask's size
    (tiny_devkit / "JPEGImages/2007_000003.jpg").unlink()
    (tiny_devkit / "Annotations/2007_000004.xml").write_text("<annotation>")
    (tiny_devkit / "SegmentationClass/2007_000005.png").unlink()
    write_palette_png(tiny_devkit / "SegmentationParts/2007_000006.png", np.zeros((3, 3), np.uint8))
    write_palette_png(tiny_devkit / "SegmentationClass/2008_000001.png", np.full((44, 36), 9, np.uint8))
    (tiny_devkit / "ImageSets/Segmentation/empty.txt").touch()
    with (tiny_devkit / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("2008_000002\n")
    expected = [
        "Segmentation/empty.txt: is empty",
        "Segmentation/val.txt: lists 2008_000002 more than once",
        "JPEGImages/2007_000001.jpg: cannot be decoded",
        "JPEGImages/2007_000002.jpg: cannot be decoded (not an image)",
        "JPEGImages/2007_000003.jpg: missing image",
        "Annotations/2007_000004.xml: malformed XML",
        "SegmentationClass/2007_000005.png: missing mask",
        "SegmentationParts/2007_000006.png: the mask is 3×3",
        "SegmentationClass/2008_000001.png: label 9 is out of range",
    ]
    lines = lines_of(tiny_devkit)
    assert len(lines) == len(expected)
    assert all(part in line for line, part in zip(lines, expected, strict=True))


def test_many_files_with_one_problem_are_one_line(tiny_devkit):
    """A line a file up to nine; the numbers within may differ."""
    ids = [f"extra_{number}" for number in range(10)]
    with (tiny_devkit / "ImageSets/Segmentation/train.txt").open("a") as file:
        file.write("\n".join(ids))
    for number, image_id in enumerate(ids):
        (tiny_devkit / f"Annotations/{image_id}.xml").write_text("<annotation/>")
        Image.new("RGB", (5, 5)).save(tiny_devkit / f"JPEGImages/{image_id}.png")
        write_palette_png(tiny_devkit / f"SegmentationClass/{image_id}.png", np.zeros((5, 6 + number), np.uint8))
    (line,) = lines_of(tiny_devkit)
    assert "SegmentationClass: 10 files, for instance extra_0.png, extra_1.png, extra_2.png: the mask is 6×5" in line
    write_palette_png(tiny_devkit / "SegmentationClass/extra_0.png", np.zeros((5, 5), np.uint8))
    assert len(lines_of(tiny_devkit)) == 9
    with_labels_file(tiny_devkit, "2007_000001,cat,dog")
    assert any("extra_0, and 9 more of the kind; add a line" in line for line in lines_of(tiny_devkit))


def test_only_the_splits_asked_for(tiny_devkit):
    (tiny_devkit / "JPEGImages/2007_000003.jpg").unlink()
    assert lines_of(tiny_devkit, ["val"]) == []
    assert len(lines_of(tiny_devkit, ["train"])) == 1


def test_a_split_without_any_mask_is_for_training(tiny_devkit):
    for path in (tiny_devkit / "SegmentationClass").glob("2007_*"):
        path.unlink()
    assert lines_of(tiny_devkit) == []


def test_classes_of_a_profile_are_looked_for(tiny_devkit):
    assert check_devkit(tiny_devkit, workers=1, classes=["sheep"]) == []
    (problem,) = check_devkit(tiny_devkit, workers=1, classes=["sheeep"])
    assert "'sheep'" in str(problem)


@pytest.mark.parametrize("folder", ["Annotations", "ImageSets", "JPEGImages"])
def test_a_missing_folder_is_one_problem(tiny_devkit, folder):
    shutil.rmtree(tiny_devkit / folder)
    assert len(lines_of(tiny_devkit)) == 1


def test_derived_train_aug_is_checked(tiny_devkit):
    (tiny_devkit / "sbd").mkdir()
    (tiny_devkit / "sbd/train.txt").write_text("2009_000001\n")
    (tiny_devkit / "sbd/val.txt").write_text("2008_000001\n")
    lines = lines_of(tiny_devkit)
    assert any("2009_000001.jpg: missing image" in line for line in lines)
    assert any("2009_000001.xml: missing annotation" in line for line in lines)


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path):
    write_tiny_devkit(tmp_path / "devkit")
    (tmp_path / "devkit/JPEGImages/2007_000003.jpg").unlink()
    problems = check_devkit(tmp_path / "devkit", workers=2)
    assert problems == check_devkit(tmp_path / "devkit", workers=1)
    assert len(problems) == 1


def with_labels_file(root, text: str) -> None:
    shutil.rmtree(root / "Annotations")
    (root / "labels.csv").write_text(text)


LABELS = [
    *("2007_000001,cat,dog", "2007_000002,dog", "2007_000003,sheep", "2007_000004,cat,dog", "2007_000005,dog"),
    *("2007_000006,sheep", "2008_000001,cat,dog", "2008_000002,dog", "2008_000003,sheep"),
]


def test_several_lines_of_an_image_are_united(tiny_devkit):
    lines = [line for line in LABELS if not line.startswith("2007_000001")]
    with_labels_file(tiny_devkit, "\n".join([*lines, "2007_000001,cat", "2007_000001,dog"]))
    assert lines_of(tiny_devkit) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(LABELS).replace(",", ";"), "'2007_000001;cat;dog' is no image id; write '2007_000001', and a comma"),
        ("\n".join(LABELS).replace(",", "\t"), "'2007_000001\\tcat\\tdog' is no image id; write '2007_000001', and"),
        ("\n".join(LABELS).replace(",", ".jpg,", 9), "'2007_000001.jpg' is no image id; write '2007_000001'"),
        ("id,cat,dog,sheep\n2007_000001,1,1,0", "has 0 and 1 in place of classes; name the classes instead"),
        ("2007_000001,cat,dog", "no line for image 2007_000002"),
    ],
)
def test_what_is_wrong_with_a_labels_file_is_told_once(tiny_devkit, text, message):
    with_labels_file(tiny_devkit, text)
    lines = lines_of(tiny_devkit)
    assert message in lines[0]
    assert all("labels.csv" in line for line in lines)
    assert len(lines) == (8 if "no line" in message else 1)


def test_no_labels_at_all(tiny_devkit):
    shutil.rmtree(tiny_devkit / "Annotations")
    (line,) = lines_of(tiny_devkit)
    assert "labels.csv: neither this file nor an Annotations folder" in line
    assert "write it, one line `ID,class,class,...` an image" in line


def test_classes_of_ones_own_without_a_class_file(tiny_devkit):
    (tiny_devkit / "classes.txt").unlink()
    annotation = tiny_devkit / "Annotations/2007_000001.xml"
    annotation.write_text(annotation.read_text().replace("cat", "lesion"))
    assert any("unknown class 'lesion'; write" in line and "the 20 of VOC" in line for line in lines_of(tiny_devkit))


@pytest.mark.parametrize(
    "form",
    ["{}.jpg", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "data/JPEGImages/{}.jpg", "{} 1", "JPEGImages\\{}.JPEG"],
)
def test_lists_of_other_tools_are_told_by_their_form(tiny_devkit, form):
    split = tiny_devkit / "ImageSets/Segmentation/val.txt"
    split.write_text("".join(f"{form.format(image_id, image_id)}\n" for image_id in TINY_SPLITS["val"]))
    (line,) = lines_of(tiny_devkit)
    assert "val.txt: " in line
    assert "is no image id; write '2008_000001', with nothing before or behind it" in line


def test_ids_may_have_spaces_dots_and_folders(tiny_devkit):
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationParts"):
        for path in (tiny_devkit / folder).glob("2008_000001.*"):
            (tiny_devkit / folder / "cam 0").mkdir()
            path.rename(tiny_devkit / folder / f"cam 0/shot.png 1{path.suffix}")
    split = tiny_devkit / "ImageSets/Segmentation/val.txt"
    split.write_text(split.read_text().replace("2008_000001", "cam 0/shot.png 1"))
    assert lines_of(tiny_devkit) == []


def test_a_split_to_score_is_needed(tiny_devkit):
    (tiny_devkit / "ImageSets/Segmentation/val.txt").unlink()
    (line,) = lines_of(tiny_devkit)
    assert "val.txt: missing split file" in line
    assert check_devkit(tiny_devkit, workers=1, val_split="train") == []


def test_a_split_to_score_needs_masks(tiny_devkit):
    for path in (tiny_devkit / "SegmentationClass").glob("2008_*"):
        path.unlink()
    (line,) = lines_of(tiny_devkit)
    assert "no image of val has a mask, so nothing can be scored" in line


def test_masks_that_are_no_png_are_no_missing_masks(tiny_devkit):
    for path in (tiny_devkit / "SegmentationClass").glob("2008_*"):
        path.rename(path.with_suffix(".jpg"))
    lines = lines_of(tiny_devkit)
    assert len(lines) == 3
    assert all("SegmentationClass/2008_" in line and ".jpg: a mask that is no .png" in line for line in lines)


def test_an_image_in_both_splits(tiny_devkit):
    with (tiny_devkit / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("2007_000003\n")
    (line,) = lines_of(tiny_devkit)
    assert "val.txt: 1 of its images are also in train, for instance 2007_000003" in line


def redraw(root, change) -> None:
    for path in (root / "SegmentationClass").glob("*.png"):
        with Image.open(path) as mask:
            values = np.array(mask)
        write_palette_png(path, change(values))


def test_masks_of_0_and_255(tiny_devkit):
    redraw(tiny_devkit, lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    (line,) = lines_of(tiny_devkit)
    assert "the masks hold 0 and 255 alone, no class, though 9 of their images have labels" in line
    assert "`mask[mask == 255] = 1`" in line


def test_a_mask_that_shows_what_no_label_names(tiny_devkit):
    (tiny_devkit / "Annotations/2007_000001.xml").write_text(
        "<annotation><object><name>dog</name></object></annotation>"
    )
    (line,) = lines_of(tiny_devkit)
    assert "1 of 9 masks, for instance 2007_000001 (cat), show a class that the labels lack" in line


def test_labels_that_no_pixel_shows_are_a_problem_when_they_are_many(tiny_devkit):
    """One of nine is above a tenth; one of eleven is not."""
    (tiny_devkit / "Annotations/2007_000003.xml").write_text(
        "<annotation><object><name>sheep</name></object><object><name>cat</name></object></annotation>"
    )
    (line,) = lines_of(tiny_devkit)
    assert "1 of 9 masks, for instance 2007_000003 (cat), lack a class that the labels name" in line
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml"), ("SegmentationClass", "png")):
        for copy in ("one", "two"):
            shutil.copy(tiny_devkit / f"{folder}/2007_000001.{suffix}", tiny_devkit / f"{folder}/{copy}.{suffix}")
    with (tiny_devkit / "ImageSets/Segmentation/train.txt").open("a") as file:
        file.write("one\ntwo\n")
    problems, notes = inspect_devkit(tiny_devkit, workers=1)
    assert problems == []
    assert any("1 of 11 masks, for instance 2007_000003 (cat), lack" in note and "usual" in note for note in notes)


def test_classes_in_another_order_than_in_the_masks(tiny_devkit):
    (tiny_devkit / "classes.txt").write_text("dog\ncat\nsheep\n")
    lines = lines_of(tiny_devkit)
    assert len(lines) == 2
    assert all("classes.txt into the order of the values" in line for line in lines)


def test_a_devkit_is_described(tiny_devkit):
    for path in (tiny_devkit / "SegmentationClass").glob("2007_*"):
        path.unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(tiny_devkit / "JPEGImages/2007_000001.jpg") as image:
        image.save(tiny_devkit / "JPEGImages/2007_000001.jpg", exif=exif)
    problems, notes = inspect_devkit(tiny_devkit, workers=1, classes=["sheep", "cat"])
    assert problems == []
    assert notes[0] == "2 of 3 classes: sheep, cat"
    assert notes[1].startswith(
        "train: 6 images, 2 without any label, 0 with a mask; what needs them is left out: the ch"
    )
    assert notes[2] == "val: 3 images, 1 without any label, 3 with a mask"
    assert notes[3].startswith("1 images are turned as EXIF says, for instance 2007_000001;")


def test_a_class_that_no_image_shows_is_noted(tiny_devkit):
    with (tiny_devkit / "classes.txt").open("a") as file:
        file.write("bat\n")
    assert inspect_devkit(tiny_devkit, workers=1) == (
        [],
        [
            "4 of 4 classes: cat, dog, sheep, bat",
            "train: 6 images, 0 without any label, 6 with a mask",
            "val: 3 images, 0 without any label, 3 with a mask",
            "no image shows bat",
        ],
    )
