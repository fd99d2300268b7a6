"""`docs/results.md`, written from the tracked reference tables: no number in it is typed by hand.

Every profile with a folder `results/<profile>/reference` is a chapter, and every entry of `SECTIONS` whose table is
there a section of it.
"""

import csv
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.base.machine import machine_text
from wsseg_core.evaluate.labels import labelled
from wsseg_core.evaluate.tables import DASH, FIGURES_FILE
from wsseg_core.evaluate.verdicts import Outcome

FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}")  # as in format strings; names of columns have spaces and commas
PAGE = Path("docs") / "results.md"
REFERENCE = "reference"
OURS = "{ours} [{low}, {high}]"
BESIDE = {"row": "{label}", "published, VOC": "{published}", "here": OURS}
VERDICT = {"claim": "{claim}", "verdict": "**{verdict}**"}
CLAIMS = "10_claims"
CLAIMS_OVER_SEEDS = "10_claims_seeds"
OPENING = """# Results

Written by `wsseg docs` from the tables in `results/<profile>/reference`, with `claims.json` and `figures.json`.
Mean IoU in percent, void pixels left out, 95 % bootstrap intervals over images in brackets. Data and networks are not
those of the papers, so levels are not to be compared with the published ones; the order of the rows is.
"""


@dataclass(frozen=True)
class Section:
    """One table of the page.

    Attributes:
        heading: above it.
        table: name of the CSV file, without suffix.
        columns: header, and how its cells are written from the columns of the file.
        text: below the heading.
    """

    heading: str
    table: str
    columns: Mapping[str, str]
    text: str = ""


SECTIONS = (
    Section("Methods", "05_all_methods",
            {"method": "{method}", "CRF": "{CRF}", "test protocol": "{test, ours} [{low}, {high}]",
             "seed protocol": "{seed, ours} [{seed low}, {seed high}]", "s an image": "{seconds:.2f}"},
            "In the test protocol the classes drawn are those that the classifier detects, in the seed protocol those "
            "that the image-level labels name."),
    Section("The second network against the first", "05_other_network",
            {"method": "{method}", "CRF": "{CRF}", "points": "{difference} [{difference low}, {difference high}]"}),
    Section("Any CNN", "05_backbones",
            {"CNN": "{CNN}", "million parameters": "{million parameters}", "activations": "{activations}",
             "strides of the stages": "{strides of the stages}", "maps": "{maps:.0f}",
             "forward, ms": "{forward, ms:.0f}", "maps, ms": "{maps, ms:.0f}"},
            "One image, one class, a map at every block; weights are random, so that this is about form and time."),
    Section("Seeds and networks, several trainings", "10_spread",
            {"row": "{row}", "split": "{split}", "mean": "{mean}", "lowest": "{lowest}", "highest": "{highest}"},
            "Seeds on the training images with the labels known; networks on the validation images."),
    Section("Seeds (SSDD's table)", "10_ssdd_seeds", BESIDE),
    Section("Does the difference detector know whom to believe?", "07_auc",
            {"pixels": "{pixels}", "A is right, %": "{A right}",
             "area under the curve": "{ours:.3f} [{low:.3f}, {high:.3f}]"},
            "Of d^K - d^A as a sign that A is right, on the first training images; 0.5 is chance."),
    Section("Static refinement of errors that were made", "07_irregularity",
            {"irregularity": "{irregularity:.2f}", "K": "{K}", "A": "{A}", "no detector": "{no detector}",
             "refined": "{refined}", "beyond the better": OURS, "area under the curve": "{AUC:.3f}"},
            "Both masks were made from true masks; nothing of this is weakly supervised."),
    Section("Static refinement of other pairs of masks", "07_pairs",
            {"K and A": "{K and A}", "K": "{K}", "A": "{A}", "oracle": "{oracle}", "no detector": "{no detector}",
             "refined": "{refined}", "beyond the better": OURS,
             "beyond no detector": "{beyond no detector} [{low of it}, {high of it}]",
             "area under the curve": "{AUC:.3f} [{AUC low:.3f}, {AUC high:.3f}]"},
            "On the first training images, labels known. The pair goes on for which the smaller of both gains is the "
            "largest: it was chosen with true masks of these images."),
    Section("How foreseeable the errors of both masks are", "07_foreseeable",
            {"K and A": "{pair}", "errors of K": "{K foreseen:.3f} [{K low:.3f}, {K high:.3f}]",
             "errors of A": "{A foreseen:.3f} [{A low:.3f}, {A high:.3f}]", "beyond the better": "{ours}"},
            "Area under the curve of a linear reader that has seen the errors of other images, and of this one the "
            "image alone; 0.5 is chance. Made pairs have an irregularity."),
    Section("Seeds of the chosen pair", "07_chosen_pair", {"seeds": "{row}", "on train": OURS}),
    Section("Networks on seeds, with CRF", "10_ssdd_networks", BESIDE),
    Section("Dynamic refinement, with CRF", "10_ssdd_dynamic", BESIDE),
    Section("Ablations of the dynamic stage", "08_ablations",
            {"network": "{network}", "no CRF": "{without CRF, ours}", "CRF": OURS,
             "beyond the static network": "{beyond static} [{low of it}, {high of it}]"}),
    Section("The dynamic stage from the chosen pair", "08_pair",
            {"network": "{row}", "no CRF": "{without CRF, ours} [{its low}, {its high}]", "CRF": OURS}),
    Section("The dynamic stage from seeds with made errors", "08_irregularity",
            {"irregularity": "{irregularity:.2f}", "control": "{control}", "no detector": "{no detector}",
             "dynamic": "{dynamic}", "beyond the control": OURS,
             "beyond no detector": "{beyond no detector} [{low of it}, {high of it}]"},
            "On val, without a CRF; the seeds were made from true masks."),
    Section("Masks that the dynamic stage teaches itself", "08_steps", {"mask": "{mask}", "on train": OURS}),
    Section("The same on the way", "08_taught",
            {"step": "{step:.0f}", "seed": "{seed}", "result 2": "{result 2}", "result 2 less the seed": OURS}),
    Section("Self-training", "09_variants",
            {"network": "{network}", "seeds": "{seeds}", "last labels": "{last labels}",
             "network, first epoch": "{first epoch}", "last epoch": OURS,
             "gain": "{beyond the first} [{its low}, {its high}]"},
            "Seeds and labels on the training images with the labels known; networks on the validation images."),
    Section("What the epochs make of the labels", "09_drift",
            {"network": "{network}", "last labels": "{last labels}",
             "beyond the first epoch": "{beyond the first} [{low}, {high}]",
             "beyond the seeds": "{beyond the seeds} [{its low}, {its high}]"},
            "On the training images, labels known; an interval below 0 is drift."),
    Section("Borders, and images that are good", "09_methods",
            {"network": "{row}", "steps": "{steps:.0f}", "mean IoU": OURS,
             "beyond as many steps on PSA seeds":
                 "{beyond equal steps} [{beyond equal steps, low}, {beyond equal steps, high}]",
             "near borders": "{boundary IoU} [{boundary IoU, low}, {boundary IoU, high}]",
             "images above 70 %": "{images above 70 %} [{images above 70 %, low}, {images above 70 %, high}]"},
            "Without a CRF. Near borders: pixels no farther than 5 from a true border."),
    Section("DCSM, table 1: α", "10_table1", BESIDE),
    Section("DCSM, table 2: layers", "10_table2", BESIDE),
    Section("DCSM, table 3: input sizes", "10_table3", BESIDE),
    Section("DCSM, table 4: N", "10_table4", BESIDE),
    Section("Subtraction where the labels name one class, and several", "03_one_or_several",
            {"classes in the image": "{classes in the image}", "images": "{images:.0f}", "row": "{row}", "here": OURS,
             "beyond the first row": "{gain} [{gain low}, {gain high}]"}),
    Section("DCSM, table 5: back-propagation", "10_table5", BESIDE),
    Section("Maps of a network that is made random, from the scores down", "02_sanity",
            {"random layers, %": "{random layers:.0f}", "gradient": "{gradient}", "map": "{map}",
             "like the trained network's": "{ours:.2f} [{low:.2f}, {high:.2f}]",
             "correlation of two classes": "{two classes:.2f}"}),
    Section("DCSM, table 6: val", "10_table6", BESIDE),
    Section("MIRU 2016", "10_miru", BESIDE),
    Section("Rows without a published number", "10_own_rows", {"row": "{label}", "here": OURS}),
    Section("Factors of the scenes, trained anew with each value", "11_factors",
            {"factor": "{factor}", "value": "{value:g}", "mAP": "{mAP} [{mAP low}, {mAP high}]", "mean IoU": OURS,
             "beyond the profile's value": "{difference} [{difference low}, {difference high}]"},
            "Small sets of drawn scenes, one short training a value; DCSM at one input size, without a CRF, in the "
            "test protocol. Differences by the paired bootstrap over scenes."),
    Section("Claims of the papers", CLAIMS,
            VERDICT | {"difference, points": "{difference} [{low}, {high}]", "against": "{against}"},
            "A verdict comes from the paired bootstrap alone."),
    Section("Claims about the last stages, judged by all trainings", CLAIMS_OVER_SEEDS,
            VERDICT | {"mean difference, points": "{mean} [{low}, {high}]", "against": "{against}"},
            "The interval is over images; all trainings must agree."),
)  # fmt: skip


def take_reference(run_folder: Path) -> Path:
    """Make the tables of a finished run the tracked ones, in place of those that are there.

    Returns:
        The folder of the reference tables.

    Raises:
        WorkbookError: the run has no tables or no headline numbers.
    """
    tables = sorted((run_folder / "tables").glob("*.csv"))
    single = [run_folder / name for name in (FIGURES_FILE, "claims.json")]
    missing = next((path for path in single if not path.is_file()), None)
    if missing or not tables:
        raise WorkbookError(f"{missing or run_folder / 'tables'}: not there; run `wsseg run` to its end first")
    reference, taken = run_folder / REFERENCE, run_folder / f".{REFERENCE}"
    try:
        shutil.rmtree(taken, ignore_errors=True)
        taken.mkdir()
        for path in [*tables, *single]:
            shutil.copy(path, taken / path.name)
    except OSError as error:
        raise WorkbookError(f"{taken}: cannot be written ({error.strerror}); {reference} is as it was") from None
    shutil.rmtree(reference, ignore_errors=True)  # once all that takes its place is there
    return taken.rename(reference)


def results_page(root: Path) -> str:
    """The text of `docs/results.md`.

    Args:
        root: folder of the workbook.

    Raises:
        WorkbookError: no reference tables are there.
    """
    references = sorted(root.glob(f"results/*/{REFERENCE}"))
    if not references:
        raise WorkbookError(f"{root / 'results'}: no reference tables; take them from version control again")
    chapters = [line for reference in references for line in _chapter(reference)]
    return "\n".join([OPENING, *_side_by_side(references), *chapters])


def write_results_page(root: Path) -> Path:
    """Write the page; returns its path."""
    write_atomically(root / PAGE, results_page(root).encode())
    return root / PAGE


def _side_by_side(references: Sequence[Path]) -> Iterable[str]:
    """The claims on every data set beside each other, where there are tables of two or more."""
    judged = {path.parent.name: _judged(path) for path in references if (path / f"{CLAIMS}.csv").is_file()}
    if len(judged) < 2:
        return
    form, rows = VERDICT["verdict"] + " {difference} [{low}, {high}]", []
    for claim in dict.fromkeys(claim for frame in judged.values() for claim in frame.index):
        found = {name: frame.loc[claim] for name, frame in judged.items() if claim in frame.index}
        verdicts = {row["verdict"] for row in found.values()}
        cells = [_cell(found[name], form) if name in found else DASH for name in judged]
        rows.append([claim, *cells, "≠" if verdicts >= {Outcome.HOLDS, Outcome.FAILS} else ""])
    yield "## The claims on every data set\n"
    yield (
        "Points; ≠ where one data set says what another denies; of the last stages, by all trainings that there are. "
        "The chapters below have the conditions.\n"
    )
    yield _table(["claim", *judged, ""], rows) + "\n"


def _judged(reference: Path) -> pd.DataFrame:
    """`verdict`, `difference`, `low` and `high` by claim, from all trainings where a claim was judged by several."""
    frame, over_seeds = _frame(reference / f"{CLAIMS}.csv").set_index("claim"), reference / f"{CLAIMS_OVER_SEEDS}.csv"
    if over_seeds.is_file():
        of_all = _frame(over_seeds).set_index("claim").rename(columns={"mean": "difference"})
        frame.update(of_all[["verdict", "difference", "low", "high"]])
    return frame


def _chapter(reference: Path) -> Iterable[str]:
    figures = json.loads((reference / FIGURES_FILE).read_text(encoding="utf-8"))
    yield f"## Profile `{reference.parent.name}`\n"
    yield f"{_headline(figures)}\n"
    for section in SECTIONS:
        path = reference / f"{section.table}.csv"
        if path.is_file():
            yield f"### {section.heading}\n"
            if section.text:
                yield f"{section.text}\n"
            yield _markdown(_frame(path), section.columns) + "\n"
    yield "### Time\n"
    seconds = figures.get("wall_s", {})
    yield f"Measured on {machine_text(figures.get('machine'))}; {sum(seconds.values()) / 60:.0f} minutes together.\n"
    yield (
        _markdown(
            pd.DataFrame({"notebook": list(seconds), "minutes": [value / 60 for value in seconds.values()]}),
            {"notebook": "{notebook}", "minutes": "{minutes}"},
        )
        + "\n"
    )


def _headline(figures: Mapping[str, Any]) -> str:
    text = f"Scored on `{figures['split']}`, training seed {figures['seed']} where no other is named."
    precision = figures.get("classifier_map")
    if precision:
        trainings = len(figures.get("seeds", [0]))
        text += " Mean average precision of the classifier" + (f" over {trainings} trainings" if trainings > 1 else "")
        text += ": {value:.3f} [{low:.3f}, {high:.3f}].".format(**precision)
    return text


def _frame(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return labelled(pd.DataFrame([{column: _value(text) for column, text in row.items()} for row in rows]))


def _value(text: str) -> Any:
    """A number where the cell is one."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return text


def _markdown(frame: pd.DataFrame, columns: Mapping[str, str]) -> str:
    return _table(columns, [[_cell(row, form) for form in columns.values()] for row in frame.to_dict("records")])


def _table(header: Iterable[str], rows: Iterable[list[str]]) -> str:
    names = list(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [names, ["---"] * len(names), *rows])


def _cell(row: Mapping[Any, Any], form: str) -> str:
    """A cell from the columns that its form names, numbers with one decimal; a dash where one has no number."""
    values = {column: row[column] for column, _ in FIELD.findall(form)}
    if any(isinstance(value, float) and math.isnan(value) for value in values.values()):
        return DASH

    def fill(field: re.Match[str]) -> str:
        value = values[field[1]]
        return f"{value:{field[2] or '.1f'}}" if isinstance(value, float) else str(value)

    return FIELD.sub(fill, form).replace("|", "\\|")
