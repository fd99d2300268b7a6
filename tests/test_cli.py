import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsseg_core.classify import classifier
from wsseg_core.data import download
from wsseg_core.data.run import open_run
from wsseg_core.workbook import headless, own_images, report
from wsseg_core.workbook.command_line import main

COMMANDS = ["run", "lab", "train", "segment", "tables", "figures", "new"]
COMMANDS += [f"data {name}" for name in ("toyvoc", "fetch", "check", "import")]


@pytest.fixture
def wsseg(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Call the command line; returns exit status, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsseg", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capfd.readouterr()
        code = caught.value.code
        if isinstance(code, str):  # what the interpreter does with a message
            return 1, output.out, f"{output.err}{code}\n"
        return code or 0, output.out, output.err

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace a function by one that notes its arguments."""

    def replace(module: Any, name: str, result: Any = None) -> list[tuple[tuple, dict]]:
        noted: list[tuple[tuple, dict]] = []

        def note(*arguments: Any, **options: Any) -> Any:
            noted.append((arguments, options))
            return result

        monkeypatch.setattr(module, name, note)
        return noted

    return replace


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(wsseg: Any, command: str) -> None:
    code, out, _ = wsseg(*command.split(), "--help")
    assert code == 0
    assert f"wsseg {command} " in out.split("Usage:")[1].split("\n", 1)[1]


def test_help_lists_the_commands_without_loading_torch() -> None:
    load = "from wsseg_core.workbook.command_line import main"
    script = f"import sys; {load}\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(f" {command.split()[0]} " in result.stdout for command in COMMANDS)
    assert "execute" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "tyo"], "no profile 'tyo'; use one of"),
        (["run", "--seeds", "0"], "--seeds 0: nothing to run; use 1 or more"),
        (["run", "--seeds", "2", "--seed", "0"], "leave out --seed and --only, or --seeds"),
        (["run", "--seeds", "2", "--only", "08"], "leave out --seed and --only, or --seeds"),
        (["figures", "--json", "--results", "nowhere"], "figures.json: no run is there"),
        (["tables", "--results", "nowhere"], "no tables yet; run: wsseg run --profile toy"),
        (["data", "fetch", "coco"], "no data set 'coco' to fetch"),
        (["segment", "a.jpg", "--weights", "none.ckpt", "--out", "o"], "none.ckpt"),
    ],
)
def test_problem_is_one_line_and_exit_status_1(
    wsseg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = wsseg(*arguments)
    assert code == 1
    assert err.startswith("wsseg: ")
    assert message in err
    assert err.count("\n") == 1


def test_run_hands_its_options_on_and_says_where_the_report_is(wsseg: Any, calls: Any, tmp_path: Path) -> None:
    noted = calls(headless, "run_workflow", True)
    code, out, _ = wsseg("run", "--profile", "smoke", "--seed", "3", "--results", str(tmp_path), "--cores", "1")
    assert code == 0
    assert noted == [(("smoke", 3, str(tmp_path), "", False, 1), {})]
    assert out.strip() == f"report: {tmp_path}/smoke-seed3/report/index.html"


def test_run_of_several_seeds_ends_with_the_report_of_the_first(wsseg: Any, calls: Any, tmp_path: Path) -> None:
    noted = calls(headless, "run_seeds", True)
    code, out, _ = wsseg("run", "--profile", "smoke", "--seeds", "3", "--results", str(tmp_path), "--cores", "1")
    assert code == 0
    assert noted == [(("smoke", 3, str(tmp_path), False, 1), {})]
    assert out.strip() == f"report: {tmp_path}/smoke/report/index.html"


def test_run_that_failed_has_exit_status_1(wsseg: Any, calls: Any) -> None:
    noted = calls(headless, "run_workflow", False)
    assert wsseg("run", "--only", "03", "--dry-run")[0] == 1
    assert noted == [(("toy", 0, "results", "03", True, None), {})]


def test_train_hands_on_the_devices(wsseg: Any, calls: Any) -> None:
    noted = calls(classifier, "train_classifier")
    assert wsseg("train", "--profile", "smoke", "--devices", "2")[0] == 0
    [((run, devices), _)] = noted
    assert (run.profile.name, devices) == ("smoke", 2)


def test_segment_names_the_classes_found(wsseg: Any, calls: Any) -> None:
    calls(own_images, "segment_files", {Path("a.jpg"): {"cat": 0.25, "dog": 0.011}, Path("b.jpg"): {}})
    calls(own_images, "checkpoint_segmenter", own_images.Segmenter(["cat", "dog"], lambda image: image))
    _, out, err = wsseg("segment", "a.jpg", "b.jpg", "--weights", "w", "--out", "o")
    assert out.splitlines() == ["a.jpg: cat 25 %, dog 1 %", "b.jpg: background only"]
    assert "classes that can be seen: cat, dog" in err
    _, out, _ = wsseg("segment", "a.jpg", "--weights", "w", "--out", "o", "--json")
    assert json.loads(out.splitlines()[0]) == {"file": "a.jpg", "classes": {"cat": 0.25, "dog": 0.011}}


def test_figures_as_one_json_object_with_times(wsseg: Any, tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "figures.json").write_text(json.dumps({"dcsm": {"value": 50.0, "low": 48.0, "high": 52.0}}))
    notebook = {"cells": [], "metadata": {"papermill": {"duration": 2.5}, "wsseg": {"peak_bytes": 2**30}}}
    (folder / "notebooks/00_a.ipynb").write_text(json.dumps(notebook))
    code, out, _ = wsseg("figures", "--profile", "smoke", "--results", str(tmp_path), "--json")
    assert code == 0
    assert out.count("\n") == 1
    costs = {"wall_s": {"00_a": 2.5}, "total_s": 2.5, "peak_gib": 1}
    assert json.loads(out) == {"dcsm": {"value": 50.0, "low": 48.0, "high": 52.0}} | costs
    _, lines, _ = wsseg("figures", "--profile", "smoke", "--results", str(tmp_path))
    assert "wall_s: {'00_a': 2.5}" in lines.splitlines()


def test_tables_are_printed_in_order(wsseg: Any, tmp_path: Path) -> None:
    folder = tmp_path / "smoke/tables"
    folder.mkdir(parents=True)
    for name in ("b", "a"):
        (folder / f"{name}.md").write_text(f"| {name} |\n")
    assert wsseg("tables", "--profile", "smoke", "--results", str(tmp_path))[1] == "| a |\n\n| b |\n\n"


def test_check_counts_the_problems(wsseg: Any, tiny_devkit: Path) -> None:
    code, out, _ = wsseg("data", "check", str(tiny_devkit))
    assert code == 0
    assert out.splitlines()[0] == "3 of 3 classes: cat, dog, sheep"
    assert out.splitlines()[-1] == f"{tiny_devkit}: no problems"
    (tiny_devkit / "JPEGImages/2008_000001.jpg").write_bytes(b"")
    code, out, _ = wsseg("data", "check", str(tiny_devkit))
    assert code == 1
    assert "2008_000001.jpg" in out.splitlines()[0]
    assert out.splitlines()[-1].startswith(f"{tiny_devkit}: ")


def test_check_sees_what_a_profile_sees(wsseg: Any, tiny_devkit: Path, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(f'[data]\ndevkit = "{tiny_devkit}"\nval_split = "train"\nclasses = ["sheep", "dog"]\n')
    code, out, _ = wsseg("data", "check", "--profile", str(profile))
    assert (code, out.splitlines()[0]) == (0, "2 of 3 classes: sheep, dog")
    profile.write_text(f'[data]\ndevkit = "{tiny_devkit}"\nclasses = ["sheeep"]\n')
    code, out, _ = wsseg("data", "check", "--profile", str(profile))
    assert (code, len(out.splitlines())) == (1, 2)
    assert out.startswith("data.classes of the profile: unknown class 'sheeep'; the nearest one in")


def test_fetch_takes_archives_from_a_folder(wsseg: Any, calls: Any) -> None:
    noted = calls(download, "fetch_voc", Path("data/VOCdevkit/VOC2012"))
    wsseg("data", "fetch", "voc", "--archives", "there", "--folder", "here")
    assert noted == [((Path("here"), Path("there")), {})]


def test_rules_of_the_workflow(wsseg: Any, calls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executed, exported = calls(headless, "run_notebook"), calls(report, "export_html")
    indexed = calls(report, "write_index")
    options = ["--profile", "smoke", "--seed", "1", "--results", str(tmp_path)]
    wsseg("execute", "in.ipynb", "out.ipynb", *options)
    wsseg("report", *options)
    run = open_run("smoke", 1, str(tmp_path))
    parameters = {"profile": "smoke", "seed": 1, "results": str(tmp_path)}
    assert executed == [((Path("in.ipynb"), Path("out.ipynb"), parameters), {})]
    assert indexed == [((run, [], "in"), {})]
    assert exported == [((run, []), {})] * 2  # with the page of the notebook, and at the end


def test_lab_hands_on_what_is_jupyterlabs(wsseg: Any, calls: Any) -> None:
    noted = calls(headless, "open_lab")
    assert wsseg("lab", "--profile", "smoke", "--no-browser", "--port", "1")[0] == 0
    assert noted == [(("smoke", ["--no-browser", "--port", "1"]), {})]
