"""The exercises and the quiz at the end of every notebook, written from the notebook of its solutions by cell tag.

`notebooks/solutions/NN_*.ipynb` is what a teacher edits. Its cells tagged `exercise` and `quiz` go into the notebook of
the same name; those tagged `solution` stay behind, and where a solution has code, the reader finds an empty cell.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.data.run import notebook_sources

EXERCISE, SOLUTION, QUIZ = "exercise", "solution", "quiz"
PLACE = "# your code here"
INTRODUCTION = """## Exercises

Each says how long it takes and how hard it is. All of them work on what this run has left on disk: nothing is trained,
and no file of the package is edited. [Solutions](solutions/{name}.ipynb) that run; try first."""
QUIZ_TITLE = """## Quiz

Answer in a sentence, then unfold."""


def write_exercises(root: Path) -> list[Path]:
    """Bring the end of every notebook up to date with its solutions.

    Args:
        root: folder of the workbook.

    Returns:
        The notebooks that changed.

    Raises:
        WorkbookError: a notebook has no solutions, or one of the two is not a notebook.
    """
    changed = []
    for path in notebook_sources(root):
        wanted = exercised(path)
        if wanted != path.read_text(encoding="utf-8"):
            write_atomically(path, wanted.encode())
            changed.append(path)
    return changed


def exercised(path: Path) -> str:
    """Text of a notebook whose exercises are those of its solutions; all other cells stay as they are.

    Raises:
        WorkbookError: as for `write_exercises`.
    """
    notebook = _read(path)
    own = [cell for cell in notebook["cells"] if not {EXERCISE, QUIZ} & _tags(cell)]
    notebook["cells"] = own + list(_generated(_read(solutions_of(path))["cells"], path.stem))
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def solutions_of(path: Path) -> Path:
    """Where the solutions of a notebook are."""
    return path.parent / "solutions" / path.name


def _generated(solutions: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Cells of exercises, each with a place for the reader's code if its solution has any; then those of the quiz."""
    yield _cell("markdown", "exercises", EXERCISE, INTRODUCTION.format(name=name))
    asked = ""
    for cell in solutions:
        if EXERCISE in _tags(cell):
            asked = cell["id"]
            yield cell
        elif asked and SOLUTION in _tags(cell) and cell["cell_type"] == "code":
            yield _cell("code", f"{asked}-code", EXERCISE, PLACE)
            asked = ""
    yield _cell("markdown", "quiz", QUIZ, QUIZ_TITLE)
    yield from (cell for cell in solutions if QUIZ in _tags(cell))


def _cell(kind: str, name: str, tag: str, source: str) -> dict[str, Any]:
    """A cell as nbformat stores it, its keys in alphabetical order."""
    code = {"execution_count": None} if kind == "code" else {}
    outputs: dict[str, Any] = {"outputs": []} if kind == "code" else {}
    start = {"cell_type": kind} | code | {"id": name, "metadata": {"tags": [tag]}}
    return start | outputs | {"source": source.splitlines(keepends=True)}


def _tags(cell: dict[str, Any]) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def _read(path: Path) -> dict[str, Any]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook | {"cells": list(notebook["cells"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkbookError(f"{path}: missing, or not a notebook; take it from version control again") from None
