"""Which code a notebook or a stage depends on, read from `import` statements and never by importing.

The Snakefile asks so that a notebook runs again when a module behind it changed; a stage asks so that its
artifacts carry a mark of the code that made them.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from wsseg_core.base.errors import WorkbookError

PACKAGE = Path(__file__).parents[1]
# Settings are compared by their values and an error message changes no artifact.
NOT_IN_FINGERPRINT = frozenset({"base.config", "base.errors"})


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells of a notebook as nbformat 4 stores them, each with its `source` joined to one string.

    Raises:
        WorkbookError: the file is missing or is not a notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WorkbookError(f"{notebook}: missing, or not a notebook; take it from version control again") from None
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def parse_cell(cell: dict[str, Any], notebook: Path) -> ast.Module:
    """Syntax tree of a code cell, without its `%magic` and `!shell` lines.

    Raises:
        WorkbookError: the cell is not Python.
    """
    lines = [line for line in cell["source"].splitlines() if not line.startswith(("%", "!"))]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise WorkbookError(f"{notebook}: a cell is not Python, mend it: {text!r} ({error.msg})") from None


def notebook_modules(notebook: Path, package: Path = PACKAGE) -> dict[str, Path]:
    """Modules of the package that a notebook imports, directly or through other modules of the package.

    Returns:
        The file of each module, by its full name.

    Raises:
        WorkbookError: the notebook cannot be read.
    """
    trees = [parse_cell(cell, notebook) for cell in read_cells(notebook) if cell["cell_type"] == "code"]
    return module_closure({name for tree in trees for name in _imported_names(tree, within="")}, package)


def module_closure(names: Iterable[str], package: Path = PACKAGE) -> dict[str, Path]:
    """The given modules and all that they import from the package, also inside functions.

    Args:
        names: full names, such as `wsseg_core.saliency.gradients`; what is no module of the package is passed over.
        package: folder of the package.

    Returns:
        The file of each module, by its full name.
    """
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        file = _module_file(name, package)
        if file is None or name in found:
            continue
        found[name] = file
        parent = name.rpartition(".")[0]
        within = name if file.name == "__init__.py" else parent
        waiting.extend([parent, *_module_imports(file, _stamp(file), within)])
    return found


def code_fingerprint(names: Iterable[str], package: Path = PACKAGE) -> str:
    """Hash of all the code behind some modules.

    It changes with the code of the modules or of any module that they import from the package, and with
    nothing else: comments, docstrings, layout, `config` and `errors` are left out. It is comparable between
    runs of one Python version, because the syntax tree of another may differ.

    Args:
        names: of modules, in full (`wsseg_core.saliency.gradients`) or as seen from the package (`saliency`).
        package: folder of the package.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: a name is no module of the package; a hash over nothing would never change.
    """
    root, prefix = package.name, f"{package.name}."
    wanted = {name if name == root or name.startswith(prefix) else prefix + name for name in names}
    files = module_closure(wanted, package)
    if not wanted <= files.keys():
        raise ValueError(f"no modules of {root}: {sorted(wanted - files.keys())}")
    digest = hashlib.sha256()
    for name in sorted(files):
        if name.removeprefix(prefix) not in NOT_IN_FINGERPRINT:
            digest.update(f"{name}\n{_module_code(files[name], _stamp(files[name]))}\n".encode())
    return digest.hexdigest()[:16]


def notebook_fingerprint(notebook: Path) -> str:
    """Hash of what a notebook says: kind, source and tags of its cells, in order.

    Running it, saving it and folding its cells change nothing here; every word of it does, because its executed copy
    becomes a page of the report.

    Returns:
        16 hexadecimal digits.

    Raises:
        WorkbookError: the notebook cannot be read.
    """
    cells = [
        (cell["cell_type"], cell["source"].rstrip(), sorted(cell["metadata"].get("tags", [])))
        for cell in read_cells(notebook)
    ]
    said = [cell for cell in cells if cell[1]]  # JupyterLab adds an empty cell below the last one that is run
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _stamp(file: Path) -> tuple[int, int]:
    """Tells one content of a file from another, so that each is parsed once a process."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@cache
def _tree(file: Path, stamp: tuple[int, int]) -> ast.Module:
    """Syntax tree of a module, without its docstrings."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return tree


@cache
def _module_imports(file: Path, stamp: tuple[int, int], within: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_imported_names(_tree(file, stamp), within)))


@cache
def _module_code(file: Path, stamp: tuple[int, int]) -> str:
    return ast.dump(_tree(file, stamp))


def _module_file(name: str, package: Path) -> Path | None:
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    stem = package.joinpath(*parts[1:])
    candidates = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((file for file in candidates if file.is_file()), None)


def _imported_names(tree: ast.AST, within: str) -> Iterator[str]:
    """Every dotted name that could be a module; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), within)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
