"""The page of results says what the tracked tables say."""

import shutil
from pathlib import Path

import pytest

from wsseg_core.base.dependencies import PACKAGE
from wsseg_core.base.errors import WorkbookError
from wsseg_core.workbook.results_page import PAGE, results_page, take_reference

ROOT = PACKAGE.parent
REMEDY = "docs/results.md is not what the reference tables say; run: wsseg docs"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for reference in ROOT.glob("results/*/reference"):
        shutil.copytree(reference, tmp_path / reference.relative_to(ROOT))
    return tmp_path


def test_the_page_is_what_the_command_writes() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == results_page(ROOT), REMEDY


def test_the_page_changes_with_a_number(copy: Path) -> None:
    before = results_page(copy)
    table = copy / "results/toy/reference/10_table4.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    cells = lines[1].split(",")
    column = lines[0].split(",").index("ours")
    cells[column] = str(float(cells[column]) + 1)
    table.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]), encoding="utf-8")
    assert before == results_page(ROOT)
    assert before != results_page(copy)


def test_every_number_of_a_row_is_there(copy: Path) -> None:
    for table in (copy / "results/toy/reference").glob("*.csv"):
        if table.stem != "10_table5":
            table.unlink()
    header = "row,label,published,ours,low,high"
    rows = ["bp,BP,41.2,10.548,10.01,11.09", "new,,,50.04,,", "gbp-alpha2,gbp-alpha2,,44.0,43.0,45.0"]
    (copy / "results/toy/reference/10_table5.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    page = results_page(copy)
    assert "| BP | 41.2 | 10.5 [10.0, 11.1] |" in page
    assert "| – | – | – |" in page
    assert "| guided BP, α = 2 | – | 44.0 [43.0, 45.0] |" in page


def test_claims_of_two_data_sets_stand_side_by_side(tmp_path: Path) -> None:
    header = "claim,verdict,against,difference,low,high"
    tables = {
        "one": ["CRF helps,holds,x,2,1,3", "walk helps,undecided,x,0,-1,1"],
        "two": ["CRF helps,does not hold,x,-2,-3,-1", "walk helps,holds,x,1,0.5,2", "of two alone,holds,x,1,0.5,2"],
    }
    for name, rows in tables.items():
        folder = tmp_path / "results" / name / "reference"
        folder.mkdir(parents=True)
        (folder / "10_claims.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
        (folder / "figures.json").write_text('{"split": "val", "seed": 0}', encoding="utf-8")
        if name == "one":
            assert "on every data set" not in results_page(tmp_path)
    page = results_page(tmp_path)
    assert "| claim | one | two |  |" in page
    assert "| CRF helps | **holds** 2.0 [1.0, 3.0] | **does not hold** -2.0 [-3.0, -1.0] | ≠ |" in page
    assert "| walk helps | **undecided** 0.0 [-1.0, 1.0] | **holds** 1.0 [0.5, 2.0] |  |" in page
    assert "| of two alone | – | **holds** 1.0 [0.5, 2.0] |  |" in page
    several = "claim,verdict,against,mean,low,high\nwalk helps,does not hold,x,-1,-2,-0.5"
    (tmp_path / "results/one/reference/10_claims_seeds.csv").write_text(several, encoding="utf-8")
    page = results_page(tmp_path)  # by all trainings, where several were judged
    assert "| walk helps | **does not hold** -1.0 [-2.0, -0.5] | **holds** 1.0 [0.5, 2.0] | ≠ |" in page
    assert "| CRF helps | **holds** 2.0 [1.0, 3.0] |" in page


def test_no_reference_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkbookError, match="no reference tables"):
        results_page(tmp_path)


def test_a_finished_run_becomes_the_reference(tmp_path: Path) -> None:
    run = tmp_path / "results" / "mine"
    (run / "tables").mkdir(parents=True)
    (run / "tables/10_table4.csv").write_text("a\n1\n")
    with pytest.raises(WorkbookError, match=r"figures\.json: not there; run `wsseg run` to its end first"):
        take_reference(run)
    for name in ("figures.json", "claims.json"):
        (run / name).write_text("{}")
    (run / "reference").mkdir()
    (run / "reference" / "old.csv").write_text("")
    assert sorted(path.name for path in take_reference(run).iterdir()) == [
        "10_table4.csv",
        "claims.json",
        "figures.json",
    ]


def test_a_reference_is_not_lost_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "mine"
    for name in ("tables/10_table4.csv", "figures.json", "claims.json", "reference/old.csv"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(WorkbookError, match=r"No space left .*reference is as it was"):
        take_reference(run)
    assert (run / "reference/old.csv").is_file()
