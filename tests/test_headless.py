import fcntl
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wsseg_core.base.dependencies import PACKAGE, read_cells
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import default_profile
from wsseg_core.workbook import headless
from wsseg_core.workbook.headless import LAST_STAGE, check_parameters, open_lab, run_notebook, run_seeds, run_workflow
from wsseg_core.workbook.progress import peak_bytes

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
    first, *others = capfd.readouterr().err.splitlines()  # others: what libzmq of a kernel that stops may say
    assert first == "01 The first step: started"
    assert not any("drawing" in line for line in others)  # a log has no bars


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
    workbook: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (workbook / f"notebooks/{name}.ipynb" for name in ("00_first", "01_second"))
    executed = workbook / "results/smoke/notebooks"
    write_notebook(second, PARAMETERS, "raise ValueError('not yet')")
    assert not run_workflow("smoke", 0, "results")
    out, err = capfd.readouterr()
    assert out.strip() == "to run: 00_first, 01_second, report"
    assert "[1/2] 00 The first step: done in" in err
    assert "[2/2] 01 The first step: started\n" in err
    assert (executed / "01_second.failed.ipynb").is_file()
    assert peak_bytes(executed / "00_first.ipynb") > 2**25  # of two processes that have Python in them
    index = (workbook / "results/smoke/report/index.html").read_text()  # before all of them have run
    assert '<a href="00_first.html">The first step</a>' in index
    assert "stopped by an error" in index

    write_notebook(second, PARAMETERS, "from wsseg_core.base.parallel import cpu_count\nassert cpu_count() == 1")
    saved = nbformat.read(first, as_version=4)
    saved.cells[1].update(execution_count=3, outputs=[nbformat.v4.new_output("stream", text="1")])
    nbformat.write(saved, first)
    assert run_workflow("smoke", 0, "results", cores=1)
    assert capfd.readouterr().out.strip() == "to run: 01_second, report"
    assert not (executed / "01_second.failed.ipynb").exists()
    assert (workbook / "results/smoke/report/index.html").is_file()

    for only, dry_run, said in (("", False, "nothing to do"), ("1", True, "to run: 01_second")):
        assert run_workflow("smoke", 0, "results", only=only, dry_run=dry_run)
        assert capfd.readouterr().out.strip() == said
    (executed / "01_second.ipynb").unlink()  # as it is left by a run that was stopped while it ran the notebook again
    assert run_workflow("smoke", 0, "results", dry_run=True)
    assert capfd.readouterr().out.strip() == "to run: 01_second, report"


def test_an_orphan_that_still_works_is_told_in_one_true_line(workbook: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of a run that was killed, the process that runs the notebook may go on; it keeps its lock."""
    executed = workbook / "results/smoke/notebooks"
    executed.mkdir(parents=True)
    (executed / "00_first.running.ipynb").touch()
    os.utime(executed / "00_first.running.ipynb", (2**31, 2**31))  # being written, also after the second start
    with (executed / ".00_first.lock").open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not run_workflow("smoke", 0, "results")
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("wsseg: ")
    assert last.endswith("already being run by process 4711; wait for it or stop it")


def test_a_notebook_that_was_killed_is_told_in_one_line(workbook: Path) -> None:
    """The lock went with its owner."""
    write_notebook(workbook / "notebooks/00_first.ipynb", PARAMETERS, "import os, signal\nos.kill(os.getppid(), 9)")
    with pytest.raises(WorkbookError, match=r"00_first\.running\.ipynb: stopped from outside; run again"):
        run_workflow("smoke", 0, "results")


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


def test_workflow_shows_why_snakemake_refuses(workbook: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workbook / "Snakefile").write_text("rule broken: 1\n")
    assert not run_workflow("smoke", 0, "results")
    assert "Snakefile" in capfd.readouterr().err


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


def test_lab_is_told_the_profile_once(workbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    monkeypatch.setenv("WSSEG_PROFILE", "voc")
    shutil.copy(PACKAGE / "profiles/smoke.toml", workbook / "notebooks/mine.toml")
    monkeypatch.chdir(workbook / "notebooks")
    open_lab("mine.toml", ["--no-browser"])
    assert started == [[sys.executable, "-m", "jupyterlab", "--no-browser"]]
    assert Path.cwd() == workbook
    assert default_profile() == str(workbook / "notebooks/mine.toml")
    assert os.environ["JUPYTER_CONFIG_PATH"] == f"{PACKAGE / 'workbook/lab'}{os.pathsep}/mine"
    with pytest.raises(WorkbookError, match="no profile 'tyo'"):
        open_lab("tyo")
