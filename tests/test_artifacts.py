import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically, write_json

NOTEBOOK = "02_saliency_extraction"
SETTINGS = {"alpha": 3.0, "layers": ("conv3_1", "conv3_2"), "data": {"image_size": 500, "seed": 0}}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.create(tmp_path / "maps", SETTINGS, NOTEBOOK)


def refuse(code: int):
    def replace(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return replace


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_arrays_come_back_with_type_and_shape(store: ArtifactStore):
    arrays = {
        "classes": np.array([2, 0]),
        "maps": np.arange(12, dtype=np.float16).reshape(2, 2, 3).transpose(0, 2, 1),  # not contiguous
        "empty": np.zeros((0, 4), np.float32),
    }
    store.save("2007_000001", **arrays)
    loaded = store.load("2007_000001")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_missing_lists_what_is_not_there_in_order(store: ArtifactStore):
    store.save("b", x=np.ones(3))
    assert store.missing(["c", "b", "a"]) == ["c", "a"]
    assert store.has("b")
    assert not store.has("a")


def test_masks_shrink_and_maps_do_not(store: ArtifactStore):
    mask = np.zeros((300, 400), np.uint8)
    mask[50:200, 100:300] = 7
    store.save("mask", mask=mask, shown=np.array([True, False]), classes=np.arange(2))
    store.save("map", classes=np.arange(2), maps=mask.astype(np.float16))
    assert store.path("mask").stat().st_size < mask.size / 50
    assert store.path("map").stat().st_size > 2 * mask.size
    assert store.has("mask")
    assert store.has("map")
    np.testing.assert_array_equal(store.load("mask")["mask"], mask)
    assert store.load("mask")["mask"].flags.writeable
    with gzip.open(store.path("mask")) as file:
        np.testing.assert_array_equal(load(file.read())["mask"], mask)


@given(cut=st.integers(1, 10_000), add=st.booleans(), kind=st.sampled_from([np.float32, np.uint8]))
def test_a_file_of_another_length_is_not_taken_for_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, add: bool, kind: type
):
    store = ArtifactStore.create(tmp_path_factory.mktemp("maps"), SETTINGS, NOTEBOOK)
    store.save("a", maps=np.ones((3, 5), kind), classes=np.arange(3))
    content = store.path("a").read_bytes()
    store.path("a").write_bytes(content + b"more" if add else content[: -(cut % len(content) or 1)])
    assert not store.has("a")
    with pytest.raises(WorkbookError, match=f"a.safetensors: missing or damaged; run notebook {NOTEBOOK}"):
        store.load("a")


def test_zeros_that_a_power_cut_left_are_not_taken_for_whole(store: ArtifactStore):
    store.path("a").write_bytes(bytes(300))
    assert not store.has("a")


def test_loading_an_absent_image_names_the_file_and_the_notebook(store: ArtifactStore):
    with pytest.raises(WorkbookError) as error:
        store.load("nobody")
    assert str(store.path("nobody")) in only_line(error)
    assert NOTEBOOK in str(error.value)


def test_a_store_of_the_same_settings_keeps_its_files(store: ArtifactStore):
    store.save("a", x=np.ones(2))
    again = ArtifactStore.create(store.folder, plain(SETTINGS), NOTEBOOK)
    assert again.has("a")
    assert ArtifactStore.open(store.folder, NOTEBOOK, SETTINGS).has("a")


def test_a_store_of_other_settings_is_emptied(store: ArtifactStore):
    store.save("a", x=np.ones(2))
    other = ArtifactStore.create(store.folder, SETTINGS | {"alpha": 4.0}, NOTEBOOK)
    assert not other.has("a")
    assert [path.name for path in store.folder.iterdir()] == ["settings.json"]


def test_a_store_whose_settings_were_lost_is_emptied(store: ArtifactStore):
    store.save("a", x=np.ones(2))
    (store.folder / "settings.json").write_text('{"made_by": "02_sal')
    assert not ArtifactStore.create(store.folder, SETTINGS, NOTEBOOK).has("a")


def test_opening_a_missing_store_names_the_notebook_that_makes_it(tmp_path: Path):
    with pytest.raises(WorkbookError) as error:
        ArtifactStore.open(tmp_path / "maps", NOTEBOOK)
    assert only_line(error) == f"{tmp_path / 'maps'}: missing; run notebook {NOTEBOOK} first"


def test_opening_under_other_settings_names_the_inner_key_and_both_values(store: ArtifactStore):
    wanted = {"data": {"image_size": 320, "seed": 0}}
    with pytest.raises(WorkbookError) as error:
        ArtifactStore.open(store.folder, NOTEBOOK, wanted)
    assert "made with data.image_size = 500, but this run uses 320" in only_line(error)


def test_only_the_settings_that_the_reader_names_are_compared(store: ArtifactStore):
    assert ArtifactStore.open(store.folder, NOTEBOOK, {"alpha": 3.0}).folder == store.folder
    with pytest.raises(WorkbookError, match="beta = None, but this run uses 1"):
        ArtifactStore.open(store.folder, NOTEBOOK, {"beta": 1})


def test_a_crash_while_writing_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "table.csv"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", refuse(errno.EIO))
    with pytest.raises(WorkbookError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_stops_the_write_is_told_in_one_line(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, code: int):
    monkeypatch.setattr(Path, "write_bytes", refuse(code))
    monkeypatch.setattr(Path, "unlink", refuse(code))  # a read-only file system refuses this too
    with pytest.raises(WorkbookError) as error:
        store.save("a", x=np.ones(2))
    assert str(store.path("a")) in only_line(error)
    assert os.strerror(code) in str(error.value)


def test_a_file_where_a_folder_should_be_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "results").write_text("")
    with pytest.raises(WorkbookError) as error:
        ArtifactStore.create(tmp_path / "results" / "maps", SETTINGS, NOTEBOOK)
    assert "results" in only_line(error)
    with pytest.raises(WorkbookError) as error:
        ArtifactStore.create(tmp_path / "results", SETTINGS, NOTEBOOK)
    assert "cannot be emptied" in only_line(error)


def test_plain_gives_what_json_gives_back():
    assert plain({"a": (1, (2.5, "x")), 3: None}) == {"a": [1, [2.5, "x"]], "3": None}


def test_write_json_makes_the_folders_above(tmp_path: Path):
    path = tmp_path / "a" / "b" / "claims.json"
    write_json(path, {"z": 1, "a": [1, 2]})
    assert json.loads(path.read_text()) == {"z": 1, "a": [1, 2]}
    assert path.read_text().index('"a"') < path.read_text().index('"z"')
