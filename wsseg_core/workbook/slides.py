"""Slides of a run: the marked cells of its notebooks, with their pictures and what to say to them.

A cell is marked in JupyterLab's way, by `slideshow.slide_type` in its metadata (`slide`, `subslide`, `fragment`). What
stands beside it as `notes` only the speaker sees. Marks change nothing for a reader of the notebook, and no notebook
runs again for them: they are read from the notebook, outputs from its executed copy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.data.run import Run, notebook_sources, project_root

SHOWN = ("slide", "subslide", "fragment")
REVEAL = "https://unpkg.com/reveal.js@4.0.2"  # what nbconvert takes; a folder beside the slides does without a network


def write_slides(run: Run, reveal: str = REVEAL) -> list[Path]:
    """Write a page of slides for every notebook that has marked cells and was executed.

    Args:
        run: pages go to `slides` in its folder.
        reveal: address or folder of reveal.js, which turns the page into slides.

    Returns:
        The pages, in the order of the notebooks.

    Raises:
        WorkbookError: no notebook was executed yet, or the folder cannot be written.
    """
    from nbconvert import SlidesExporter  # two seconds

    exporter = SlidesExporter(exclude_input=True, reveal_url_prefix=reveal)
    pages = []
    for source in notebook_sources(project_root()):
        executed = run.folder / "notebooks" / source.name
        if not executed.is_file():
            continue
        deck = slide_notebook(nbformat.read(source, as_version=4), nbformat.read(executed, as_version=4))
        if deck.cells:
            html, _ = exporter.from_notebook_node(deck, {"metadata": {"name": source.stem}})
            pages.append(run.folder / "slides" / f"{source.stem}.html")
            write_atomically(pages[-1], html.encode())
    if not pages:
        raise WorkbookError(f"{run.folder}: nothing to show yet; run: wsseg run --profile {run.profile.name}")
    return pages


def slide_notebook(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The marked cells alone, in order, each with its outputs and followed by its notes.

    Args:
        source: the notebook, which has the marks.
        executed: a copy of it with outputs; a cell that it lacks is left out.
    """
    outputs = {cell.id: cell for cell in executed.cells}
    deck = nbformat.v4.new_notebook(metadata=executed.metadata)
    for cell in source.cells:
        marks = cell.metadata.get("slideshow", {})
        if marks.get("slide_type") in SHOWN and cell.id in outputs:
            deck.cells += list(_shown(outputs[cell.id], marks))
    return deck


def _shown(cell: NotebookNode, marks: dict[str, Any]) -> Iterator[NotebookNode]:
    yield nbformat.from_dict({**cell, "metadata": {"slideshow": {"slide_type": marks["slide_type"]}}})
    if "notes" in marks:
        metadata = {"slideshow": {"slide_type": "notes"}}
        yield nbformat.v4.new_markdown_cell(marks["notes"], metadata=metadata)
