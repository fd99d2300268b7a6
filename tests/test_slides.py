"""Slides: marked cells of the notebooks, outputs of their executed copies."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from wsseg_core.base.dependencies import PACKAGE, read_cells
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import notebook_sources, open_run
from wsseg_core.workbook.slides import SHOWN, write_slides

NOTEBOOKS = notebook_sources(PACKAGE.parent)


def marked(kind: str, notes: str = "") -> dict[str, object]:
    return {"slideshow": {"slide_type": kind} | ({"notes": notes} if notes else {})}


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks, of which one has marks; its executed copy is from before they were made."""
    cells = [
        new_markdown_cell("# Title", id="a", metadata=marked("slide", "Ask *who* knows.")),
        new_markdown_cell("not for a slide", id="b"),
        new_code_cell("secret = 1", id="c", metadata=marked("fragment")),
        new_code_cell("new = 1", id="d", metadata=marked("slide")),
    ]
    for name, of_notebook in (("00_a", cells), ("01_b", cells[1:2])):
        path = tmp_path / f"notebooks/{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=of_notebook), path)
        executed = tmp_path / f"results/smoke/notebooks/{name}.ipynb"
        executed.parent.mkdir(parents=True, exist_ok=True)
        copies = [nbformat.from_dict(json.loads(json.dumps(cell)) | {"metadata": {}}) for cell in of_notebook[:3]]
        for copy in copies:
            if copy.cell_type == "code":
                copy.outputs = [new_output("stream", text="measured 42")]
        nbformat.write(new_notebook(cells=copies), executed)
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_slides_hold_marked_cells_their_outputs_and_notes(workbook: Path) -> None:
    (page,) = write_slides(open_run("smoke"), reveal="reveal.js")
    html = page.read_text()
    assert page == workbook / "results/smoke/slides/00_a.html"
    assert "Title" in html
    assert "measured 42" in html
    assert re.search(r'<aside class="notes">.*Ask <em>who</em> knows\..*</aside>', html, re.DOTALL)
    assert "not for a slide" not in html
    assert "secret" not in html
    assert "reveal.js/dist/reveal.js" in html
    assert "unpkg.com/reveal" not in html


def test_a_run_without_notebooks_is_told_in_one_line(workbook: Path) -> None:
    with pytest.raises(WorkbookError, match="nothing to show yet; run: wsseg run --profile smoke"):
        write_slides(open_run("smoke", results="elsewhere"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_slides_and_its_notes_belong_to_them(notebook: Path) -> None:
    marks = [cell["metadata"]["slideshow"] for cell in read_cells(notebook) if "slideshow" in cell["metadata"]]
    assert any(mark["slide_type"] == "slide" for mark in marks)
    assert all(mark["slide_type"] in SHOWN for mark in marks if "notes" in mark)
    assert any("notes" in mark for mark in marks)
