"""One executed notebook as the cells of a web page that needs nothing from elsewhere.

Equations become MathML, which browsers draw themselves; code is folded; bars that were drawn on stderr are left out.
"""

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

TEMPLATES = Path(__file__).parent / "templates"
BAR = re.compile(r".*\d+%\|.*\||.*\d+(it|s/it|it/s)\b.*\[.*\]")  # as tqdm draws it, with and without a total
SIDE = (2, 3)  # levels of the headings that stand in the contents


@dataclass(frozen=True)
class Heading:
    """A heading of a page.

    Attributes:
        level: 1 for the title.
        id: of its element.
        html: its text.
    """

    level: int
    id: str
    html: str


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML in place of formulas that a script would have to draw."""

    def inline_math(self, body: str) -> str:
        return _mathml(body)

    def block_math(self, body: str) -> str:
        return _mathml(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


def _mathml(body: str, display: str = "inline") -> str:
    """A formula; its source where it is none, for a slip of the pen is no reason to be without a page."""
    try:
        return convert(body, display=display)
    except Exception:  # latex2mathml has a dozen kinds without a common one, StopIteration among them
        return f"<code>{escape(body)}</code>"


def render_cells(path: Path) -> tuple[str, list[Heading]]:
    """The cells of an executed notebook as HTML, and the headings for the contents.

    Links between notebooks become links between pages.

    Args:
        path: the executed notebook.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _worth_showing(output))]
    exporter = HTMLExporter(template_name="cells", extra_template_basedirs=[str(TEMPLATES)])
    # Else every step of a progress bar is a line of its own.
    exporter.register_preprocessor("nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True)
    exporter.register_filter("markdown2html", _markdown_to_html)
    html, _ = exporter.from_notebook_node(notebook)
    html = re.sub(r'href="([\w-]+)\.ipynb', r'href="\1.html', html)
    return html, _headings(html)


def highlighting() -> str:
    """Style sheet of the colours of code."""
    return HtmlFormatter(style="friendly").get_style_defs(".highlight")


def _markdown_to_html(source: str) -> str:
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def _worth_showing(output: NotebookNode) -> NotebookNode | None:
    """The output without the bars that a terminal would have drawn over each other; None if nothing is left."""
    if output.output_type != "stream":
        return output
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n")]
    if output.name == "stderr":
        lines = [line for line in lines if not BAR.match(line)]
    text = "\n".join(lines)
    return NotebookNode(output | {"text": text}) if text.strip() else None


def _headings(html: str) -> list[Heading]:
    found = re.findall(r'<h(\d) id="([^"]+)">(.*?)<a class="anchor-link".*?</h\1>', html, re.DOTALL)
    return [Heading(int(level), name, text) for level, name, text in found if int(level) in SIDE]
