"""Exercises and quiz: what the notebooks show is what the solutions say."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wsseg_core.base.dependencies import PACKAGE, read_cells
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import notebook_sources
from wsseg_core.workbook.exercises import EXERCISE, PLACE, QUIZ, SOLUTION, exercised, solutions_of, write_exercises

NOTEBOOKS = notebook_sources(PACKAGE.parent)
TIME_AND_DIFFICULTY = re.compile(r"### Exercise \d: \S.*\n\n\*\d+ minutes, (easy|medium|hard)\.\* ")


def tagged(path: Path, tag: str) -> list[dict[str, Any]]:
    return [cell for cell in read_cells(path) if tag in cell["metadata"].get("tags", [])]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_ends_with_what_its_solutions_say(self, notebook: Path) -> None:
        assert notebook.read_text() == exercised(notebook), "run: bin/wsseg exercises"

    def test_has_three_exercises_with_time_and_difficulty(self, notebook: Path) -> None:
        cells = [cell for cell in tagged(solutions_of(notebook), EXERCISE) if cell["cell_type"] == "markdown"]
        assert len(cells) >= 3
        assert all(TIME_AND_DIFFICULTY.match(cell["source"]) for cell in cells)

    def test_every_exercise_has_a_solution_that_runs_and_an_answer_in_words(self, notebook: Path) -> None:
        cells = read_cells(solutions_of(notebook))
        starts = [place for place, cell in enumerate(cells) if EXERCISE in cell["metadata"].get("tags", [])]
        ends = [
            *starts[1:],
            next(place for place, cell in enumerate(cells) if QUIZ in cell["metadata"].get("tags", [])),
        ]
        for start, end in zip(starts, ends, strict=True):
            answer = cells[start + 1 : end]
            assert all(SOLUTION in cell["metadata"]["tags"] for cell in answer)
            assert {cell["cell_type"] for cell in answer} == {"code", "markdown"}

    def test_answers_of_the_quiz_are_folded(self, notebook: Path) -> None:
        questions = tagged(notebook, QUIZ)[1:]
        assert len(questions) == 2
        folded = re.compile(r"\*\*\d\.\*\* .+\n\n<details><summary>Answer</summary>\n\n.+\n\n</details>", re.DOTALL)
        assert all(folded.fullmatch(cell["source"]) for cell in questions)

    def test_no_exercise_edits_the_package(self, notebook: Path) -> None:
        asked = "\n".join(
            cell["source"] for cell in read_cells(notebook) if EXERCISE in cell["metadata"].get("tags", [])
        )
        assert not re.search(r"(change|edit|replace) `?_?\w+`? in `?wsseg_core|wsseg_core/", asked)


def test_the_teachers_guide_says_how_long_the_exercises_take() -> None:
    guide = (PACKAGE.parent / "teaching/README.md").read_text()
    said = {
        number: int(minutes)
        for number, minutes in re.findall(r"^\| (\d\d) .*? \| \d+ \| (\d+) \|", guide, re.MULTILINE)
    }
    asked = {path.stem[:2]: "\n".join(cell["source"] for cell in tagged(path, EXERCISE)) for path in NOTEBOOKS}
    assert said == {
        number: sum(map(int, re.findall(r"^\*(\d+) minutes", text, re.MULTILINE))) for number, text in asked.items()
    }


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    """A notebook with one own cell, and its solutions."""
    solutions = [new_markdown_cell("# Solutions"), new_code_cell("x = 1")]
    for text, tags in (("one", EXERCISE), ("1", SOLUTION), ("2", SOLUTION), ("two", EXERCISE), ("in words", SOLUTION)):
        make = new_code_cell if text.isdigit() else new_markdown_cell
        solutions.append(make(text, metadata={"tags": [tags]}))
    solutions.append(new_markdown_cell("why?", metadata={"tags": [QUIZ], "slideshow": {"slide_type": "slide"}}))
    for path, cells in (("01_a.ipynb", [new_markdown_cell("# A")]), ("solutions/01_a.ipynb", solutions)):
        (tmp_path / "notebooks" / path).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / path)
    return tmp_path


def test_solutions_stay_behind_and_leave_one_place_for_code(workbook: Path) -> None:
    (path,) = write_exercises(workbook)
    cells = read_cells(path)
    assert [cell["source"].partition("\n")[0] for cell in cells] == [
        *("# A", "## Exercises", "one", PLACE, "two", "## Quiz", "why?")
    ]
    assert "solutions/01_a.ipynb" in cells[1]["source"]
    assert cells[-1]["metadata"]["slideshow"] == {"slide_type": "slide"}
    nbformat.validate(nbformat.read(path, as_version=4))
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_what_is_up_to_date_is_left_alone(workbook: Path) -> None:
    write_exercises(workbook)
    assert write_exercises(workbook) == []


def test_exercises_that_are_gone_leave_the_notebook_too(workbook: Path) -> None:
    (path,) = write_exercises(workbook)
    solutions = json.loads(solutions_of(path).read_text())
    del solutions["cells"][2:5]
    solutions_of(path).write_text(json.dumps(solutions))
    write_exercises(workbook)
    assert "one" not in [cell["source"] for cell in read_cells(path)]


def test_a_notebook_without_solutions_is_named(workbook: Path) -> None:
    solutions_of(workbook / "notebooks/01_a.ipynb").unlink()
    with pytest.raises(WorkbookError, match=r"solutions/01_a\.ipynb: missing, or not a notebook"):
        write_exercises(workbook)
