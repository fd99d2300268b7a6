import math
import typing
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from wsseg_core.base.config import ClassifierConfig, Profile, available_profiles, load_profile
from wsseg_core.base.errors import WorkbookError


@pytest.fixture
def write(tmp_path: Path):
    def profile(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return profile


@pytest.mark.parametrize("name", ["animals", "demo", "smoke", "study", "toy", "voc"])
def test_shipped_profiles_load_under_their_own_name(name: str):
    assert name in available_profiles()
    assert load_profile(name).name == name


def test_what_a_profile_leaves_out_is_the_published_setting():
    assert load_profile("voc") == Profile()


def test_values_of_a_file_replace_the_defaults(write):
    profile = load_profile(write("[classifier]\nwidth = 16\nlearning_rate = 1\nresize_range = [0.5, 2]\n"))
    expected = Profile(name="mine", classifier=ClassifierConfig(width=16, learning_rate=1.0, resize_range=(0.5, 2.0)))
    assert profile == expected
    assert isinstance(profile.classifier.learning_rate, float)
    assert all(isinstance(ratio, float) for ratio in profile.classifier.resize_range)


def test_a_profile_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        load_profile("toy").classifier.width = 32  # type: ignore[misc]


def numbers() -> list:
    """Every field of a profile that holds numbers: table, field."""
    found = []
    for table in fields(Profile):
        for entry in fields(table.type) if is_dataclass(table.type) else ():
            kinds = {entry.type, *typing.get_args(entry.type)}
            if kinds & {int, float}:
                found.append(pytest.param(table.name, entry, id=f"{table.name}.{entry.name}"))
    return found


def text_of(entry, number: float) -> str:
    listed = typing.get_origin(entry.type) is tuple
    count = max(1, len(entry.default)) if listed else 1
    value = int(number) if int in (entry.type, *typing.get_args(entry.type)) else float(number)
    return f"[{', '.join([str(value)] * count)}]" if listed else str(value)


@pytest.mark.parametrize(("table", "entry"), numbers())
def test_every_number_has_a_range_that_its_default_is_in(write, table: str, entry):
    low, high = entry.metadata["range"]
    default = entry.default if isinstance(entry.default, tuple) else (entry.default,)
    assert all(low <= value <= high for value in default)
    for wrong in (low - 1, *([high + 1] if high < math.inf else [])):
        path = write(f"[{table}]\n{entry.name} = {text_of(entry, wrong)}")
        with pytest.raises(WorkbookError, match=rf"mine\.toml: {table}\.{entry.name} = .*: use ") as error:
            load_profile(path)
        assert "\n" not in str(error.value)


def test_a_profile_saved_with_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf[classifier]\nwidth = 16\n")
    assert load_profile(str(path)).classifier.width == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[classifier]\nlerning_rate = 1.0", "unknown key 'classifier.lerning_rate'; the nearest known one is 'learni"),
        ("[clasifier]\nwidth = 2", "unknown key 'clasifier'; the nearest known one is 'classifier'"),
        ("zzz = 1", "unknown key 'zzz'; the nearest known one is "),
        ("[classifier]\nwidth = 16.0", "'classifier.width' must be of type int, not 16.0"),
        ("[classifier]\nwidth = true", "'classifier.width' must be of type int, not True"),
        ("[classifier]\nbatch_norm = 1", "'classifier.batch_norm' must be of type bool, not 1"),
        ("[data]\ndevkit = 3", "'data.devkit' must be of type str, not 3"),
        ("[saliency]\nsizes = 400", r"'saliency.sizes' must be a list like \[int, ...\], not 400"),
        ("[saliency]\nsizes = [400, 'x']", "'saliency.sizes' must be of type int, not 'x'"),
        ("[classifier]\nresize_range = [1.0]", r"'classifier.resize_range' must be a list like \[float, float\]"),
        ("classifier = 3", "'classifier' must be a table of values, not 3"),
        ("[toyvoc]\nnoise = -1", "toyvoc.noise = -1.0: use a number in 0..100"),
        ("[data]\nmax_train_images = -1", "data.max_train_images = -1: use 0 or more"),
        ("[classifier]\nlearning_rate = nan", "classifier.learning_rate = nan: use a number in 0..10"),
        ("[classifier]\nlearning_rate = inf", "classifier.learning_rate = inf: use a number in 0..10"),
        ("[saliency]\nsizes = [400, 16]", r"saliency.sizes = \(400, 16\): use a number in 32..8192"),
        ("[saliency]\nsizes = []", "saliency.sizes is empty: give at least one value"),
        ("[cam]\nresize_range = [1.4, 0.7]", "cam.resize_range = .*: use the smallest, then the largest value"),
        ("[toyvoc]\nobject_counts = [0.5, 0.4]", "toyvoc.object_counts = .*: use one to three probabilities that add"),
        ("[toyvoc]\nobject_size = [1.2, 0.8]", "toyvoc.object_size = .*: use the smallest, then the largest"),
        ("[dynamic]\nsteps = 4\nwarmup_steps = 4", "dynamic.warmup_steps = 4: use 0 or more, fewer than dynamic.steps"),
        ("[classifier\nwidth = 2", "not a TOML file"),
        ("[data]\nsource = 'toyVoc'", "data.source 'toyVoc' is unknown; use voc or toyvoc"),
        (f"[toyvoc]\nnoise = 1{'0' * 400}", "'toyvoc.noise' must be of type float"),
        (f"[toyvoc]\nseed = 1{'0' * 5000}", "not a TOML file"),
    ],
)
def test_a_wrong_profile_is_told_in_one_line_that_names_the_file(write, text: str, message: str):
    path = write(text)
    with pytest.raises(WorkbookError, match=message) as error:
        load_profile(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_told_in_one_line(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_bytes("name = 'é'".encode("latin-1"))
    with pytest.raises(WorkbookError, match=r"mine\.toml: not a TOML file"):
        load_profile(str(path))


@pytest.mark.parametrize("name", ["tiny", "nowhere/mine.toml", ""])
def test_an_unknown_profile_names_those_there_are(name: str):
    with pytest.raises(WorkbookError, match=r"no profile .*smoke, study, toy, voc"):
        load_profile(name)
