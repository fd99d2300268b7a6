import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsseg_core.base.dependencies import code_fingerprint, module_closure, notebook_fingerprint, notebook_modules
from wsseg_core.base.errors import WorkbookError

MODULES = {
    "__init__.py": "",
    "base/__init__.py": "",
    "base/errors.py": "class Wrong(Exception): ...\n",
    "base/config.py": "from pack.base import errors\nSIZE = 1\n",
    "data/__init__.py": "",
    "data/reader.py": "from pack.base.config import SIZE\nimport os, numpy\n",
    "net.py": '"""Net."""\n\n\ndef width():\n    """Of the net."""\n    return 3\n',
    "training.py": "def train():\n    from .data import reader\n    import pack.net\n",
    "plots.py": "COLOUR = 1\n",
    "loop.py": "import pack.pool\n",
    "pool.py": "import pack.loop\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    root = tmp_path / "pack"
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def write_notebook(path: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code", "metadata": {}, "source": source.splitlines(keepends=True)} for source in sources]
    cells.append({"cell_type": "markdown", "metadata": {}, "source": ["import pack.plots"]})
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_closure_follows_imports_inside_functions_and_relative_ones(package: Path) -> None:
    found = module_closure(["pack.training"], package)
    reached = {"", ".training", ".data", ".data.reader", ".net", ".base", ".base.config", ".base.errors"}
    assert set(found) == {f"pack{name}" for name in reached}
    assert found["pack.data"] == package / "data/__init__.py"


def test_closure_ends_where_modules_import_each_other(package: Path) -> None:
    assert set(module_closure(["pack.loop"], package)) == {"pack", "pack.loop", "pack.pool"}


def test_closure_passes_over_other_libraries(package: Path) -> None:
    assert module_closure(["json", "numpy.linalg"], package) == {}


@pytest.mark.parametrize(
    "line", ["from pack import net", "import pack.net as n", "from pack.net import width", "if 1:\n    import pack.net"]
)
def test_notebook_modules_of_every_form_of_import(package: Path, tmp_path: Path, line: str) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", f"%matplotlib inline\n!ls\n{line}\n")
    assert set(notebook_modules(notebook, package)) == {"pack", "pack.net"}


def test_notebook_that_is_not_one_or_not_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(WorkbookError, match=r"a\.ipynb: missing, or not a notebook"):
        notebook_modules(tmp_path / "a.ipynb")
    with pytest.raises(WorkbookError, match=r"b\.ipynb: a cell is not Python, mend it: 'x = \('"):
        notebook_modules(write_notebook(tmp_path / "b.ipynb", "y = 1\nx = (\n"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("net.py", '"""Other words."""\ndef width():\n    """Longer."""\n    # why\n    return (3)\n'),
        ("net.py", "def width():\n    return 3\n"),
        ("base/config.py", "from pack.base import errors\nSIZE = 2\n"),
        ("base/errors.py", "class Wrong(ValueError): ...\n"),
        ("plots.py", "COLOUR = 2\n"),
    ],
)
def test_fingerprint_stays(package: Path, file: str, text: str) -> None:
    before = code_fingerprint(["pack.training"], package)
    (package / file).write_text(text)
    assert code_fingerprint(["pack.training"], package) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("net.py", MODULES["net.py"].replace("3", "4")),
        ("data/reader.py", MODULES["data/reader.py"] + "X = 1\n"),
        ("data/__init__.py", "X = 1\n"),
        ("training.py", "def train():\n    from .data import reader\n"),
    ],
)
def test_fingerprint_changes(package: Path, file: str, text: str) -> None:
    before = code_fingerprint(["pack.training"], package)
    (package / file).write_text(text)
    assert code_fingerprint(["pack.training"], package) != before


def test_fingerprint_of_short_and_full_names_is_one(package: Path) -> None:
    names = (["training", "data.reader"], ["pack.data.reader", "pack.training"])
    assert code_fingerprint(names[0], package) == code_fingerprint(names[1], package)
    assert code_fingerprint(["pack"], package) != code_fingerprint(["net"], package)


def test_fingerprint_of_no_module_is_refused(package: Path) -> None:
    with pytest.raises(ValueError, match=r"pack\.trainning"):
        code_fingerprint(["trainning"], package)


def edit(notebook: Path, change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(notebook.read_text())
    change(content)
    notebook.write_text(json.dumps(content, indent=1))
    return notebook_fingerprint(notebook)


def run_in_jupyterlab(content: dict[str, Any]) -> None:
    """What running and saving leaves: outputs, counts, ids, times, a folded cell, a kernel, an empty cell below."""
    for count, cell in enumerate(content["cells"]):
        cell |= {"id": f"cell{count}", "outputs": [{"output_type": "stream", "text": "1"}], "execution_count": count}
        cell["metadata"] = {"execution": {"iopub.status.busy": "2024"}, "collapsed": True, "jupyter": {}}
    content["cells"].append({"cell_type": "code", "metadata": {}, "source": [], "outputs": []})
    content["metadata"] = {"kernelspec": {"name": "other"}, "language_info": {"version": "3.12"}}


def test_running_and_saving_a_notebook_is_no_change(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "x = 1\n", "y = 2\n")
    before = notebook_fingerprint(notebook)
    assert edit(notebook, run_in_jupyterlab) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["cells"][0].update(source="x = 2"),
        lambda content: content["cells"][-1].update(source="other words"),
        lambda content: content["cells"][0]["metadata"].update(tags=["parameters"]),
        lambda content: content["cells"][0].update(cell_type="markdown"),
        lambda content: content["cells"].reverse(),
        lambda content: content["cells"].pop(),
    ],
    ids=["code", "prose", "tag", "kind", "order", "fewer"],
)
def test_every_word_of_a_notebook_counts(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "x = 1\n", "y = 2\n")
    before = notebook_fingerprint(notebook)
    assert edit(notebook, change) != before
