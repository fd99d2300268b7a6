"""Data sets of other forms become a devkit: every form, what is refused, and round trips of masks."""

import json
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.check import inspect_devkit
from wsseg_core.data.images import write_palette_png
from wsseg_core.data.importing import read_dataset, rle
from wsseg_core.data.importing.writer import planned, write_devkit
from wsseg_core.data.masks import VocMasks
from wsseg_core.data.voc import VocDevkit
from wsseg_core.workbook.command_line import main

HEIGHT, WIDTH = 12, 16


def picture(path, seed=0, orientation=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng([seed, *str(path).encode()]).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(path, exif=exif)
    return path


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def imported(source, out, kind="", names=(), **options):
    plan = planned(*read_dataset(source, kind, names), **options)
    write_devkit(plan, out)
    assert inspect_devkit(out, workers=1)[0] == []
    return plan, VocDevkit(out)


def labels_of(devkit):
    ids = [i for split in devkit.splits() for i in devkit.ids(split)]
    return {i: [devkit.classes[c] for c in np.flatnonzero(devkit.labels(i))] for i in ids}


def refused(message, *arguments):
    with pytest.raises(WorkbookError, match=message) as caught:
        planned(*read_dataset(*arguments))
    assert "\n" not in str(caught.value)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


class TestFolders:
    @pytest.fixture
    def classes(self, source):
        for label in ("horse", "zebra"):
            for number in range(5):
                picture(source / label / f"{number}.jpg", seed=number)
        return source

    def test_one_class_a_folder(self, classes, out):
        plan, devkit = imported(classes, out)
        assert (plan.kind, plan.seed, devkit.classes) == ("folders", 0, ("horse", "zebra"))
        assert {split: len(devkit.ids(split)) for split in devkit.splits()} == {"train": 8, "val": 2}
        assert all(names == [image_id.split("_")[0]] for image_id, names in labels_of(devkit).items())
        assert (out / "JPEGImages/horse_0.jpg").is_symlink()
        assert not (out / "SegmentationClass").exists()
        assert "no masks to score with" in inspect_devkit(out, workers=1)[1][-1]
        assert (VocMasks(devkit).mask(devkit.ids("val")[0]) == 255).all()

    def test_the_split_depends_on_the_seed_alone(self, classes):
        data = read_dataset(classes)
        splits = [planned(*data, seed=seed).splits for seed in (0, 0, 1, 2, 3)]
        assert splits[0] == splits[1]
        assert len({tuple(split["val"]) for split in splits}) > 1

    def test_a_photograph_in_two_folders_shows_both(self, classes, out):
        for label in ("horse", "zebra"):
            (classes / label / "both.jpg").write_bytes((classes / "horse/0.jpg").read_bytes())
        assert labels_of(imported(classes, out)[1])["both"] == ["horse", "zebra"]

    def test_given_splits(self, source, out):
        for split in ("train", "valid"):
            for label in ("horse", "zebra"):
                picture(source / split / label / "1.png")
        plan, devkit = imported(source, out)
        assert plan.seed is None
        assert devkit.splits() == ["train", "val"]
        assert [len(devkit.ids(split)) for split in devkit.splits()] == [2, 2]

    def test_cyclegan(self, source, out):
        for folder in ("trainA", "trainB", "testA", "testB"):
            picture(source / folder / f"{folder}.jpg")
        refused("name them, as in --names horse,zebra", source)
        plan, devkit = imported(source, out, names=["horse", "zebra"])
        assert plan.kind == "cyclegan"
        expected = {"trainA": ["horse"], "trainB": ["zebra"], "testA": ["horse"], "testB": ["zebra"]}
        assert (labels_of(devkit), devkit.ids("val")) == (expected, ["testA", "testB"])

    def test_an_import_among_the_folders_is_no_class(self, classes):
        for _ in range(2):
            _, devkit = imported(classes, classes / "devkit")
            assert devkit.classes == ("horse", "zebra")

    @pytest.mark.parametrize("kind", ["folders", "cyclegan"])
    def test_a_file_is_no_folder(self, source, kind):
        refused("is a file, and .* are folders; give the folder", write(source / "labels.csv", "a"), kind)

    def test_what_is_refused(self, classes):
        (classes / "empty").mkdir()
        refused("empty: no images in this class folder", classes)
        (classes / "empty").rmdir()
        picture(classes / "background/a.jpg")
        refused("background: 'background' is no class", classes)
        (classes / "background").rename(classes / "Horse")
        refused("'Horse' and 'horse' differ in capitals|'horse' and 'Horse' differ in capitals", classes)
        (classes / "Horse").rename(classes / "cow")
        write(classes / "cow/b.heic", "")
        refused("b.heic: a .heic picture, which is not read", classes)
        (classes / "cow/b.heic").unlink()
        picture(classes / "cow/a.png")
        refused("a.png: has the same name as|a.jpg: has the same name as", classes)


class TestNames:
    def test_other_labels_of_a_table_are_not_seen(self, source, out):
        for name in "abc":
            picture(source / f"{name}.png")
        write(source / "labels.csv", "a.png,cat\nb.png,dog\nc.png,cat\n")
        plan, devkit = imported(source, out, names=["cat"])
        assert sorted(len(image.labels) for image in plan.data.images) == [0, 1, 1]
        assert labels_of(devkit) == {"a": ["cat"], "b": [], "c": ["cat"]}

    def test_a_table_may_be_imported_into_its_own_folder_twice(self, source):
        for name in "abc":
            picture(source / f"{name}.png")
        write(source / "labels.csv", "a.png,cat\nb.png,dog\nc.png,cat\n")
        for _ in range(2):
            assert len(labels_of(imported(source / "labels.csv", source / "devkit")[1])) == 3


TABLES = {
    "no header": "a.jpg,cat,dog\nb.jpg,dog\nc.jpg\n",
    "header": "image,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\nc.jpg,\n",
    "semicolons": 'file;labels\na.jpg;"cat, dog"\nb.jpg;dog\nc.jpg;\n',
    "list in a cell": "name,tags\na,cat|dog\nb,dog\nc,\n",
    "one hot": "image,cat,dog\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n",
    "minus one": "image,cat,dog\na.jpg,1,1\nb.jpg,-1,1\nc.jpg,-1,-1\n",
    "python list": "image,label\na.jpg,\"['cat', 'dog']\"\nb.jpg,['dog']\nc.jpg,[]\n",
    "spaces": "image,label\na.jpg,cat dog\na.jpg,cat\nb.jpg,dog\nc.jpg,\n",
    "other columns": "filename,width,class,xmin\na.jpg,9,cat,1\na.jpg,9,dog,1\nb.jpg,9,dog,1\nc.jpg,9,,1\n",
    "paths": "images/a.jpg,cat,dog\nimages/b.jpg,dog\nimages/c.jpg\n",
}
JSONS = {
    "dictionary": {"a.jpg": ["cat", "dog"], "b.jpg": "dog", "c.jpg": []},
    "marks": {"a.jpg": {"cat": 1, "dog": 1}, "b.jpg": {"cat": 0, "dog": 1}, "c.jpg": {"cat": 0, "dog": 0}},
    "records": [{"file": "a.jpg", "labels": ["cat", "dog"]}, {"file": "b.jpg", "labels": ["dog"]}, {"file": "c.jpg"}],
    "wrapped": {"images": [{"id": "a", "tags": "cat,dog"}, {"id": "b", "tags": "dog"}, {"id": "c", "tags": ""}]},
}


class TestTable:
    @pytest.fixture(autouse=True)
    def images(self, source):
        for name in "abc":
            picture(source / f"images/{name}.jpg")

    @pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
    def test_csv(self, source, out, text):
        write(source / "labels.csv", text)
        assert labels_of(imported(source / "labels.csv", out)[1]) == {"a": ["cat", "dog"], "b": ["dog"], "c": []}

    @pytest.mark.parametrize("value", JSONS.values(), ids=JSONS)
    def test_json(self, source, out, value):
        write(source / "labels.json", value)
        assert labels_of(imported(source / "labels.json", out)[1]) == {"a": ["cat", "dog"], "b": ["dog"], "c": []}

    def test_tabs_and_a_name_of_two_words(self, source, out):
        write(source / "labels.tsv", "a.jpg\tpolar bear\nb.jpg\tbear\nc.jpg\tbear\n")
        assert labels_of(imported(source, out, kind="table")[1])["a"] == ["polar bear"]

    def test_split_column(self, source, out):
        write(source / "l.csv", "image,label,split\na.jpg,cat,train\nb.jpg,dog,train\nc.jpg,cat,test\n")
        assert imported(source / "l.csv", out)[1].ids("val") == ["c"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a.jpg,cat\nmissing.jpg,dog", "names the image 'missing.jpg', which is not below"),
            ("x.jpg,cat\ny.jpg,dog", "names no image that is below"),
            ("a.jpg,background\nb.jpg,cat", "'background' is no class"),
            ("image,label\na.jpg,0\nb.jpg,1", "its labels are numbers"),
            ("image,label,split\na.jpg,cat,train\na.jpg,cat,val", "has 'a.jpg' in train and in val"),
            ("image,foo,bar\na.jpg,x,u\nb.jpg,z,v", "which column holds the labels is not clear"),
            ("image,label\na.jpg,\nb.jpg,", "holds no label"),
            ("", "names no image"),
            ("cat,a.jpg\ndog,b.jpg\nend\n", "names the image '', which is not below"),
            ("image,cat\na.jpg,1,1\nb.jpg,0,1\n", "has more cells in a line than in its first; name every column"),
            ("image,label,split\na.jpg,cat,train\nb.jpg,dog,val\nc.jpg,cat,later", "1 of 3 images are in no split"),
        ],
    )
    def test_what_is_refused(self, source, text, message):
        refused(message, write(source / "labels.csv", text))

    def test_no_json(self, source):
        refused(r"labels.json: is not valid JSON \(", write(source / "labels.json", '{"a.jpg": ['))

    def test_another_encoding(self, source):
        (source / "labels.csv").write_bytes("a.jpg,Bär\n".encode("cp1252"))
        refused("cannot be read as text .*; save it as UTF-8", source / "labels.csv")


@pytest.fixture
def mask():
    """A ring of class 1 with class 2 in its hole, and another piece of class 1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:9, 1:9] = 1
    mask[3:7, 3:7] = 0
    mask[4:6, 4:6] = 2
    mask[10:, 12:] = 1
    return mask


class TestMasks:
    """CVAT and labelme's conversion: masks in files."""

    def test_cvat(self, source, out, mask):
        colours = np.uint8([[0, 0, 0], [250, 50, 83], [51, 221, 255]])
        write(source / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")
        with (source / "labelmap.txt").open("a") as file:
            file.write("dog:51,221,255::\n")
        for name in "ab":
            picture(source / f"JPEGImages/{name}.jpg")
            (source / "SegmentationClass").mkdir(exist_ok=True)
            Image.fromarray(colours[mask]).save(source / f"SegmentationClass/{name}.png")
        write(source / "ImageSets/Segmentation/default.txt", "a\nb\n")
        plan, devkit = imported(source, out)
        assert (plan.kind, plan.seed, labels_of(devkit)["a"]) == ("cvat", 0, ["cat", "dog"])
        assert (VocMasks(devkit).mask("a") == mask).all()
        Image.fromarray(np.uint8(255 - colours[mask])).save(source / "SegmentationClass/a.png")
        refused(r"a.png: has the colour \(.*\), which labelmap.txt does not list", source)
        write(source / "labelmap.txt", "background:0,0,0::\ncat:0,0,0::\n")
        refused("'cat:0,0,0::' has the colour of another line", source)
        write(source / "labelmap.txt", "background:0,0,0::\ncat:250,50,83::\n")
        (source / "JPEGImages/a.jpg").unlink()
        refused("a.png: a mask whose image is missing", source)

    def test_labelme_voc(self, source, out, mask):
        write(source / "class_names.txt", "_background_\ncat\ndog")
        mask[0] = 255
        for name in "ab":
            picture(source / f"JPEGImages/{name}.jpg")
            write_palette_png(source / f"SegmentationClassPNG/{name}.png", mask)
        plan, devkit = imported(source, out)
        assert (plan.kind, devkit.classes) == ("labelme-voc", ("cat", "dog"))
        assert (VocMasks(devkit).mask("b") == mask).all()
        write_palette_png(source / "SegmentationClassPNG/a.png", np.full((HEIGHT, WIDTH), 7, np.uint8))
        refused("a.png: has the value 7, and class_names.txt has 3 names", source)

    def test_a_mask_of_another_size(self, source, out):
        write(source / "class_names.txt", "_background_\ncat")
        for name in "ab":
            picture(source / f"JPEGImages/{name}.jpg")
            write_palette_png(source / f"SegmentationClass/{name}.png", np.ones((5, 4), np.uint8))
        plan = planned(*read_dataset(source))
        with pytest.raises(WorkbookError, match=r"a.jpg: is 16×12, and its mask 4×5; draw"):
            write_devkit(plan, out)
        assert not out.exists()
        assert list(out.parent.glob(".*")) == []

    @pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
    def test_a_turned_photograph_is_written_upright(self, source, out, mask, orientation):
        """The mask was drawn on the turned image; or, where the sizes say so, on the one that is stored."""
        write(source / "class_names.txt", "_background_\ncat\ndog")
        for name in "ab":
            picture(source / f"JPEGImages/{name}.jpg", orientation=orientation)
            write_palette_png(source / f"SegmentationClass/{name}.png", mask)
        devkit = imported(source, out)[1]
        with Image.open(devkit.image_path("a")) as image:
            assert image.getexif().get(0x0112, 1) == 1
            assert VocMasks(devkit).mask("a").shape == image.size[::-1]
        stored = Image.fromarray(mask)
        stored.getexif()[0x0112] = orientation
        expected = np.array(ImageOps.exif_transpose(stored)) if orientation > 4 else mask
        assert (VocMasks(devkit).mask("a") == expected).all()


def labelme(name, shapes, **more):
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.0", "imagePath": name, "shapes": listed, "flags": {}} | size | more


class TestLabelme:
    def test_shapes(self, source, out):
        shapes = [
            ("cat", "polygon", [[2, 2], [8, 2], [8, 6], [2, 6]]),
            ("dog", "rectangle", [[12, 9], [10, 7]]),
            ("cat", "circle", [[13, 3], [14, 3]]),
        ]
        for name in "ab":
            picture(source / f"{name}.jpg")
            write(source / f"{name}.json", labelme(f"{name}.jpg", shapes))
        plan, devkit = imported(source, out)
        assert (plan.kind, devkit.classes) == ("labelme", ("cat", "dog"))
        mask = VocMasks(devkit).mask("a")
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[2:7, 2:9] = 1
        expected[7:10, 10:13] = 2
        expected[3, 12:15] = expected[2:5, 13] = 1
        circle = mask[2:5, 12:15].copy()
        assert circle[1].all()
        mask[2:5, 12:15] = expected[2:5, 12:15] = 0
        assert (mask == expected).all()

    def test_flags_and_points_are_labels_without_masks(self, source, out):
        for name in "ab":
            picture(source / f"{name}.jpg")
        write(source / "a.json", labelme("a.jpg", [("cat", "point", [[1, 1]])]))
        write(source / "b.json", labelme("b.jpg", [], flags={"dog": True, "cat": False}))
        plan, devkit = imported(source, out)
        assert labels_of(devkit) == {"a": ["cat"], "b": ["dog"]}
        assert not any(image.mask for image in plan.images.values())

    def test_shapes_of_old_versions_are_polygons(self, source, out):
        for name in "ab":
            picture(source / f"{name}.jpg")
            shape = {"label": "cat", "points": [[2, 2], [8, 2], [8, 6], [2, 6]]}
            write(source / f"{name}.json", {"imagePath": f"{name}.jpg", "shapes": [shape]})
        assert (VocMasks(imported(source, out)[1]).mask("a")[2:7, 2:9] == 1).all()

    def test_an_import_among_the_annotations_is_left_alone(self, source):
        for name in "ab":
            picture(source / f"{name}.jpg")
            write(source / f"{name}.json", labelme(f"{name}.jpg", [("cat", "rectangle", [[1, 1], [3, 3]])]))
        for _ in range(2):
            assert labels_of(imported(source, source / "devkit")[1]) == {"a": ["cat"], "b": ["cat"]}

    def test_a_mask_that_is_no_picture_names_its_file(self, source, out):
        for name in "ab":
            picture(source / f"{name}.jpg")
            annotation = labelme(f"{name}.jpg", [("cat", "mask", [[1, 1], [3, 3]])])
            annotation["shapes"][0]["mask"] = "bm9wZQ=="
            write(source / f"{name}.json", annotation)
        with pytest.raises(WorkbookError, match=r"a.json: .*the mask of 'cat' cannot be decoded"):
            write_devkit(planned(*read_dataset(source)), out)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (labelme("x.jpg", []), "a.json: its image 'x.jpg' is missing; put the image beside it"),
            (labelme("a.jpg", [("", "polygon", [])]), "a.json: '' is no name of a class"),
            ({"shapes": [{"points": []}], "imagePath": "a.jpg"}, "a.json: is not laid out as labelme's JSON .lacks"),
            ('{"shapes": [', "a.json: is not valid JSON"),
        ],
    )
    def test_what_is_refused(self, source, value, message):
        picture(source / "a.jpg")
        write(source / "a.json", value)
        refused(message, source, "labelme")

    def test_a_polygon_of_two_points(self, source, out):
        for name in "ab":
            picture(source / f"{name}.jpg")
            write(source / f"{name}.json", labelme(f"{name}.jpg", [("cat", "polygon", [[1, 1], [2, 2]])]))
        with pytest.raises(WorkbookError, match=r"a.json: .* .a polygon of 'cat' has 2 points."):
            write_devkit(planned(*read_dataset(source)), out)


def coco(annotations, names="ab"):
    images = [{"id": i, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)]
    categories = [{"id": 0, "name": "background"}, {"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}]
    listed = [{"id": i, "image_id": m, "category_id": c, "segmentation": s} for i, (m, c, s) in enumerate(annotations)]
    return {"images": images, "annotations": listed, "categories": categories}


def doubled(value, kind):
    return value | {kind: [value[kind][0], *value[kind]]}


SQUARE = [[2, 2, 6, 2, 6, 5, 2, 5]]


class TestCoco:
    @pytest.fixture(autouse=True)
    def images(self, source):
        for name in "ab":
            picture(source / f"images/{name}.jpg")

    def test_polygons_have_the_pixels_inside(self, source, out):
        write(source / "annotations/instances_default.json", coco([(0, 5, SQUARE), (1, 9, SQUARE)]))
        plan, devkit = imported(source, out)
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[2:5, 2:6] = 1
        assert (plan.kind, devkit.classes) == ("coco", ("cat", "dog"))
        assert (VocMasks(devkit).mask("a") == expected).all()
        assert (VocMasks(devkit).mask("b") == 2 * expected).all()

    def test_boxes_alone_are_labels(self, source, out):
        write(source / "boxes.json", coco([(0, 5, []), (0, 9, []), (1, 9, [])]))
        _plan, devkit = imported(source / "boxes.json", out)
        assert labels_of(devkit) == {"a": ["cat", "dog"], "b": ["dog"]}
        assert not (out / "SegmentationClass").exists()

    def test_an_image_that_was_only_labelled_is_void(self, source, out):
        picture(source / "images/c.jpg")
        write(source / "c.json", coco([(0, 5, SQUARE), (1, 5, SQUARE), (2, 5, SQUARE), (2, 9, [])], "abc"))
        devkit = imported(source / "c.json", out)[1]
        assert (VocMasks(devkit).mask("c") == 255).all()
        assert "c" in devkit.ids("train")

    def test_run_length_codes(self, source, out, mask):
        one, two = (rle.encode(mask == value) for value in (1, 2))
        plain = {"size": [HEIGHT, WIDTH], "counts": rle.decompress(two["counts"])}
        write(source / "a.json", coco([(0, 5, one), (0, 9, plain), (1, 5, one)]))
        assert (VocMasks(imported(source / "a.json", out)[1]).mask("a") == mask).all()

    def test_splits_of_roboflow(self, source, out):
        for split, name in (("train", "x"), ("valid", "y")):
            picture(source / f"{split}/{name}.jpg")
            write(source / f"{split}/_annotations.coco.json", coco([(0, 5, SQUARE)], [name]))
        plan, devkit = imported(source, out, kind="coco")
        assert (plan.seed, devkit.ids("train"), devkit.ids("val")) == (None, ["x"], ["y"])

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (coco([(7, 5, SQUARE)]), "annotation 0 is of image 7, which it does not list"),
            (coco([(0, 6, SQUARE)]), "annotation 0 is of category 6, which it does not list"),
            (coco([(0, 0, SQUARE)]), "'background' is no class"),
            (coco([(0, 5, SQUARE)], "az"), "names the image 'z.jpg', which is not below"),
            (coco([]), "has no annotation; export"),
            (doubled(coco([(0, 5, SQUARE)]), "images"), "has the id 0 2 times in its images; give each"),
            (doubled(coco([(0, 5, SQUARE)]), "categories"), "2 times in its categories; give each"),
            ({"images": [{}], "annotations": [{}], "categories": []}, "is not laid out as COCO's JSON"),
            ({"images": 3, "annotations": [], "categories": []}, "is not laid out as COCO's JSON"),
        ],
    )
    def test_what_is_refused(self, source, value, message):
        refused(message, write(source / "a.json", value))

    @pytest.mark.parametrize(
        "segmentation", [{"size": [3, 3], "counts": [9]}, {"size": [12, 16], "counts": [9]}, [[1, 2]]]
    )
    def test_a_mask_that_cannot_be(self, source, out, segmentation):
        write(source / "a.json", coco([(0, 5, segmentation), (1, 9, SQUARE)]))
        with pytest.raises(WorkbookError, match=r"a.json: is not laid out as COCO's JSON at image 'a.jpg'"):
            write_devkit(planned(*read_dataset(source / "a.json")), out)


def test_run_length_code_by_hand():
    """Columns are read first; the fourth run is written as its difference to the second."""
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)  # columns 00 10 11: two of 0, one of 1, one of 0, two of 1
    assert rle.encode(mask) == {"size": [2, 3], "counts": "2111"}
    assert (rle.decode([2, 1, 1, 2], (2, 3)) == mask).all()
    assert rle.compress([40]) == "X1"  # 40 = 8 + 32 · 1, and 8 has the bit that says more: 48 + 32 + 8
    with pytest.raises(ValueError, match="ends within a number"):
        rle.decompress("X")


@pytest.mark.parametrize("seed", range(5))
def test_run_length_codes_there_and_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < rng.random()
    code = rle.encode(mask)
    assert (rle.decode(code["counts"], code["size"]) == mask).all()
    counts = [0, *rng.integers(1, 100_000, 50).tolist()]
    assert rle.decompress(rle.compress(counts)) == counts


class TestKinds:
    def test_unknown_and_missing(self, source):
        refused("nothing is there", source)
        (source / "cat").mkdir(parents=True)
        (source / "dog").mkdir()
        refused("holds no images; put them there, as horse/1.jpg and zebra/2.jpg", source)
        picture(source / "1.jpg")
        refused("of no form that is known; name one with --kind: folders, cyclegan", source)
        refused("no kind 'yolo' of data sets; use one of folders", source, "yolo")

    def test_ambiguous(self, source):
        for label in ("cat", "dog"):
            picture(source / label / f"{label}.jpg")
        write(source / "labels.csv", "cat.jpg,cat\ndog.jpg,dog\n")
        refused("may be folders or table; say which with --kind", source)

    def test_a_devkit_is_one_already(self, tiny_devkit):
        refused("is a devkit already; look at it with `wsseg data check", tiny_devkit)


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch, capsys):
        def call(*arguments):
            monkeypatch.setattr(sys, "argv", ["wsseg", "data", "import", *map(str, arguments)])
            with pytest.raises(SystemExit) as caught:
                main()
            return caught.value.code, capsys.readouterr().out.splitlines()

        return call

    @pytest.fixture(autouse=True)
    def images(self, source):
        for label in ("cat", "dog"):
            for number in range(5):
                picture(source / label / f"{label}{number}.jpg", seed=number)

    def test_says_what_it_understood_and_checks(self, run, source, out):
        code, lines = run(source, "--out", out, "--copy")
        assert code == 0
        assert lines[:3] == [f"{source}: folders, 10 images, 2 classes", "  cat: 5 images", "  dog: 5 images"]
        assert "splits, drawn at random, seed 0: train 8, val 2" in lines
        assert lines[-1] == f"{out}: no problems"
        assert not (out / "JPEGImages/cat0.jpg").is_symlink()

    def test_only_its_own_folder_is_written_anew(self, run, source, out):
        write(out / "thesis.txt", "mine")
        code, _lines = run(source, "--out", out)
        assert "is not empty, and nothing that was imported; choose another folder" in code
        (out / "thesis.txt").unlink()
        assert run(source, "--out", out)[0] == run(source, "--out", out, "--val-share", "0.4")[0] == 0
        assert len(VocDevkit(out).ids("val")) == 4
        write(out / "SegmentationClass/cat0.png", "drawn by hand")
        assert "cat0.png: was added or changed after the import" in run(source, "--out", out)[0]

    def test_an_unreadable_image_leaves_nothing(self, run, source, out):
        write(source / "cat/bad.jpg", "no image")
        code, _ = run(source, "--out", out)
        assert "bad.jpg: cannot be decoded (not an image); replace it" in code
        assert not out.exists()
        assert "use a number between 0 and 1" in run(source, "--out", out, "--val-share", "2")[0]
