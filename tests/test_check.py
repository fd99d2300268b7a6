"""The devkit validator: finds everything, file by file, and stops at nothing."""

import shutil

import numpy as np
import pytest
from conftest import write_tiny_devkit

from wsseg_core.data.check import check_devkit
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
