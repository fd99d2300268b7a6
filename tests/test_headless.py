import fcntl
import os
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wsseg_core.base.dependencies import PACKAGE, read_cells
from wsseg_core.base.errors import WorkbookError
from wsseg_core.workbook import headless
from wsseg_core.workbook.headless import LAST_STAGE, check_parameters, run_notebook, run_seeds, run_workflow
from wsseg_core.workbook.report import export_html, readable_time, wall_seconds

PARAMETERS = 'profile = "toy"\nseed: int = 0\nresults = "results"'


def write_notebook(path: Path, *sources: str, tagged: int = 1) -> Path:
    """A notebook whose first code cells are tagged `parameters`."""
    cells = [new_code_cell(source) for source in sources]
    for cell in cells[:tagged]:
        cell.metadata["tags"] = ["parameters"]
    title = new_markdown_cell("# The *first* step\n\nWhat we [aim](x) at:\na mask.\n\nMore.")
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[title, *cells]), path)
    return path


@pytest.mark.parametrize(
    ("tagged", "names", "message"),
    [
        (0, ["seed"], "0 cells are tagged 'parameters'; tag one, and assign seed there"),
        (2, ["seed"], "2 cells are tagged 'parameters'"),
        (1, ["seed", "sed"], "unknown parameter 'sed'; the nearest known one is 'seed'"),
        (1, ["alpha_of_a_later_cell"], "unknown parameter 'alpha_of_a_later_cell'"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path: Path, tagged: int, names: list[str], message: str) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", PARAMETERS, "alpha_of_a_later_cell = 1", tagged=tagged)
    with pytest.raises(WorkbookError, match=re.escape(f"{notebook}: {message}")):
        check_parameters(notebook, names)


def test_parameters_that_fit(tmp_path: Path) -> None:
    check_parameters(write_notebook(tmp_path / "a.ipynb", PARAMETERS), ["profile", "seed", "results"])


def test_unknown_parameter_stops_before_a_kernel_starts(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", PARAMETERS)
    with pytest.raises(WorkbookError, match="'profil'"):
        run_notebook(notebook, tmp_path / "out" / "a.ipynb", {"profil": "toy"})
    assert not (tmp_path / "out").exists()


def test_failed_notebook_is_left_with_its_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = "from wsseg_core.base.errors import WorkbookError\nraise WorkbookError(f'{profile}: gone; draw it again')"
    progress = "from tqdm import tqdm\nfor _ in tqdm(range(3), desc='drawing'): pass"
    notebook = write_notebook(tmp_path / "01_a.ipynb", PARAMETERS, progress, error)
    output = tmp_path / "out" / "01_a.ipynb"
    with pytest.raises(WorkbookError) as caught:
        run_notebook(notebook, output, {"profile": "other"})
    failed = tmp_path / "out" / "01_a.failed.ipynb"
    assert "stopped in cell [4] by WorkbookError: other: gone; draw it again; open" in str(caught.value)
    assert str(failed) in str(caught.value)
    assert "\n" not in str(caught.value)
    last = read_cells(failed)[-1]
    assert last["outputs"][0]["evalue"] == "other: gone; draw it again"
    assert not output.exists()
    assert not list(output.parent.glob("*.running.ipynb"))
    assert "drawing: 100%" in capfd.readouterr().err


def test_killed_kernel_is_told_in_one_line(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", PARAMETERS, "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(WorkbookError, match=r"01_a\.ipynb: the kernel died"):
        run_notebook(notebook, tmp_path / "01_b.ipynb", {"seed": 1})
    assert (tmp_path / "01_b.failed.ipynb").is_file()


def test_notebook_is_not_run_twice_at_once(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", PARAMETERS)
    with (tmp_path / ".01_b.lock").open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WorkbookError, match="already being run by process 4711"):
            run_notebook(notebook, tmp_path / "01_b.ipynb", {})


def test_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", PARAMETERS)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbookError, match="cannot be written; make the folder writable"):
        run_notebook(notebook, tmp_path / "file" / "notebooks" / "01_a.ipynb", {})


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbook of two notebooks, with the rules of the real Snakefile."""
    rules = (PACKAGE.parent / "Snakefile").read_text()
    order = 'UPSTREAM = {"00_first": [], "01_second": ["00_first"]}'
    replaced, count = re.subn(r"UPSTREAM = \{.*?\n\}", order, rules, flags=re.DOTALL)
    assert count == 1
    (tmp_path / "Snakefile").write_text(replaced)
    for name in ("00_first", "01_second"):
        write_notebook(tmp_path / f"notebooks/{name}.ipynb", PARAMETERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    return tmp_path


def test_workflow_goes_on_from_a_failure_and_runs_nothing_twice(
    workbook: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second, executed = workbook / "notebooks/01_second.ipynb", workbook / "results/smoke/notebooks"
    write_notebook(second, PARAMETERS, "raise ValueError('not yet')")
    assert not run_workflow("smoke", 0, "results")
    assert capsys.readouterr().out.strip() == "to run: 00_first, 01_second, report"
    assert (executed / "01_second.failed.ipynb").is_file()

    write_notebook(second, PARAMETERS, "from wsseg_core.base.parallel import cpu_count\nassert cpu_count() == 1")
    (workbook / "notebooks/00_first.ipynb").touch()
    assert run_workflow("smoke", 0, "results", cores=1)
    assert capsys.readouterr().out.strip() == "to run: 01_second, report"
    assert not (executed / "01_second.failed.ipynb").exists()
    assert (workbook / "results/smoke/report/index.html").is_file()

    for only, said in (("", "nothing to do"), ("1", "to run: 01_second")):
        assert run_workflow("smoke", 0, "results", only=only, dry_run=True)
        assert capsys.readouterr().out.strip() == said


def test_a_relative_profile_is_that_of_the_folder_where_it_was_named(
    workbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a results folder may be named like a number."""
    for folder, width in ((workbook, 3), (workbook / "sub", 5)):
        folder.mkdir(exist_ok=True)
        (folder / "mine.toml").write_text(f"[classifier]\nwidth = {width}\n")
    show = (
        "from wsseg_core.base.config import load_profile\nprint(load_profile(profile).classifier.width, repr(results))"
    )
    write_notebook(workbook / "notebooks/00_first.ipynb", PARAMETERS, show)
    monkeypatch.chdir(workbook / "sub")
    assert run_workflow("mine.toml", 0, "2025", until="00_first")
    assert "5 '2025'" in (workbook / "2025/mine/notebooks/00_first.ipynb").read_text()


def test_results_of_another_profile_of_the_same_name_are_kept(workbook: Path) -> None:
    for folder in ("a", "b"):
        (workbook / folder).mkdir()
        (workbook / folder / "mine.toml").write_text("[classifier]\nwidth = 3\n")
    (workbook / "results/mine").mkdir(parents=True)
    (workbook / "results/mine/profile.txt").write_text(str(workbook / "a/mine.toml"))
    with pytest.raises(WorkbookError, match=r"results/mine: holds the results of the profile .*a/mine.toml, not of"):
        run_workflow("b/mine.toml", 0, "results", until="00_first")
    assert run_workflow("b/mine.toml", 0, "results", until="00_first", dry_run=True)
    assert (workbook / "results/mine/profile.txt").read_text() == str(workbook / "a/mine.toml")


def test_an_orphan_at_work_is_not_called_a_stopped_run(workbook: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another process holds the lock and goes on writing its copy, while this run ends with an error."""
    write_notebook(workbook / "notebooks/00_first.ipynb", PARAMETERS)
    executed = workbook / "results/smoke/notebooks"
    executed.mkdir(parents=True)
    copy = executed / "00_first.running.ipynb"
    copy.touch()
    later = time.time() + 1000  # as if it had been written since this run began
    os.utime(copy, (later, later))
    with (executed / ".00_first.lock").open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run_workflow("smoke", 0, "results", until="00_first") is False
    assert "already being run by process 4711; wait for it or stop it" in capfd.readouterr().err.splitlines()[-1]
    with pytest.raises(WorkbookError, match=r"00_first.running.ipynb: stopped from outside"):
        headless._snakemake(["--no-such-option"], workbook, workbook / "results/smoke")


def test_workflow_checks_every_notebook_before_the_first_starts(workbook: Path) -> None:
    write_notebook(workbook / "notebooks/01_second.ipynb", PARAMETERS, tagged=0)
    with pytest.raises(WorkbookError, match=r"01_second\.ipynb: 0 cells are tagged"):
        run_workflow("smoke", 0, "results")
    assert not (workbook / "results").exists()


def test_workflow_without_notebooks_or_with_an_unknown_one(workbook: Path) -> None:
    with pytest.raises(WorkbookError, match="no notebook '07'; use one of 00, 01"):
        run_workflow("smoke", 0, "results", only="07")
    shutil.rmtree(workbook / "notebooks")
    with pytest.raises(WorkbookError, match="no notebooks here"):
        run_workflow("smoke", 0, "results")


def test_workflow_shows_why_snakemake_refuses(workbook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workbook / "Snakefile").write_text("rule broken: 1\n")
    assert not run_workflow("smoke", 0, "results")
    assert "Snakefile" in capsys.readouterr().err


def test_a_workflow_may_end_with_a_notebook(workbook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_workflow("smoke", 1, "results", dry_run=True, until="00_first")
    assert capsys.readouterr().out.strip() == "to run: 00_first"


def test_the_last_stage_of_another_seed_renews_the_tables(workbook: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(
        workbook / "notebooks/01_second.ipynb", PARAMETERS, "from wsseg_core.evaluate.spread import read_seeds"
    )
    for output in ("notebooks/00_first.ipynb", "notebooks/01_second.ipynb", "report/index.html"):
        (workbook / "results/smoke" / output).parent.mkdir(parents=True, exist_ok=True)
        (workbook / "results/smoke" / output).touch()
    last = f"notebooks/{LAST_STAGE}.ipynb"
    for name in ("smoke", "smoke-old"):  # this run, and another profile
        write_notebook(workbook / "results" / name / last)
    assert run_workflow("smoke", 0, "results", dry_run=True)
    assert capsys.readouterr().out.strip() == "nothing to do"
    write_notebook(workbook / "results/smoke-seed1" / last)
    assert run_workflow("smoke", 0, "results", dry_run=True)
    assert capsys.readouterr().out.strip() == "to run: 01_second, report"


@pytest.mark.parametrize(("failing", "ran"), [(None, [1, 2, 0]), (1, [1]), (0, [1, 2, 0])])
def test_several_seeds_run_their_last_stages_and_the_first_seed_everything(
    monkeypatch: pytest.MonkeyPatch, failing: int | None, ran: list[int]
) -> None:
    calls = []

    def workflow(profile: str, seed: int, results: str, **options: object) -> bool:
        calls.append((profile, seed, results, options))
        return seed != failing

    monkeypatch.setattr(headless, "run_workflow", workflow)
    assert run_seeds("smoke", 3, "there", cores=2) is (failing is None)
    common = {"dry_run": False, "cores": 2}
    assert calls == [("smoke", seed, "there", common | ({"until": LAST_STAGE} if seed else {})) for seed in ran]


def test_index_names_times_tables_and_figures(tmp_path: Path) -> None:
    for number, seconds in (("00", 75.0), ("01", 12.4)):
        path = write_notebook(tmp_path / f"notebooks/{number}_step.ipynb", "x = 1")
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["papermill"] = {"duration": seconds}
        nbformat.write(notebook, path)
    write_notebook(tmp_path / "notebooks/02_step.failed.ipynb", "x = 1")
    for file in ("tables/alpha.csv", "figures/curve.png"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("")
    assert wall_seconds(tmp_path) == {"00_step": 75.0, "01_step": 12.4}
    page = export_html(tmp_path).read_text()
    for part in ("The first step", "What we aim at: a mask.", "1 min 15 s", "1 min 27 s", "00_step.html"):
        assert part in page
    assert 'href="../tables/alpha.csv"' in page
    assert 'src="../figures/curve.png"' in page
    assert "02_step" not in page
    assert (tmp_path / "report/01_step.html").is_file()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_readable_time(seconds: float, text: str) -> None:
    assert readable_time(seconds) == text
