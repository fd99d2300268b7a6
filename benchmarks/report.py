"""How long a finished run takes to see that it is finished, and to start; and the memory that it took.

    python benchmarks/report.py                 # the run of toy
    python benchmarks/report.py --profile smoke

`first line`, `no-op`: of `wsseg run` when there is nothing to do. `start`: until the first cell of a notebook is run,
of `wsseg run --only` the last one. `peak memory`: of all processes of a notebook together, pages that they share
counted once, the largest of the notebooks. The numbers are added to `figures.json` of the run.

Before them stand the cells that took longest, with their notebook and their share of the whole: where the time goes.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wsseg_core.data.run import Run, notebook_sources, open_run, project_root
from wsseg_core.evaluate.tables import write_figures
from wsseg_core.workbook.progress import costs, executed_notebooks

LONGEST = 20  # cells that are listed


@dataclass(frozen=True)
class Timed:
    """One call of `wsseg run`; times in seconds."""

    started: float  # since the epoch
    first_line: float
    total: float
    output: str


def wsseg_run(run: Run, *options: str) -> Timed:
    """Run `wsseg run` as a person would, without a terminal."""
    command = [sys.executable, "-m", "wsseg_core.workbook.command_line", "run", "--profile", run.profile.name]
    started = time.time()
    process = subprocess.Popen(
        [*command, "--results", str(run.folder.parent), *options],
        cwd=project_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    first_line = time.time() - started
    output = first + process.stdout.read()
    if process.wait():
        raise SystemExit(output)
    return Timed(started, first_line, time.time() - started, output)


def first_cell(executed: Path) -> float:
    """When the first cell of an executed notebook was run, seconds since the epoch."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    times = [cell["metadata"].get("papermill", {}).get("start_time") for cell in cells if cell["cell_type"] == "code"]
    return min(datetime.fromisoformat(time).timestamp() for time in times if time)


def cell_seconds(executed: Path) -> list[tuple[float, str, str]]:
    """Of every cell that was run: its seconds, its notebook, and its first line of code."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    timed = [(cell["metadata"].get("papermill", {}).get("duration"), cell) for cell in cells]
    return [(seconds, executed.stem[:2], _first_line(cell)) for seconds, cell in timed if seconds]


def _first_line(cell: dict) -> str:
    lines = [line.partition("#")[0].strip() for line in "".join(cell["source"]).splitlines()]
    return next((line for line in lines if line and not line.startswith(("from ", "import "))), "imports")


def longest_cells(run: Run) -> str:
    """The cells that took longest, one a line, and their share of the whole."""
    cells = sorted((cell for path in executed_notebooks(run.folder) for cell in cell_seconds(path)), reverse=True)
    total = sum(seconds for seconds, *_ in cells)
    shown = [f"{s:6.0f} s  {100 * s / total:4.1f} %  {name}  {line[:80]}" for s, name, line in cells[:LONGEST]]
    return "\n".join(shown)


def measure(run: Run) -> dict[str, float]:
    """Seconds and GiB of a finished run, by what they are of."""
    last = executed_notebooks(run.folder)[-1]
    restarted = wsseg_run(run, "--only", last.stem[:2])
    start = first_cell(last) - restarted.started
    wsseg_run(run)  # the page of the notebook that has just run
    nothing = wsseg_run(run)
    if "nothing to do" not in nothing.output:
        raise SystemExit(f"{run.folder}: two runs one after the other both found something to do:\n{nothing.output}")
    figures = {"first_line_s": nothing.first_line, "noop_s": nothing.total, "start_s": start}
    return figures | {name: value for name, value in costs(run.folder).items() if name != "wall_s"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="toy")
    parser.add_argument("--results", default="results")
    arguments = parser.parse_args()
    run = open_run(arguments.profile, 0, arguments.results)
    if len(executed_notebooks(run.folder)) < len(notebook_sources(project_root())):
        print(f"{run.folder}: not finished, nothing to measure; run: bin/wsseg run --profile {run.profile.name}")
        return
    print(longest_cells(run))
    figures = measure(run)
    write_figures(run.folder, figures)
    for name, value in figures.items():
        print(f"{name.rpartition('_')[0]:>12}  {value:.1f} {'GiB' if name.endswith('gib') else 's'}")


if __name__ == "__main__":
    main()
