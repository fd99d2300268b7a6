import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run, open_run
from wsseg_core.workbook import pages, report
from wsseg_core.workbook.report import export_html, reported, write_index

PROSE = """# The *first* step

What we [aim](02_c.ipynb#then) at, $x_i < 1$:
a mask.

## How far $\\alpha$ reaches

$$\\hat{M} = \\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}$$

### In detail
"""


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Three notebooks of a workbook."""
    return [write_notebook(tmp_path / f"notebooks/{name}.ipynb") for name in ("00_a", "01_b", "02_c")]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a profile whose numbers count."""
    return open_run("toy", 0, str(tmp_path / "results"))


def write_notebook(path: Path, *outputs: nbformat.NotebookNode, seconds: float = 0.0) -> Path:
    notebook = new_notebook(cells=[new_markdown_cell(PROSE), new_code_cell("x = 1", outputs=list(outputs))])
    notebook.metadata["papermill"] = {"duration": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def stream(name: str, text: str) -> nbformat.NotebookNode:
    return new_output("stream", name=name, text=text)


def executed(run: Run, name: str, *outputs: nbformat.NotebookNode, seconds: float = 0.0) -> Path:
    return write_notebook(run.folder / f"notebooks/{name}.ipynb", *outputs, seconds=seconds)


def page(run: Run, name: str) -> str:
    return (run.folder / "report" / f"{name}.html").read_text()


def test_index_names_times_tables_and_figures(run: Run, sources: list[Path]) -> None:
    executed(run, "00_a", seconds=75.0)
    executed(run, "01_b", seconds=12.4)
    executed(run, "02_c.failed")
    for file in ("tables/alpha.csv", "figures/curve.png"):
        (run.folder / file).parent.mkdir()
        (run.folder / file).write_text("")
    index = export_html(run, sources).read_text()
    for part in ("The first step", "What we aim at, x_i &lt; 1: a mask.", "1 min 15 s", "1 min 27 s", "00_a.html"):
        assert part in index
    assert "2 of 3 notebooks" in index
    assert "stopped by an error" in index
    assert 'href="../tables/alpha.csv"' in index
    assert 'src="../figures/curve.png"' in index


def test_the_report_grows(run: Run, sources: list[Path]) -> None:
    write_index(run, sources, "00_a")
    index = page(run, "index")
    assert "0 of 3 notebooks" in index
    assert re.search(r"under way since \d\d:\d\d", index)
    assert index.count("has not run yet") == 2
    assert 'http-equiv="refresh"' in index
    executed(run, "00_a")
    export_html(run, sources)
    assert "1 of 3 notebooks" in page(run, "index")
    assert "http-equiv" not in page(run, "index")
    assert "has not run yet" in page(run, "01_b")  # no link is dead
    write_notebook(run.folder / "notebooks/01_b.failed.ipynb")
    export_html(run, sources)
    assert "stopped by an error" in page(run, "01_b")


def test_pages_link_to_index_neighbours_and_their_own_headings(run: Run, sources: list[Path]) -> None:
    for name in ("00_a", "01_b", "02_c"):
        executed(run, name)
    export_html(run, sources)
    links = re.findall(r'href="([^"]+)"', page(run, "01_b"))
    assert {"index.html", "00_a.html", "02_c.html", "02_c.html#then"} <= set(links)
    assert 'href="01_b.html"' not in page(run, "01_b")
    own = [link[1:] for link in links if link.startswith("#")]
    assert len(set(own)) == 3  # the contents name two, and each heading links to itself
    assert all(f'id="{name}"' in page(run, "01_b") for name in own)


def test_a_page_needs_nothing_from_elsewhere(run: Run, sources: list[Path]) -> None:
    executed(run, "00_a", stream("stdout", "1\n"))
    export_html(run, sources)
    for name in ("index", "00_a", "01_b"):
        assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(|<script""", page(run, name))


def test_formulas_are_drawn_by_the_browser(run: Run, sources: list[Path]) -> None:
    executed(run, "00_a")
    export_html(run, sources)
    text = page(run, "00_a")
    assert "$" not in text
    assert text.count('<math display="block" xmlns') + text.count('display="block"') >= 1
    assert "<mtable>" in text
    assert re.search(r"<msub>\s*<mi>x</mi>\s*<mi>i</mi>\s*</msub>", text)


@pytest.mark.parametrize("slip", ["a_", "x^", r"\left( a", "a_b_c"])
def test_a_slip_in_a_formula_is_shown_as_it_was_written(slip: str) -> None:
    assert pages._mathml(slip) == f"<code>{slip}</code>"
    assert pages._mathml("a_b").startswith("<math")


def test_code_is_folded_and_empty_outputs_are_left_out(run: Run, sources: list[Path]) -> None:
    bars = "\rdrawing:  50%|#####     | 5/10 [00:01<00:01,  4.00it/s]\rdrawing: 100%|##########| 10/10 [00:02<00:00]\n"
    executed(run, "00_a", stream("stderr", bars), stream("stdout", "\n"))
    executed(run, "01_b", stream("stderr", bars + "a warning\n"), stream("stdout", "5 masks"))
    export_html(run, sources)
    assert re.search(r'<details class="code"><summary>code</summary>.*?</details>', page(run, "00_a"), re.DOTALL)
    assert "output_std" not in page(run, "00_a").partition("<main>")[2]
    assert "drawing" not in page(run, "01_b")
    assert "a warning" in page(run, "01_b")
    assert "5 masks" in page(run, "01_b")


def test_a_page_is_made_again_only_when_its_notebook_was(run: Run, sources: list[Path]) -> None:
    first = executed(run, "00_a", stream("stdout", "old"))
    executed(run, "01_b")
    export_html(run, sources)
    before = {path: path.stat().st_mtime_ns for path in (run.folder / "report").glob("0*.html")}
    os.utime(executed(run, "00_a", stream("stdout", "new")), ns=(0, first.stat().st_mtime_ns + 10**9))
    export_html(run, sources)
    changed = [path.stem for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert changed == ["00_a"]
    assert "new" in page(run, "00_a")


def test_the_index_opens_with_what_the_run_is_and_what_came_out(run: Run, sources: list[Path]) -> None:
    figures = {
        "classifier_map": {"value": 0.9861, "low": 0.97, "high": 0.99},
        "net_psa_crf": {"value": 48.728, "low": 47.1, "high": 50.4},
        "psa_seed": {"value": 46.3, "low": 45.9, "high": 46.7, "split": "train", "protocol": "seed"},
        "fcn_mil": {"value": None, "low": None, "high": None},
        "split": "val",
        "protocol": "test",
        "machine": {"model": "Abacus", "cores": 2, "bfloat16": False},
    }
    outcomes = ["holds", "holds", "undecided", "not measured"]
    run.figures.mkdir(parents=True)
    (run.folder.parent / "toy-seed2").mkdir()
    for name in ("00_given", "02_figure3_layers", "01_loss"):
        (run.figures / f"{name}.png").write_text("")
    (run.folder / "figures.json").write_text(json.dumps(figures))
    (run.folder / "claims.json").write_text(json.dumps([{"outcome": outcome} for outcome in outcomes]))
    top = write_index(run, sources).read_text().partition("<h2>Notebooks")[0]
    assert "Abacus, 2 cores, without bfloat16" in top
    assert "data/toyvoc (drawn scenes)" in top
    assert "0; also there: 2" in top
    assert 'src="../figures/02_figure3_layers.png"' in top
    assert "2 holds, 0 does not hold, 1 undecided" in top
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in top.split("<tr>")]
    assert ["network on PSA seeds, CRF", "48.7", "47.1 … 50.4", "val", "test"] in cells
    assert ["PSA seeds", "46.3", "45.9 … 46.7", "train", "seed"] in cells
    assert any(row[1:] == ["0.986", "0.970 … 0.990", "val", ""] for row in cells)
    assert "FCN-MIL" not in top


def test_pages_of_meaningless_numbers_say_so(tmp_path: Path, sources: list[Path]) -> None:
    band = "a test of the machinery; its numbers mean nothing"
    for profile, count in (("smoke", 1), ("toy", 0)):
        run = open_run(profile, 0, str(tmp_path / "results"))
        executed(run, "00_a")
        (run.folder / "claims.json").write_text(json.dumps([{"outcome": "holds"}]))
        export_html(run, sources)
        assert [page(run, name).count(band) for name in ("index", "00_a", "01_b")] == [count] * 3
        assert ("1 holds" in page(run, "index")) is (profile == "toy")


def test_a_damaged_copy_does_not_keep_the_index_from_being_written(run: Run, sources: list[Path]) -> None:
    executed(run, "00_a").write_text("")
    assert "The first step" in write_index(run, sources, "01_b").read_text()


def test_a_page_that_cannot_be_made_costs_no_notebook(
    run: Run, sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()

    def broken(*_: object) -> None:
        raise KeyError("mimetype")

    monkeypatch.setattr(report, "export_html", broken)
    with reported(run, "00_a"):
        assert "under way" in page(run, "index")
    assert capsys.readouterr().err == "00_a: no page in the report yet ('mimetype')\n"
    with pytest.raises(WorkbookError, match="the notebook's own"), reported(run, "00_a"):
        raise WorkbookError("the notebook's own")
