"""A profile for a devkit of one's own: it loads, fits small data, and overwrites nothing."""

from pathlib import Path

import pytest

from wsseg_core.affinity import cam
from wsseg_core.base.config import load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import train_classifier
from wsseg_core.data.run import Run, open_run
from wsseg_core.refine import static_stage
from wsseg_core.workbook import own_images
from wsseg_core.workbook.new_profile import write_profile


def test_it_loads_and_opens_the_devkit(tiny_devkit: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path / "mine.toml", tiny_devkit)
    profile = load_profile(str(path))
    assert (profile.name, profile.data.source, profile.data.devkit) == ("mine", "voc", str(tiny_devkit))
    assert profile.data.classes == ("cat", "dog", "sheep")
    assert profile.segmentation.supervised
    run = open_run(str(path))
    assert (len(run.train_ids), len(run.val_ids)) == (6, 3)
    batches = profile.classifier.batch_size, profile.cam.batch_size, profile.affinity.batch_size
    assert max(*batches, profile.segmentation.batch_size) <= 6
    assert profile.zoomout.train_images <= 6
    assert profile.dynamic.warmup_steps < profile.dynamic.steps


def test_another_split_to_score_and_no_masks(tiny_devkit: Path, tmp_path: Path) -> None:
    for mask in (tiny_devkit / "SegmentationClass").glob("2007_*"):
        mask.unlink()
    (tiny_devkit / "ImageSets/Segmentation/exam.txt").write_text("2008_000001\n")
    profile = load_profile(str(write_profile(tmp_path / "mine.toml", tiny_devkit, "exam")))
    assert (profile.data.val_split, profile.segmentation.supervised) == ("exam", False)


def test_some_of_the_classes(tiny_devkit: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path / "mine.toml", tiny_devkit, names=["sheep", "cat"])
    run = open_run(str(path))
    assert run.devkit.classes == ("sheep", "cat")
    shows = {i for i in run.devkit.ids("train") if run.devkit.labels(i).any()}
    assert set(run.train_ids) == shows < set(run.devkit.ids("train"))
    assert path.read_text().startswith(f"# A profile of your own data: {len(shows)} training images")
    with pytest.raises(WorkbookError, match="unknown class 'bird'"):
        write_profile(tmp_path / "other.toml", tiny_devkit, names=["bird"])


def test_steps_grow_with_the_images(tiny_devkit: Path, tmp_path: Path) -> None:
    profiles, train = [], tiny_devkit / "ImageSets/Segmentation/train.txt"
    six = train.read_text()
    for images in (6, 600, 2_400, 4_800):
        train.write_text(six * (images // 6))
        profiles.append(load_profile(str(write_profile(tmp_path / f"of{images}.toml", tiny_devkit))))
    for table, entry in (("classifier", "head_steps"), ("segmentation", "steps"), ("dynamic", "steps")):
        few, more, many, most = (getattr(getattr(profile, table), entry) for profile in profiles)
        assert few < more < many == most


def test_what_is_refused(tiny_devkit: Path, tmp_path: Path) -> None:
    path = write_profile(tmp_path / "mine.toml", tiny_devkit)
    before = path.read_text()
    with pytest.raises(WorkbookError, match=r"mine.toml: is there already"):
        write_profile(path, tiny_devkit)
    assert path.read_text() == before
    with pytest.raises(
        WorkbookError, match=r"nowhere: no such folder; `wsseg data import PATH --out \S+nowhere` makes"
    ):
        write_profile(tmp_path / "other.toml", tmp_path / "nowhere")
    for name in ("toy.toml", "mine.txt"):
        with pytest.raises(WorkbookError, match="no name for a profile of your own"):
            write_profile(tmp_path / name, tiny_devkit)
    with pytest.raises(WorkbookError, match="missing split file"):
        write_profile(tmp_path / "other.toml", tiny_devkit, "test")
    with pytest.raises(WorkbookError, match="no devkit here"):
        write_profile(tmp_path / "other.toml", tmp_path)
    assert not (tmp_path / "other.toml").exists()


def test_the_last_trained_stage_draws(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkbookError, match="01_training"):
        own_images.run_segmenter(run)
    train_classifier(run)
    made_by, segmenter = own_images.run_segmenter(run)
    image = run.devkit.image(run.val_ids[0])
    assert (made_by, segmenter.classes) == ("01_training", ("cat", "dog", "sheep"))
    assert segmenter.mask(image).shape == image.shape[:2]

    def trained(run: Run, name: str, made_by: str) -> object:
        if made_by != cam.NOTEBOOK:
            raise WorkbookError("not trained")
        return object()

    monkeypatch.setattr(own_images, "load_segmentation", trained)
    assert own_images.run_segmenter(run)[0] == cam.NOTEBOOK
    monkeypatch.setattr(own_images, "load_segmentation", lambda *_: object())
    assert own_images.run_segmenter(run)[0] == static_stage.NOTEBOOK
