"""A run for a class: packed, and unpacked in another copy of the workbook."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from wsseg_core.base.dependencies import PACKAGE
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import open_run
from wsseg_core.workbook import packing
from wsseg_core.workbook.packing import MANIFEST, pack, unpack

NOTEBOOK = '{"cells": [{"cell_type": "code", "metadata": {}, "source": ["import wsseg_core.crf.dense"]}]}'
LEFT = {
    "artifacts/crf/settings.json": "{}",
    "artifacts/crf/a.safetensors": 4 * "maps",
    "notebooks/04_crf.ipynb": NOTEBOOK,
    "tables/04.csv": "ours",
}


def workbook(folder: Path) -> Path:
    """A copy of a workbook with one notebook and the tracked reference of a run."""
    for name, text in {
        "Snakefile": "",
        "notebooks/04_crf.ipynb": NOTEBOOK,
        "results/smoke/reference/a.csv": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed run; the current folder is that of another copy of the workbook."""
    own, run = workbook(tmp_path / "own"), tmp_path / "own/results/smoke"
    passing = {"notebooks/05.failed.ipynb": "", "notebooks/.04.lock": "4711"}
    for name, text in (LEFT | passing).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    os.utime(run / "notebooks/04_crf.ipynb", (1e9, 1e9))
    (own / "data/toyvoc-smoke/JPEGImages").mkdir(parents=True)
    (own / "data/toyvoc-smoke/JPEGImages/a.jpg").write_text("scene")
    (own / "results/smoke-features").mkdir()
    (own / "results/smoke-features/256.npy").write_text("features")
    monkeypatch.chdir(own)
    with pytest.raises(WorkbookError, match="is a folder; give the file to write"):
        pack(open_run("smoke"), Path("."))
    assert pack(open_run("smoke"), tmp_path / "run.tar.gz") == len(LEFT) + 2
    monkeypatch.chdir(workbook(tmp_path / "other"))
    return tmp_path / "run.tar.gz"


def test_an_unpacked_run_lies_where_the_notebooks_look_for_it(packed: Path) -> None:
    folder = unpack(packed).folder
    assert folder == Path.cwd() / "results/smoke"
    found = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert found == LEFT | {"reference/a.csv": ""}
    assert (folder / "notebooks/04_crf.ipynb").stat().st_mtime == 1e9  # by which the order of notebooks is judged
    assert Path("data/toyvoc-smoke/JPEGImages/a.jpg").read_text() == "scene"
    assert Path("results/smoke-features/256.npy").read_text() == "features"


def test_scenes_and_features_that_are_there_are_left_alone(packed: Path) -> None:
    shared = Path("data/toyvoc-smoke"), Path("results/smoke-features")
    for folder in shared:
        folder.mkdir(parents=True)
    unpack(packed)
    assert not any(list(folder.iterdir()) for folder in shared)


def test_photographs_stay_where_they_are(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.parent / "own")
    run = open_run("smoke")
    object.__setattr__(run.profile.data, "source", "voc")
    assert pack(run, packed) == len(LEFT) + 1  # the features, which show nobody


def test_a_run_that_is_there_is_not_overwritten(packed: Path) -> None:
    unpack(packed)
    with pytest.raises(WorkbookError, match="there is a run already; move it away or choose another folder: --results"):
        unpack(packed)
    assert unpack(packed, "elsewhere").folder == Path.cwd() / "elsewhere/smoke"


@pytest.mark.parametrize("left", ["figures/00.png", "notebooks/00_overview.ipynb"])
def test_a_run_that_has_only_begun_is_not_mixed_with_the_pack(packed: Path, left: str) -> None:
    begun = Path("results/smoke") / left
    begun.parent.mkdir(parents=True)
    begun.write_text("mine")
    with pytest.raises(WorkbookError, match="there is a run already"):
        unpack(packed)
    assert [path for path in Path("results/smoke").rglob("*") if path.is_file()].count(begun) == 1
    assert not Path("results/smoke/artifacts").exists()


def test_a_profile_of_ones_own_is_found_at_its_place(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("mine.toml")
    own.write_text((PACKAGE / "profiles/smoke.toml").read_text())
    shutil.copytree(packed.parent / "own/results/smoke", packed.parent / "own/results/mine")
    (packed.parent / "own/results/mine/profile.txt").write_text("/home/teacher/mine.toml")
    monkeypatch.chdir(packed.parent / "own")
    pack(open_run("../other/mine.toml"), packed)
    monkeypatch.chdir(packed.parent / "other")
    folder = unpack(packed, profile="mine.toml").folder
    assert (folder.name, (folder / "profile.txt").exists()) == ("mine", False)
    assert (folder / "tables/04.csv").is_file()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(packed: Path) -> None:
    Path("elsewhere").write_text("a file")
    with pytest.raises(WorkbookError, match="elsewhere/smoke: cannot be written"):
        unpack(packed, "elsewhere")


def test_an_unfinished_run_is_not_packed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.parent / "own")
    shutil.copy("notebooks/04_crf.ipynb", "notebooks/05_forward.ipynb")
    with pytest.raises(WorkbookError, match="05_forward not run yet; run: wsseg run --profile smoke"):
        pack(open_run("smoke"), packed)


def rewritten(path: Path, changed: str, content: bytes | None) -> None:
    """The same pack with other content of one file, or without it."""
    with tarfile.open(path) as archive:
        archive.extractall(path.parent / "inside", filter="data")
        names = archive.getnames()
    if content is not None:
        (path.parent / "inside" / changed).write_bytes(content)
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            if name != changed or content is not None:
                archive.add(path.parent / "inside" / name, name)


def refused(path: Path) -> str:
    with pytest.raises(WorkbookError) as caught:
        unpack(path)
    assert "\n" not in str(caught.value)
    assert not (Path.cwd() / "results/smoke/artifacts").exists()
    assert not list((Path.cwd() / "results/smoke").glob(".*"))
    return str(caught.value)


@pytest.mark.parametrize("content", [b"other", None])
def test_a_file_that_is_not_what_was_packed_is_named(packed: Path, content: bytes | None) -> None:
    rewritten(packed, "run/tables/04.csv", content)
    assert refused(packed) == f"{packed}: run/tables/04.csv in it is missing or damaged; fetch the file again"


@pytest.mark.parametrize("kept", [0, 0.05, 0.7])
def test_a_file_that_was_cut_short_is_told_in_one_line(packed: Path, kept: float) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[: int(kept * len(content))])
    assert "fetch it again" in refused(packed)


def test_a_file_that_is_no_pack_is_told_in_one_line(packed: Path) -> None:
    packed.write_text("hello")
    assert refused(packed).endswith("missing, damaged, or not made by `wsseg pack`; fetch it again")
    rewritten_as = packed.with_name("other.tar.gz")
    with tarfile.open(rewritten_as, "w:gz") as archive:
        archive.add(PACKAGE / "__init__.py", "first.py")
    assert "not made by `wsseg pack`" in refused(rewritten_as)
    assert "missing" in refused(packed.with_name("nowhere.tar.gz"))
    for manifest in ("{}", "[1]", '{"profile": "smoke", "seed": 0}'):
        packed.with_name(MANIFEST).write_text(manifest)
        with tarfile.open(rewritten_as, "w:gz") as archive:
            archive.add(packed.with_name(MANIFEST), MANIFEST)
        assert "not made by `wsseg pack`" in refused(rewritten_as)


def test_another_version_of_the_code_is_told_with_the_one_to_take(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "code_fingerprint", lambda names: "another")
    assert "made with another version of the code; take " in refused(packed)


def test_other_values_of_the_profile_are_named(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run("smoke")
    object.__setattr__(run.profile.crf, "iterations", 7)
    monkeypatch.setattr(packing, "open_run", lambda *_: run)
    assert "made with other values of crf in the profile smoke" in refused(packed)


def test_only_code_that_makes_artifacts_counts(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(packing, "code_fingerprint", lambda names: asked.append(sorted(names)) or "same")
    notebook = NOTEBOOK.replace("import ", "import wsseg_core.workbook.plots, ")
    Path("notebooks/04_crf.ipynb").write_text(notebook)
    packing._maker(open_run("smoke"))
    assert "wsseg_core.crf.dense" in asked[0]
    assert not [name for name in asked[0] if name.startswith(("wsseg_core.workbook", "wsseg_core.evaluate"))]
    assert MANIFEST not in {file.name for file in Path().rglob("*")}
