"""The executed notebooks as web pages, with an index, and how long each of them took."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from wsseg_core.base.artifacts import write_atomically
from wsseg_core.base.dependencies import read_cells

TEMPLATES = Path(__file__).parent / "templates"


def executed_notebooks(run_folder: Path) -> list[Path]:
    """Notebooks of a run that succeeded, in order; copies that failed or are being run carry a second suffix.

    Args:
        run_folder: such as `results/toy`.
    """
    return [path for path in sorted((run_folder / "notebooks").glob("*.ipynb")) if "." not in path.stem]


def wall_seconds(run_folder: Path) -> dict[str, float]:
    """How long each executed notebook of a run took, in seconds, by the name of the notebook."""
    return {path.stem: _seconds(path) for path in executed_notebooks(run_folder)}


def export_html(run_folder: Path) -> Path:
    """Write every executed notebook of a run as a page, and an index of them, the tables and the figures.

    Args:
        run_folder: such as `results/toy`; pages go to its `report`.

    Returns:
        The index.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    from nbconvert import HTMLExporter  # takes two seconds to import

    report = run_folder / "report"
    exporter = HTMLExporter()
    # Else every step of a progress bar is a line of its own.
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    entries = []
    for path in executed_notebooks(run_folder):
        page, _ = exporter.from_filename(str(path))
        page = re.sub(r'href="([\w-]+)\.ipynb"', r'href="\1.html"', page)  # notebooks link to each other
        write_atomically(report / f"{path.stem}.html", page.encode())
        entries.append(_entry(path))
    index = report / "index.html"
    write_atomically(index, _render(run_folder, entries).encode())
    return index


def readable_time(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _entry(path: Path) -> dict[str, Any]:
    title, summary = _opening(read_cells(path))
    seconds = _seconds(path)
    return {
        "page": f"{path.stem}.html",
        "title": title or path.stem,
        "summary": summary,
        "seconds": seconds,
        "time": readable_time(seconds),
    }


def _seconds(path: Path) -> float:
    papermill = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {})
    return float(papermill.get("duration") or 0.0)


def _opening(cells: list[dict[str, Any]]) -> tuple[str, str]:
    """First heading and first plain paragraph of the prose, without Markdown's marks."""
    prose = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    apart = re.sub(r"^#.*$", r"\g<0>\n", prose, flags=re.MULTILINE)
    blocks = [block.strip() for block in re.split(r"\n\s*\n", apart)]
    title = next((block.lstrip("# ") for block in blocks if block.startswith("#")), "")
    plain = next((block for block in blocks if block and block[0] not in "#|<>!`$-*"), "")
    return _unmarked(title), _unmarked(plain)


def _unmarked(markdown: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*$]", r"\1", markdown.replace("\n", " "))


def _render(run_folder: Path, entries: list[dict[str, Any]]) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("index.html").render(
        title=f"Report of the run “{run_folder.name}”",
        notebooks=entries,
        total=readable_time(sum(entry["seconds"] for entry in entries)),
        tables=sorted(path.name for path in (run_folder / "tables").glob("*.csv")),
        figures=sorted(path.name for path in (run_folder / "figures").glob("*.png")),
    )
