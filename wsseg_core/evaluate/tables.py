"""Published tables, ours beside them, and what a run leaves in its `tables` folder.

`data/published/*.csv` holds one published table a file, one number a line: `row` is the name of the `Scores` that
measure the same thing here (`claims` lists the names), `metric`, `class` (empty for a mean), `split`,
`value` as printed, and `source`.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically, write_json
from wsseg_core.base.machine import machine
from wsseg_core.data.run import Run
from wsseg_core.evaluate.labels import labelled, row_label
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, Interval, Scores

PUBLISHED_FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"
FIGURES_FILE = "figures.json"
OURS = ("ours", "low", "high")  # columns of a number measured here and of its 95 % interval
BESIDE = ("row", "label", "published", *OURS, "crf", "source")  # of `beside`, what a caption does not say already
DASH = "–"  # a cell that was not measured, or never published
LATEX_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--", "×": r"$\times$"}
)


def published(name: str) -> pd.DataFrame:
    """A published table, by the name of its file, with `value` as float64 and everything else as text.

    Raises:
        WorkbookError: no such table; the tables there are get named.
    """
    path = PUBLISHED_FOLDER / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PUBLISHED_FOLDER.glob("*.csv"))) or "none are there"
        raise WorkbookError(f"{path}: no such published table; use one of: {known}")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.assign(value=frame["value"].astype(float))


def beside(
    published_frame: pd.DataFrame,
    ours: Mapping[str, Scores],
    *,
    split: str = "val",
    samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean IoU as published and as measured here, row by row.

    Args:
        published_frame: what `published` gives.
        ours: scores by row key; keys that were never published follow at the end.
        split: of the published numbers.
        samples: resamples of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Columns row, label, published, ours, low, high (percent; NaN where there is no number), source, and the
        details of our scores.
    """
    chosen = published_frame.query("metric == 'mean_iou' and split == @split").set_index("row")
    rows = []
    for key in [*chosen.index, *(key for key in ours if key not in chosen.index)]:
        theirs = (
            chosen.loc[key] if key in chosen.index else {"label": row_label(key), "value": math.nan, "source": None}
        )
        row = {"row": key, "label": theirs["label"], "published": theirs["value"]}
        rows.append(row | _measured(ours.get(key), samples, seed) | {"source": theirs["source"]})
    order = ["row", "label", "published", *OURS, "source", *REQUIRED_DETAILS]
    frame = pd.DataFrame(rows, columns=order)
    seeds = pd.Series([row.get("seed") for row in rows], dtype=object)  # whole numbers, also beside missing ones
    return frame.assign(seed=seeds)


def _measured(scores: Scores | None, samples: int, seed: int) -> dict[str, Any]:
    if scores is None:
        return dict.fromkeys(OURS, math.nan)
    details = {key: scores.details[key] for key in REQUIRED_DETAILS}
    return dict(zip(OURS, astuple(scores.interval(samples, seed)), strict=True)) | details


def from_rows(rows: Iterable[Iterable[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table from its rows, in which an `Interval` takes three cells: the value, and the low and the high end.

    Args:
        rows: cells, in order.
        columns: headers; three an interval.
    """
    cells = [
        [value for cell in row for value in (astuple(cell) if isinstance(cell, Interval) else (cell,))] for row in rows
    ]
    return pd.DataFrame(cells, columns=list(columns))


def score_table(scores: Mapping[str, Scores], names: Iterable[str], samples: int = 1000) -> pd.DataFrame:
    """Mean IoU of some scores, in percent, with its 95 % interval.

    Args:
        scores: by name.
        names: the rows, in order.
        samples: resamples of the bootstrap.

    Returns:
        Columns row, ours, low, high.
    """
    return from_rows([[name, scores[name].interval(samples)] for name in names], ["row", *OURS])


def conditions(scores: Scores) -> str:
    """What a caption says of all numbers of a table that were measured on the images of these scores."""
    details = scores.details
    return (
        f"{details['split']}, {len(scores.image_ids)} images, {details['classes']}, "
        f"{details['protocol']} protocol, void {details['void']}, "
        f"pretraining {details['pretraining']}, seed {details['seed']}; 95 % intervals of a bootstrap over images"
    )


def class_table(
    published_frame: pd.DataFrame, ours: Mapping[str, Scores], class_names: Sequence[str], *, split: str = "val"
) -> pd.DataFrame:
    """IoU by class, as published and as measured here, in percent.

    Args:
        published_frame: what `published` gives.
        ours: scores by row key.
        class_names: the C foreground classes of the devkit, in its order.
        split: of the published numbers.

    Returns:
        One line for the background, each class and the mean; two columns a method, NaN where there is no number.

    Raises:
        WorkbookError: scores of another number of classes.
    """
    names = ["background", *class_names]
    chosen = published_frame.query("metric in ('iou', 'mean_iou') and split == @split")
    columns: dict[str, dict[str, float]] = {}
    for key, scores in ours.items():
        if len(scores.class_iou) != len(names):
            raise WorkbookError(
                f"scores {key!r} have {len(scores.class_iou)} classes, the devkit {len(names)}; score them again"
            )
        theirs = chosen[chosen["row"] == key]
        columns[f"{key} published"] = dict(zip(theirs["class"].replace("", "mean"), theirs["value"], strict=True))
        columns[f"{key} ours"] = dict(zip(names, scores.class_iou, strict=True)) | {"mean": scores.mean_iou}
    frame = pd.DataFrame(columns, index=[*names, "mean"], dtype=float)
    return frame.rename_axis("class").reset_index()


def write_table(
    frame: pd.DataFrame,
    folder: Path,
    name: str,
    caption: str,
    decimals: int = 1,
    columns: Sequence[str] | None = None,
    rows: int | None = None,
) -> Styler:
    """Write a table as CSV (full precision, rows by name), Markdown and LaTeX (booktabs, by label), atomically.

    Args:
        frame: the table.
        folder: where the three files go.
        name: of the files, without an ending.
        caption: above the table, wherever it is shown.
        decimals: of its numbers, but in the CSV file.
        columns: those that the notebook shows; None for all. The files have them all.
        rows: how many of the first the notebook shows, alike.

    Returns:
        The table for the notebook, as `show` gives it.

    Raises:
        WorkbookError: the folder cannot be written.
    """
    cells = _cells(labelled(frame), decimals)
    contents = {".csv": _csv(frame), ".md": _markdown(cells, caption), ".tex": _latex(cells, name, caption)}
    for suffix, content in contents.items():
        write_atomically(folder / f"{name}{suffix}", content.encode())
    return show((frame if columns is None else frame[list(columns)]).iloc[:rows], caption, decimals)


def show(frame: pd.DataFrame, caption: str = "", decimals: int = 1) -> Styler:
    """The table for a notebook, with the best published and the best of our numbers in bold."""
    frame = labelled(frame)
    best = [column for column in frame.columns if str(column).endswith(("published", "ours"))]
    words = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    left: Any = {column: [{"selector": kind, "props": "text-align: left"} for kind in ("th", "td")] for column in words}
    style = _cells(frame, decimals).style.hide(axis="index").set_caption(caption).set_table_styles(left)
    for column in best:
        if frame[column].notna().any():
            place = pd.IndexSlice[frame.index[frame[column] == frame[column].max()], [column]]
            style = style.set_properties(subset=place, **{"font-weight": "bold"})
    return style


def _cells(frame: pd.DataFrame, decimals: int) -> pd.DataFrame:
    """Every cell as text. A published number keeps the digits that it was printed with."""

    def text(value: Any, column: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return DASH
        if isinstance(value, float):
            return str(value) if column.endswith("published") else f"{value:.{decimals}f}"
        return str(value)

    columns = {column: [text(value, str(column)) for value in frame[column]] for column in frame.columns}
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def _csv(frame: pd.DataFrame) -> str:
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def _markdown(cells: pd.DataFrame, caption: str) -> str:
    escaped = cells.map(lambda text: text.replace("|", "\\|"))
    return f"{caption}\n\n{escaped.to_markdown(index=False, disable_numparse=True)}\n"


def _latex(cells: pd.DataFrame, name: str, caption: str) -> str:
    def line(texts: Sequence[str]) -> str:
        return " & ".join(str(text).translate(LATEX_SPECIAL) for text in texts) + r" \\"

    body = [line(row) for row in cells.itertuples(index=False, name=None)]
    parts = [
        r"\begin{table}",
        rf"\caption{{{caption.translate(LATEX_SPECIAL)}}}",
        rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{'l' * cells.shape[1]}}}",
        r"\toprule",
        line(list(cells.columns)),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def write_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Add headline numbers to `figures.json`, and the machine; an `Interval` becomes {"value", "low", "high"}.

    Keys that are there stay, so that every notebook adds its own, unless they belong to another profile or seed.

    Args:
        folder: `results/<profile>`.
        figures: numbers by key, and what they mean: profile, seed, split, protocol, wall_s.
    """
    path = folder / FIGURES_FILE
    old = _read_json(path) or {}
    same_run = all(old.get(key) == figures.get(key, old.get(key)) for key in ("profile", "seed"))
    new = {key: _json_value(value) for key, value in {**figures, "machine": machine()}.items()}
    write_json(path, (old if same_run else {}) | new)


def headline(scores: Mapping[str, Scores], names: Iterable[str], samples: int = 1000) -> dict[str, dict[str, Any]]:
    """Mean IoU of some scores for `write_headline`: by name the value, low and high, the split and the protocol."""
    conditions_of = {name: {key: scores[name].details[key] for key in ("split", "protocol")} for name in names}
    return {name: asdict(scores[name].interval(samples)) | said for name, said in conditions_of.items()}


def write_headline(run: Run, figures: Mapping[str, Any]) -> None:
    """Add headline numbers to `figures.json` of a run, as `write_figures` does, and print them.

    Args:
        run: its profile and seed are written with them.
        figures: by key; what is an `Interval`, or comes from `headline`, is printed.
    """
    write_figures(run.folder, {"profile": run.profile.name, "seed": run.seed, **figures})
    for key, figure in figures.items():
        ends = asdict(figure) if isinstance(figure, Interval) else figure
        if isinstance(ends, Mapping) and "value" in ends:
            print(f"{row_label(key)}: {ends['value']:.3g} [{ends['low']:.3g}, {ends['high']:.3g}]")


def read_figures(folder: Path) -> dict[str, Any]:
    """What the notebooks of the last run wrote with `write_figures`.

    Raises:
        WorkbookError: no run is there.
    """
    figures = _read_json(folder / FIGURES_FILE)
    if figures is None:
        raise WorkbookError(f"{folder / FIGURES_FILE}: no run is there; run `wsseg run --profile {folder.name}` first")
    return figures


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _json_value(value: Any) -> Any:
    """NaN has no place in JSON; it becomes null."""
    if isinstance(value, Interval):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _json_value(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
