"""The report of a run, which grows with it: an index from the first notebook on, and a page for every executed one."""

import contextlib
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from wsseg_core.base.dependencies import code_fingerprint, read_cells
from wsseg_core.base.files import write_atomically
from wsseg_core.base.machine import machine, machine_text
from wsseg_core.data.run import Run, notebook_sources, project_root, repeated_seeds
from wsseg_core.evaluate.labels import row_label
from wsseg_core.workbook.progress import executed_notebooks, notebook_seconds, readable_time

TEMPLATES = Path(__file__).parent / "templates"
# Figures that show what the run has made of images, the one that tells most first.
PICTURES = ("05_methods", "04_before_after", "03_figure4_raw_diff", "02_figure3_layers", "00_given")
OUTCOMES = ("holds", "does not hold", "undecided")
FRACTIONS = {
    "classifier_map": "mean average precision of the classifier (0 to 1)",
    "static_auc": "area under the curve of the static detector (0 to 1)",
    "irregular_static_auc": "area under the curve of the static detector, irregular made errors (0 to 1)",
}


def export_html(run: Run, sources: Sequence[Path]) -> Path:
    """Write a page for every executed notebook of a run that has none of its own yet, and the index.

    Args:
        run: pages go to `report` in its folder.
        sources: the notebooks of the workbook, in order.

    Returns:
        The index.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    entries = _entries(run, sources, "")
    environment, stamp = _environment(), report_fingerprint()
    for place, entry in enumerate(entries):
        executed, page = run.folder / "notebooks" / f"{entry['name']}.ipynb", run.folder / "report" / entry["page"]
        generator = f"wsseg {stamp} {executed.stat().st_mtime_ns if executed.is_file() else entry['state']}"
        if page.is_file() and f'content="{generator}"' in page.read_text(encoding="utf-8")[:500]:
            continue
        neighbours = {
            "previous": entries[place - 1] if place else None,
            "next": entries[place + 1] if place + 1 < len(entries) else None,
        }
        content = _page_content(executed, entry) | neighbours
        shared = {"generator": generator, "meaningful": run.profile.meaningful, "title": entry["title"]}
        write_atomically(page, environment.get_template("page.html").render(**shared, **content).encode())
    return write_index(run, sources)


@contextlib.contextmanager
def reported(run: Run, notebook: str) -> Iterator[None]:
    """Let the report of a run say that a notebook is under way, and then what became of it.

    A page that cannot be made costs no notebook that has run; the last rule of the run, which makes all of them, tells.

    Args:
        run: of the notebook.
        notebook: its name.
    """
    sources = notebook_sources(project_root())
    write_index(run, sources, notebook)
    try:
        yield
    finally:
        try:
            export_html(run, sources)
        except Exception as error:
            print(f"{notebook}: no page in the report yet ({error})", file=sys.stderr, flush=True)


def write_index(run: Run, sources: Sequence[Path], under_way: str = "") -> Path:
    """Write the index alone: what the run is, its headline numbers, and where each notebook stands.

    Args:
        run: the index goes to `report` in its folder.
        sources: the notebooks of the workbook, in order.
        under_way: name of the notebook that is running; the page then looks for news by itself.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    entries = _entries(run, sources, under_way)
    figures = _read_json(run.folder / "figures.json", {})
    pictures = sorted(path.name for path in run.figures.glob("*.png"))
    index = run.folder / "report" / "index.html"
    content = (
        _environment()
        .get_template("index.html")
        .render(
            title=f"Report of the run “{run.folder.name}”",
            generator=f"wsseg {report_fingerprint()}",
            meaningful=run.profile.meaningful,
            under_way=under_way,
            facts=_facts(run, figures),
            picture=next((f"{name}.png" for name in PICTURES if f"{name}.png" in pictures), ""),
            headlines=_headlines(figures),
            verdicts=_verdicts(run),
            notebooks=entries,
            done=sum(entry["state"] == "done" for entry in entries),
            total=readable_time(sum(entry["seconds"] for entry in entries)),
            tables=sorted(path.name for path in run.tables.glob("*.csv")),
            figures=pictures,
        )
    )
    write_atomically(index, content.encode())
    return index


def report_fingerprint() -> str:
    """Changes with the code and the templates that pages are made with."""
    digest = hashlib.sha256(code_fingerprint(["wsseg_core.workbook.report"]).encode())
    for path in sorted(TEMPLATES.rglob("*.*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)


def _entries(run: Run, sources: Sequence[Path], under_way: str) -> list[dict[str, Any]]:
    """What the index says of each notebook, and what its neighbours' pages call it."""
    executed = {path.stem: path for path in executed_notebooks(run.folder)}
    return [_entry(run, source, executed.get(source.stem), under_way) for source in sources]


def _entry(run: Run, source: Path, executed: Path | None, under_way: str) -> dict[str, Any]:
    title, summary = _opening(read_cells(source))
    seconds = notebook_seconds(executed) if executed else 0.0
    failed = (run.folder / "notebooks" / f"{source.stem}.failed.ipynb").is_file()
    if source.stem == under_way:
        state, when = "running", f"under way since {time.strftime('%H:%M')}"
    elif executed:
        state, when = "done", readable_time(seconds)
    else:
        state, when = ("failed", "stopped by an error") if failed else ("waiting", "has not run yet")
    names = {"name": source.stem, "number": source.stem[:2], "page": f"{source.stem}.html"}
    words = {"title": title or source.stem, "summary": summary, "state": state, "when": when}
    return names | words | {"seconds": seconds}


def _page_content(executed: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Cells and contents of a page; one that has not run yet says so, so that no link to it is dead."""
    from wsseg_core.workbook.pages import highlighting, render_cells  # nbconvert takes two seconds to import

    if not executed.is_file():
        return {"cells": f"<h1>{entry['title']}</h1><p>This notebook {entry['when']}.</p>", "headings": []}
    cells, headings = render_cells(executed)
    return {"cells": cells, "headings": headings, "highlighting": highlighting()}


def _facts(run: Run, figures: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of a run were made with."""
    data = run.profile.data
    kind = "drawn scenes" if data.source == "toyvoc" else "photographs"
    others = [str(seed) for seed in repeated_seeds(run) if seed != run.seed]
    seeds = f"{run.seed}" + (f"; also there: {', '.join(others)}" if others else "")
    return {
        "profile": run.profile.name,
        "data": f"{data.devkit} ({kind}), learned on {data.train_split}, scored on {data.val_split}",
        "seed": seeds,
        "machine": machine_text(figures.get("machine") or machine()),
    }


def _headlines(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every number that has an interval, in words."""
    rows = []
    for name, value in figures.items():
        if not isinstance(value, Mapping) or not {"value", "low", "high"} <= value.keys() or value["value"] is None:
            continue
        digits = 3 if name in FRACTIONS else 1
        numbers = {key: f"{value[key]:.{digits}f}" for key in ("value", "low", "high")}
        details = {key: str(value.get(key) or figures.get(key, "")) for key in ("split", "protocol")}
        if name == "classifier_map":  # the protocol says which classes are drawn
            details["protocol"] = ""
        rows.append({"label": FRACTIONS.get(name) or row_label(name)} | numbers | details)
    return rows


def _verdicts(run: Run) -> dict[str, int]:
    """How many claims hold, do not, and cannot be told; nothing where the numbers of the profile mean nothing."""
    counts = Counter(verdict["outcome"] for verdict in _read_json(run.folder / "claims.json", []))
    return {outcome: counts[outcome] for outcome in OUTCOMES} if counts and run.profile.meaningful else {}


def _read_json(path: Path, missing: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return missing


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
