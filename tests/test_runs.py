from dataclasses import replace
from pathlib import Path

import pytest

from wsseg_core.base.config import DataConfig, Profile, SweepConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run, open_run, project_root, repetitions


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path) -> Run:
    data = DataConfig(devkit=str(tiny_devkit), train_split="train")
    return Run(Profile(data=data), 0, tmp_path / "results" / "voc")


def with_data(run: Run, **values: int | str | tuple[str, ...]) -> Run:
    return replace(run, profile=replace(run.profile, data=replace(run.profile.data, **values)))


@pytest.mark.parametrize("name", ["smoke", "toy", "voc"])
def test_a_run_lies_in_the_folder_of_its_profile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(name)
    assert (run.profile.name, run.seed) == (name, 0)
    assert run.folder == tmp_path / "results" / name
    assert run.artifacts("saliency") == run.folder / "artifacts" / "saliency"
    assert (run.tables, run.figures) == (run.folder / "tables", run.folder / "figures")


def test_other_seeds_and_result_folders_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert open_run("toy", seed=3).folder == tmp_path / "results" / "toy-seed3"
    assert open_run("toy", results=str(tmp_path / "elsewhere")).folder == tmp_path / "elsewhere" / "toy"


def test_repetitions_are_those_that_have_a_folder(tmp_path: Path) -> None:
    for name in ("smoke-seed10", "smoke", "smoke-seed2", "smoke-seed0", "smoke-seed", "smoke-other", "smoke-seed2-old"):
        (tmp_path / name).mkdir()
    found = repetitions("smoke", str(tmp_path))
    assert [(run.seed, run.folder.name) for run in found] == [(0, "smoke"), (2, "smoke-seed2"), (10, "smoke-seed10")]
    assert repetitions("toy", str(tmp_path)) == []
    assert repetitions("smoke", str(tmp_path / "nowhere")) == []


def test_a_negative_seed_is_refused():
    with pytest.raises(WorkbookError, match="seed -1"):
        open_run("toy", seed=-1)


def test_the_workbook_is_found_from_a_folder_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert project_root() == tmp_path / "notebooks"
    (tmp_path / "Snakefile").write_text("")
    assert project_root() == tmp_path


def test_ids_are_those_of_the_splits(run: Run):
    assert run.train_ids == [f"2007_00000{n}" for n in range(1, 7)]
    assert run.val_ids == [f"2008_00000{n}" for n in range(1, 4)]
    assert run.devkit.classes == ("cat", "dog", "sheep")


def test_ids_are_limited_from_the_front(run: Run):
    assert with_data(run, max_val_images=2).val_ids == ["2008_000001", "2008_000002"]
    assert with_data(run, max_train_images=1).train_ids == ["2007_000001"]
    assert with_data(run, max_val_images=99).val_ids == run.val_ids


def test_chosen_classes_reach_the_devkit_and_the_settings(run: Run):
    chosen = with_data(run, classes=("sheep", "cat"))
    assert chosen.devkit.classes == ("sheep", "cat")
    assert chosen.train_ids == run.train_ids
    assert chosen.settings("saliency") != run.settings("saliency")
    assert chosen.settings("saliency") != with_data(run, classes=("cat", "sheep")).settings("saliency")


def test_images_without_a_label_may_be_dropped_from_training_alone(run: Run):
    chosen = with_data(run, classes=("cat",), drop_unlabelled=True)
    assert chosen.train_ids == ["2007_000001", "2007_000004"]
    assert with_data(chosen, max_train_images=1).train_ids == ["2007_000001"]
    assert chosen.val_ids == run.val_ids


def test_no_image_left_is_told_in_one_line(run: Run):
    (run.devkit.root / "classes.txt").write_text("cat\ndog\nsheep\nbat\n")
    with pytest.raises(WorkbookError, match=r"train.txt: none of its 6 images shows any of bat; choose other data"):
        _ = with_data(run, classes=("bat",)).train_ids


def with_labels(run: Run, image_id: str, *names: str) -> None:
    objects = "".join(f"<object><name>{name}</name></object>" for name in names)
    path = run.devkit.root / "Annotations" / f"{image_id}.xml"
    path.write_text(f"<annotation><filename>{image_id}.jpg</filename>{objects}</annotation>")


@pytest.mark.parametrize(("count", "expected"), [(1, [2]), (2, [2, 3]), (3, [2, 3, 1]), (9, [2, 3, 1])])
def test_examples_show_several_classes_first_and_no_image_twice(run: Run, count: int, expected: list[int]):
    with_labels(run, "2008_000001", "cat", "cat")
    with_labels(run, "2008_000002", "cat", "dog")
    with_labels(run, "2008_000003", "dog", "sheep")
    run = replace(run, profile=replace(run.profile, sweeps=SweepConfig(example_images=count)))
    assert run.example_ids == [f"2008_00000{n}" for n in expected]


def test_examples_without_any_class_come_last(run: Run):
    with_labels(run, "2008_000001")
    with_labels(run, "2008_000002", "cat")
    with_labels(run, "2008_000003", "dog", "sheep")
    run = replace(run, profile=replace(run.profile, sweeps=SweepConfig(example_images=3)))
    assert run.example_ids == ["2008_000003", "2008_000002", "2008_000001"]
    # 2007_000002 shows no class that the two before do not show; the third does.
    assert run.train_example_ids == ["2007_000001", "2007_000004", "2007_000003"]


def test_examples_show_classes_that_those_before_do_not(run: Run):
    with_labels(run, "2008_000001", "cat", "dog")
    with_labels(run, "2008_000002", "dog", "cat")
    with_labels(run, "2008_000003", "dog", "sheep")
    run = replace(run, profile=replace(run.profile, sweeps=SweepConfig(example_images=3)))
    assert run.example_ids == ["2008_000001", "2008_000003", "2008_000002"]


def test_settings_name_the_data_the_seed_the_code_and_what_is_given(run: Run):
    settings = run.settings("saliency", sizes=(400, 500))
    assert settings.keys() == {"data", "seed", "code", "sizes"}
    assert settings["data"]["devkit"] == run.profile.data.devkit
    assert settings["seed"] == 0
    assert settings != run.settings("crf", sizes=(400, 500))
    assert settings != replace(run, seed=1).settings("saliency", sizes=(400, 500))
    assert settings != with_data(run, image_size=300).settings("saliency", sizes=(400, 500))


def test_the_factors_of_the_scenes_count_where_scenes_are_drawn(run: Run):
    assert "toyvoc" not in run.settings("saliency")["data"]
    assert with_data(run, source="toyvoc").settings("saliency")["data"]["toyvoc"]["noise"] == run.profile.toyvoc.noise


def test_a_missing_devkit_is_told_when_it_is_first_needed(run: Run, tmp_path: Path):
    broken = with_data(run, devkit=str(tmp_path / "nowhere"))
    with pytest.raises(WorkbookError, match="nowhere"):
        _ = broken.train_ids


def test_a_procedural_devkit_is_drawn_and_read_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = open_run("smoke")
    small = replace(run.profile.toyvoc, train_images=2, val_images=1, image_size=32)
    run = replace(run, profile=replace(run.profile, toyvoc=small))
    assert (len(run.train_ids), len(run.val_ids)) == (2, 1)
    assert run.devkit.root == tmp_path / "data" / "toyvoc-smoke"
    assert run.devkit.image(run.val_ids[0]).shape == (32, 32, 3)
