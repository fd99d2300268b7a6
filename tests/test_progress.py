import io
import json
import os
import re
from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wsseg_core.workbook import status_line
from wsseg_core.workbook.progress import (
    Plan,
    Progress,
    announce,
    clock,
    costs,
    estimate,
    finished_since,
    notebook_seconds,
    peak_bytes,
    plan_stamp,
    read_plan,
    readable_time,
    rough_time,
)
from wsseg_core.workbook.status_line import StatusLine

PLAN = Plan(0.0, ["01_a", "02_b", "03_c"], {"01_a": 100.0, "02_b": 200.0, "03_c": 700.0})


def write_notebook(path: Path, seconds: float | None = None) -> Path:
    cells = [new_markdown_cell("Before.\n\n# Of `b` and *c*: what for?\n\n## Then"), new_code_cell("x = 1")]
    notebook = new_notebook(cells=cells)
    notebook.metadata["papermill"] = {"duration": seconds}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(notebook, path)
    return path


def test_before_anything_is_done_the_recorded_times_stand() -> None:
    first = estimate(PLAN, "01_a", {})
    assert first is not None
    assert (first.place, first.count) == (1, 3)
    assert (first.seconds, first.later) == pytest.approx((100, 900))


def test_what_the_machine_has_taken_scales_the_rest() -> None:
    # 5 % of 1000 s count as taken as recorded: (200 + 50) / (100 + 50)
    second = estimate(PLAN, "02_b", {"01_a": 200.0})
    assert second is not None
    assert (second.place, second.seconds, second.later) == pytest.approx((2, 200 * 5 / 3, 700 * 5 / 3))
    last = estimate(PLAN, "03_c", {"01_a": 200.0, "02_b": 400.0})
    assert last is not None
    assert (last.seconds, last.later) == pytest.approx((700 * 650 / 350, 0))


def test_notebooks_need_not_run_in_the_order_of_their_names() -> None:
    second = estimate(PLAN, "01_a", {"02_b": 200.0})
    assert second is not None
    assert (second.place, second.seconds, second.later) == pytest.approx((2, 100, 700))


def test_nothing_is_said_of_what_is_not_known() -> None:
    unknown = estimate(Plan(0.0, ["01_a", "02_b"], {"01_a": 100.0}), "01_a", {})
    assert unknown is not None
    assert (unknown.seconds, unknown.later) == (100, None)
    assert estimate(Plan(0.0, ["01_a"], {}), "01_a", {}).seconds is None  # type: ignore[union-attr]
    assert estimate(PLAN, "04_d", {}) is None


def test_a_plan_knows_the_reference_and_else_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in (("01_a", 5.0), ("02_b", 7.0), ("03_c", None)):
        write_notebook(tmp_path / f"toy-seed1/notebooks/{name}.ipynb", seconds)
    (tmp_path / "toy/reference").mkdir(parents=True)
    (tmp_path / "toy/reference/figures.json").write_text(json.dumps({"wall_s": {"01_a": 100.0, "04_d": 1.0}}))
    assert read_plan(tmp_path / "toy-seed1") is None
    before = plan_stamp(tmp_path / "toy-seed1")
    announce(tmp_path / "toy-seed1", ["report", "03_c", "02_b", "01_a"])
    assert capsys.readouterr().out == "to run: 01_a, 02_b, 03_c, report\n"
    plan = read_plan(tmp_path / "toy-seed1")
    assert plan is not None
    assert plan.notebooks == ["01_a", "02_b", "03_c"]
    assert plan.recorded == {"01_a": 100.0, "02_b": 7.0}
    assert plan_stamp(tmp_path / "toy-seed1") != before


def test_a_plan_makes_the_folder_of_a_run_that_has_none(tmp_path: Path) -> None:
    announce(tmp_path / "toy", ["00_a"])
    assert read_plan(tmp_path / "toy") is not None


def test_what_was_not_noted_is_nothing(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "01_a.ipynb")
    for noted in (path, tmp_path / "none.ipynb"):
        assert (notebook_seconds(noted), peak_bytes(noted)) == (0.0, 0)


def test_what_a_run_took(tmp_path: Path) -> None:
    assert costs(tmp_path) == {"wall_s": {}, "total_s": 0, "peak_gib": 0}
    for name, seconds, memory in (("01_a", 5.0, 2**30), ("02_b", 7.5, 3 * 2**30)):
        path = write_notebook(tmp_path / f"notebooks/{name}.ipynb", seconds)
        notebook = json.loads(path.read_text())
        notebook["metadata"]["wsseg"] = {"peak_bytes": memory}
        path.write_text(json.dumps(notebook))
    assert costs(tmp_path) == {"wall_s": {"01_a": 5.0, "02_b": 7.5}, "total_s": 12.5, "peak_gib": 3}


def test_only_what_was_executed_since_the_plan_counts_as_finished(tmp_path: Path) -> None:
    for name, written in (("01_a", 999), ("02_b", 1001), ("05_e", 1001)):
        os.utime(write_notebook(tmp_path / f"notebooks/{name}.ipynb", 8.0), (written, written))
    assert finished_since(tmp_path, Plan(1000.0, PLAN.notebooks, {})) == {"02_b": 8.0}


def test_lines_of_a_notebook_in_a_run(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "02_b.ipynb")
    assert Progress(source, tmp_path).now(8, 99) == "02 Of b and c … 0:08"
    assert Progress(source, tmp_path).started() == "02 Of b and c: started"
    announce(tmp_path, PLAN.notebooks)
    assert Progress(source, tmp_path).started() == "[1/3] 02 Of b and c: started"
    recorded = {"started": 2**33, "notebooks": PLAN.notebooks, "recorded": {"01_a": 60, "02_b": 390, "03_c": 900}}
    (tmp_path / ".plan.json").write_text(json.dumps(recorded))
    progress = Progress(source, tmp_path)
    assert progress.now(250, 99) == "[1/3] 02 Of b and c … 4:10 of about 6:30; whole run about 18 min left"
    assert progress.now(5000, 99).endswith("1:23:20 of about 6:30; whole run about 16 min left")
    assert progress.now(250, 64) == "[1/3] 02 Of b … 4:10 of about 6:30; whole run about 18 min left"
    assert progress.now(250, 10) == " … 4:10 of"
    assert progress.started() == "[1/3] 02 Of b and c: started, about 6 min; whole run about 22 min left"
    assert progress.done(250) == "[1/3] 02 Of b and c: done in 4 min 10 s"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (250, "4:10"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "less than a minute"), (40, "about 1 min"), (1090, "about 18 min"), (7500, "about 2 h 5 min")],
)
def test_rough_time(seconds: float, text: str) -> None:
    assert rough_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_readable_time(seconds: float, text: str) -> None:
    assert readable_time(seconds) == text


class Screen(io.StringIO):
    """What a terminal shows of what is written to it: carriage returns, one line up, and erasing to the end."""

    def lines(self) -> list[str]:
        lines, row = [""], 0
        for piece in re.findall(r"\x1b\[A|\x1b\[J|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if piece == "\x1b[A":
                row -= 1
            elif piece == "\x1b[J":
                lines = [*lines[:row], ""]
            elif piece == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif piece != "\r":
                lines[row] += piece
        return lines


def test_the_status_stands_above_the_bar_and_below_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_line, "get_terminal_size", lambda: os.terminal_size((30, 24)))
    screen = Screen()
    with StatusLine(screen, lambda seconds, width: ("status" + " and so on" * 9)[:width], every=3600) as status:  # type: ignore[arg-type]
        shown = ("status" + " and so on" * 9)[:29]
        assert screen.lines() == [shown, ""]
        status.write("\rdrawing:  10%")
        status.write("\rdrawing:  20% and a very long text of a bar")
        assert screen.lines() == [shown, "drawing:  20% and a very long"]
        status.write("\rdrawing: 100%\nwarning\n\rtrain")
        status.write("ing: 5%\r")
        assert screen.lines() == ["drawing: 100%", "warning", shown, "training: 5%"]
    assert screen.lines() == ["drawing: 100%", "warning", "training: 5%", ""]


def test_the_status_follows_the_clock() -> None:
    screen, ticks = Screen(), []
    with StatusLine(screen, lambda seconds, width: ticks.append(seconds) or f"tick {len(ticks)}", every=0.001):  # type: ignore[func-returns-value]
        while len(ticks) < 5:
            pass
    assert screen.lines() == [""]
    assert ticks == sorted(ticks)
