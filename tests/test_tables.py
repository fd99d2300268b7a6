import csv
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsseg_core.base.config import SweepConfig
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.machine import machine
from wsseg_core.data.run import Run
from wsseg_core.evaluate import tables
from wsseg_core.evaluate.claims import alpha_key, blocks_key, candidates_key, size_key
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, TEST_PROTOCOL, Interval, Scores
from wsseg_core.evaluate.tables import (
    DASH,
    PUBLISHED_FOLDER,
    beside,
    class_table,
    conditions,
    from_rows,
    headline,
    published,
    read_figures,
    score_table,
    show,
    write_figures,
    write_headline,
    write_table,
)

DETAILS = dict.fromkeys(REQUIRED_DETAILS, "any") | {"protocol": TEST_PROTOCOL, "crf": "1/1/30/10/3", "split": "val"}
NAMES = sorted(path.stem for path in PUBLISHED_FOLDER.glob("*.csv"))


def scores(name: str, wrong: int = 20, size: int = 2) -> Scores:
    """Ten images alike; `wrong` of the 50 foreground pixels are called background."""
    matrix = np.zeros((size, size), np.int64)
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = 50, wrong, 50 - wrong
    return Scores(name, tuple("abcdefghij"), np.stack([matrix] * 10), DETAILS)


def means(name: str, split: str = "val") -> dict[str, float]:
    frame = published(name).query("metric == 'mean_iou' and split == @split")
    return dict(zip(frame["row"], frame["value"], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_is_in_range_once_and_has_a_source(name):
    frame = published(name)
    assert list(frame.columns) == ["row", "label", "metric", "class", "split", "value", "source"]
    assert frame["value"].between(0, 100).all()
    assert not frame.duplicated(["row", "metric", "class", "split"]).any()
    assert (frame[["row", "label", "metric", "source"]] != "").all().all()


@pytest.mark.parametrize("name", ["dcsm_table6", "dcsm_table7"])
def test_the_classes_of_a_published_row_average_to_its_mean(name):
    """A digit copied wrongly moves the mean: the printed ones are rounded to 0.1."""
    frame = published(name)
    rows = 0
    for (row, split), numbers in frame[frame["metric"] == "iou"].groupby(["row", "split"]):
        assert len(numbers) == 21
        assert numbers["value"].mean() == pytest.approx(means(name, split)[row], abs=0.06)
        rows += 1
    assert rows >= 1


def test_the_tables_agree_where_they_print_the_same_number():
    best = means("dcsm_table1")["dcsm-alpha3"]
    assert best == means("dcsm_table4")["n3"] == means("dcsm_table5")["gbp"] == means("dcsm_table6")["dcsm_crf"] == 44.1
    assert means("ssdd_same_setting", "test")["dcsm_crf"] == means("dcsm_table7", "test")["dcsm_crf"] == 45.1
    assert means("ssdd_static")["psa"] == means("ssdd_dynamic")["psa"] == 58.4


def test_row_keys_are_those_that_the_notebooks_use():
    assert {alpha_key("dcsm", 3.0), alpha_key("simonyan", 8.0)} <= means("dcsm_table1").keys()
    ranges = [(1,), (2,), (3,), (4,), (5,), (1, 2, 3, 4, 5), (2, 3, 4, 5), (3, 4, 5), (4, 5), (3, 4)]
    assert {blocks_key(blocks) for blocks in ranges} == means("dcsm_table2").keys()
    toy = [size_key([round(160 * ratio)], 160) for ratio in (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)]
    assert {*toy, size_key([128, 160, 192], 160)} <= means("dcsm_table3").keys()
    assert size_key([128, 160], 160) == size_key([400, 500], 500)
    assert {candidates_key(n) for n in SweepConfig().min_candidates} == means("dcsm_table4").keys()


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(WorkbookError, match=r"dcsm_table9\.csv.*dcsm_table1, "):
        published("dcsm_table9")


def test_ours_stand_beside_the_published_ones():
    frame = beside(published("dcsm_table5"), {"gbp": scores("gbp"), "new": scores("new")}, samples=50)
    assert list(frame["row"]) == ["bp", "gbp", "new"]
    bp, gbp, new = (row for _, row in frame.iterrows())
    assert bp["published"] == 41.2
    assert pd.isna(bp[["ours", "low", "high", "protocol"]]).all()
    expected = 100 * (50 / 70 + 30 / 50) / 2
    assert (gbp["published"], gbp["ours"]) == (44.1, pytest.approx(expected))
    assert gbp["low"] == gbp["high"] == pytest.approx(expected)
    assert {key: gbp[key] for key in REQUIRED_DETAILS} == DETAILS
    assert math.isnan(new["published"])
    assert new["ours"] == pytest.approx(expected)
    assert "table 5" in bp["source"]


def test_a_seed_stays_a_whole_number_beside_rows_that_were_not_measured(tmp_path: Path):
    seeded = Scores("gbp", ("a",), scores("gbp").confusions[:1], DETAILS | {"seed": 3})
    frame = beside(published("dcsm_table5"), {"gbp": seeded}, samples=10)
    write_table(frame, tmp_path, "table5", "caption")
    bp, gbp = (line for line in csv.DictReader((tmp_path / "table5.csv").open()))
    assert (bp["seed"], gbp["seed"]) == ("", "3")


def test_a_caption_says_under_which_conditions_it_was_measured():
    text = conditions(Scores("gbp", ("a",), scores("gbp").confusions[:1], DETAILS | {"seed": 3}))
    assert all(part in text for part in ("val, 1 images, any, test protocol", "seed 3", "95 %"))


def test_only_the_split_asked_for_is_shown():
    frame = beside(published("ssdd_same_setting"), {}, split="test")
    assert frame.set_index("row").loc["ssdd_dynamic", "published"] == 65.3


def test_classes_stand_beside_the_published_ones():
    frame = class_table(published("dcsm_table6"), {"dcsm_crf": scores("dcsm_crf", size=3)}, ["bird", "rider"])
    frame = frame.set_index("class")
    assert list(frame.index) == ["background", "bird", "rider", "mean"]
    assert list(frame["dcsm_crf published"])[:2] == [76.7, 40.8]
    assert math.isnan(frame.loc["rider", "dcsm_crf published"])
    assert frame.loc["bird", "dcsm_crf ours"] == pytest.approx(60.0)
    assert math.isnan(frame.loc["rider", "dcsm_crf ours"])
    assert frame.loc["mean", "dcsm_crf published"] == 44.1
    with pytest.raises(WorkbookError, match="have 3 classes, the devkit 2"):
        class_table(published("dcsm_table6"), {"dcsm_crf": scores("dcsm_crf", size=3)}, ["bird"])


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [["N = 3 & more_|x|", 37.97, 41.26, 3], [None, math.nan, 50.0, 4]]
    return pd.DataFrame(rows, columns=["label", "published", "ours", "count"])


def test_a_table_is_written_three_times(tmp_path: Path, frame: pd.DataFrame):
    write_table(frame, tmp_path / "tables", "t", "100 % of $x_1$")
    paths = sorted((tmp_path / "tables").iterdir())
    assert [path.name for path in paths] == ["t.csv", "t.md", "t.tex"]
    text, markdown, latex = (path.read_text() for path in paths)
    rows = list(csv.reader(text.splitlines()))
    assert rows[1] == ["N = 3 & more_|x|", "37.97", "41.26", "3"]
    assert rows[2] == ["", "", "50.0", "4"]
    assert r"more_\|x\|" in markdown
    assert [cell.strip() for cell in markdown.splitlines()[-2].split("|")[-5:-1]][-3:] == ["37.97", "41.3", "3"]
    assert markdown.splitlines()[-1].count(DASH) == 2
    assert markdown.startswith("100 % of $x_1$\n\n|")
    assert r"N = 3 \& more\_|x| & 37.97 & 41.3 & 3 \\" in latex
    assert r"\caption{100 \% of \$x\_1\$}" in latex
    assert r"-- & -- & 50.0 & 4 \\" in latex
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")


def test_what_is_written_is_shown_or_the_part_that_is_asked_for(tmp_path: Path, frame: pd.DataFrame):
    whole, wanted = write_table(frame, tmp_path, "t", "A caption", 2), show(frame, "A caption", 2)
    assert whole.to_html(table_uuid="t") == wanted.to_html(table_uuid="t")
    page = write_table(frame, tmp_path, "t", "A caption", columns=["label", "count"], rows=1).to_html()
    assert "more_|x|" in page
    assert not any(cell in page for cell in ("ours", "37.97", DASH))
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3


def test_an_interval_takes_three_cells(tmp_path: Path):
    rows = [["K", Interval(2.0, 1.0, 3.0), 7], ["A", Interval(5.0, 4.0, 6.0), 8]]
    made = from_rows(iter(rows), ["mask", "ours", "low", "high", "images"])
    assert made.to_numpy().tolist() == [["K", 2.0, 1.0, 3.0, 7], ["A", 5.0, 4.0, 6.0, 8]]
    assert list(from_rows([], ["mask", "ours"]).columns) == ["mask", "ours"]


def test_scores_become_rows_in_the_order_asked_for():
    both = {"bp": scores("bp", 30), "gbp": scores("gbp", 10)}
    made = score_table(both, ["gbp", "bp"], samples=10)
    assert list(made.columns) == ["row", *tables.OURS]
    assert list(made["row"]) == ["gbp", "bp"]
    assert list(made["ours"]) == [both["gbp"].mean_iou, both["bp"].mean_iou]
    assert (made["low"] == made["ours"]).all()  # ten images alike


def test_an_unwritable_folder_gets_one_line(tmp_path: Path, frame: pd.DataFrame):
    (tmp_path / "tables").write_text("a file stands in the way")
    with pytest.raises(WorkbookError, match="cannot be written"):
        write_table(frame, tmp_path / "tables", "t", "caption")


def test_the_best_number_is_bold(frame: pd.DataFrame):
    page = show(frame, "A caption").to_html()
    assert "A caption" in page
    assert DASH in page
    bold = page.split("</style>")[0]
    assert "row0_col1" in bold  # best published
    assert "row1_col2" in bold  # best of ours
    assert "row0_col2" not in bold
    assert "col3" not in bold  # a count is no score


def test_a_column_without_numbers_can_be_shown():
    assert DASH in show(pd.DataFrame({"row": ["a"], "ours": [math.nan]})).to_html()


def test_figures_of_several_notebooks_come_together(tmp_path: Path):
    write_figures(tmp_path, {"profile": "toy", "seed": 0, "dcsm": Interval(40.5, 39.0, 42.0)})
    write_figures(tmp_path, {"dcsm_crf": Interval(44.1, math.nan, 46.0), "wall_s": {"01": 3.5}})
    assert read_figures(tmp_path) == {
        "profile": "toy",
        "seed": 0,
        "dcsm": {"value": 40.5, "low": 39.0, "high": 42.0},
        "dcsm_crf": {"value": 44.1, "low": None, "high": 46.0},
        "wall_s": {"01": 3.5},
        "machine": machine(),
    }
    json.loads((tmp_path / tables.FIGURES_FILE).read_text(), parse_constant=pytest.fail)


def test_headline_numbers_are_written_with_their_run_and_printed(run: Run, capsys: pytest.CaptureFixture[str]):
    figures = headline({"net_psa": scores("net_psa")}, ["net_psa"], samples=10)
    write_headline(run, figures | {"static_auc": Interval(0.6543, 0.6, 0.7), "split": "val"})
    value = pytest.approx(100 * (50 / 70 + 30 / 50) / 2)
    written = read_figures(run.folder)
    assert (written["profile"], written["seed"], written["split"]) == (run.profile.name, run.seed, "val")
    assert written["net_psa"] == {
        "value": value,
        "low": value,
        "high": value,
        "split": "val",
        "protocol": TEST_PROTOCOL,
    }
    assert capsys.readouterr().out.splitlines() == [
        "network on PSA seeds: 65.7 [65.7, 65.7]",
        "static_auc: 0.654 [0.6, 0.7]",
    ]


def test_figures_of_another_seed_are_dropped(tmp_path: Path):
    write_figures(tmp_path, {"profile": "toy", "seed": 0, "dcsm": Interval(1, 0, 2)})
    write_figures(tmp_path, {"profile": "toy", "seed": 1})
    assert read_figures(tmp_path) == {"profile": "toy", "seed": 1, "machine": machine()}


def test_a_missing_run_gets_one_line(tmp_path: Path):
    with pytest.raises(WorkbookError, match=r"no run is there; run `wsseg run --profile toy` first"):
        read_figures(tmp_path / "toy")
