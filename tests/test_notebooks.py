"""All notebooks, in order, through the same Snakefile that a user runs, in the smoke profile."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import pandas as pd
import pytest
from conftest import selectors, view
from matplotlib import pyplot as plt
from PIL import Image

from wsseg_core.base.dependencies import PACKAGE, read_cells
from wsseg_core.data.run import Run, open_run
from wsseg_core.evaluate.claims import CLAIMS
from wsseg_core.evaluate.verdicts import Outcome
from wsseg_core.workbook.explorers import affinity, factors, forward, refinement, saliency
from wsseg_core.workbook.widgets import HEADLESS

ROOT = PACKAGE.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
HEADLINES = {
    *("classifier_map", "simonyan_crf", "dcsm", "dcsm_crf", "dcsm_crf_tuned"),
    *("fcn_mil", "fcn_gbp_crf", "zof_gbp_crf", "cam_seed", "psa_seed", "psa_crf_seed", "net_psa_crf"),
    *("static_seed", "static_no_detector_seed", "net_static_crf", "net_supervised_crf", "dcsm_crf_known"),
    *("net_dynamic_crf", "net_dynamic_control_crf"),
    *("selftrain_first", "selftrain_last", "selftrain_best", "psa_equal_steps"),
}

HANGS = 3600  # seconds after which a command is taken to hang, on a slow machine too

pytestmark = pytest.mark.notebooks


def wsseg(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "wsseg_core.workbook.command_line", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    done = wsseg("run", "--profile", "smoke", "--results", str(folder), "--cores", "1")  # another test has the other
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder


def test_every_notebook_ran_to_its_end(results: Path) -> None:
    executed = sorted((results / "smoke" / "notebooks").glob("*.ipynb"))
    assert [path.name for path in executed] == [path.name for path in NOTEBOOKS]
    for path in executed:
        cells = [cell for cell in read_cells(path) if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells)


def test_every_table_comes_in_three_formats_and_every_figure_is_a_picture(results: Path) -> None:
    tables = {path.stem for path in (results / "smoke" / "tables").glob("*.csv")}
    assert {f"03_table{number}" for number in range(1, 6)} <= tables
    for name in tables:
        assert len(pd.read_csv(results / "smoke" / "tables" / f"{name}.csv")) > 0
        assert all((results / "smoke" / "tables" / f"{name}{suffix}").stat().st_size for suffix in (".md", ".tex"))
    figures = list((results / "smoke" / "figures").glob("*.png"))
    assert len({path.name[:2] for path in figures}) >= 5
    for path in figures:
        with Image.open(path) as image:
            low, high = image.convert("L").getextrema()
            assert low < high, f"{path.name} is blank"


def test_every_claim_is_listed_and_gets_no_verdict_from_meaningless_numbers(results: Path) -> None:
    verdicts = json.loads((results / "smoke" / "claims.json").read_text())
    assert {verdict["claim"]["id"] for verdict in verdicts} == {claim.id for claim in CLAIMS}
    assert {verdict["outcome"] for verdict in verdicts} <= {Outcome.NO_VERDICT, Outcome.NOT_MEASURED}
    tables = results / "smoke" / "tables"
    for path in (tables / "10_claims_seeds.csv", *tables.glob("*_verdicts.csv")):
        assert set(pd.read_csv(path)["verdict"]) <= {Outcome.NO_VERDICT, Outcome.NOT_MEASURED}


def test_headline_numbers_are_one_json_object_with_intervals(results: Path) -> None:
    done = wsseg("figures", "--profile", "smoke", "--results", str(results), "--json")
    figures = json.loads(done.stdout)
    assert {"profile", "seed", "split", "protocol", "wall_s"} | HEADLINES <= figures.keys()
    for key in HEADLINES:  # of so few images, a percentile interval need not hold the value
        assert 0 <= figures[key]["low"] <= figures[key]["high"] <= 100
        assert 0 <= figures[key]["value"] <= 100
    assert sorted(figures["wall_s"]) == [path.stem for path in NOTEBOOKS]


def test_the_report_has_a_page_for_every_notebook(results: Path) -> None:
    index = (results / "smoke" / "report" / "index.html").read_text()
    for path in NOTEBOOKS:
        assert f"{path.stem}.html" in index
        page = (results / "smoke" / "report" / f"{path.stem}.html").read_text()
        assert "WorkbookError" not in page
        assert "its numbers mean nothing" in page
        assert "<math" in page or "$" not in "".join(cell["source"] for cell in read_cells(path))


@pytest.mark.parametrize("solutions", SOLUTIONS, ids=lambda path: path.stem)
def test_the_solutions_run_on_what_the_notebooks_left(
    results: Path, solutions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, as twelve kernels would take longer to start than the solutions to run."""
    monkeypatch.chdir(ROOT)
    plt.switch_backend("Agg")
    names: dict[str, object] = {}
    for cell in read_cells(solutions):
        if cell["cell_type"] == "code":
            exec(compile(cell["source"], f"{solutions.name}, cell {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {"profile": "smoke", "results": str(results)}
    plt.close("all")


@pytest.mark.parametrize(
    "make",
    [
        *(saliency.saliency_explorer, saliency.subtraction_explorer, saliency.crf_explorer),
        *(forward.forward_explorer, affinity.walk_explorer),
        *(refinement.static_explorer, refinement.dynamic_explorer, factors.factor_explorer),
    ],
)
def test_every_explorer_answers_and_shows_the_truth_when_asked(
    results: Path, make: Callable[[Run], ipywidgets.VBox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(HEADLESS, raising=False)
    box = make(open_run("smoke", 0, str(results)))
    controls = selectors(box)
    truth = controls.pop("truth")
    truth.value = True
    assert "truth, for evaluation only" in view(box)
    assert ("mean IoU" in view(box)) == (make is not saliency.saliency_explorer)  # which draws no mask
    truth.value = False
    for name in controls.keys() - {"shows"}:
        controls[name].index = (controls[name].index + 1) % len(controls[name].options)
        assert "<figure" in view(box)


def test_a_second_run_has_nothing_to_do(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (results / "smoke").rglob("*") if path.is_file()}
    done = wsseg("run", "--profile", "smoke", "--results", str(results))
    assert done.returncode == 0
    assert "nothing to do" in done.stdout + done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (results / "smoke").rglob("*") if path.is_file()}
