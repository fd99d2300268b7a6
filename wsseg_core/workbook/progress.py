"""How far a run is: which notebooks are planned, what is done, and about how long the rest takes.

What is expected comes from recorded times: of the profile's tracked reference run, else of the last run here. The
machine at hand is slower or faster; how much, the notebooks tell that this run has finished.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsseg_core.base.dependencies import read_cells
from wsseg_core.base.files import write_json

PLAN_FILE = ".plan.json"
PRIOR = 0.05  # the share of the whole that counts as done in the recorded time before anything is


@dataclass(frozen=True)
class Plan:
    """What a run set out to do.

    Attributes:
        started: seconds since the epoch.
        notebooks: names of the notebooks that are to run, in order.
        recorded: seconds of those whose time is known.
    """

    started: float
    notebooks: list[str]
    recorded: dict[str, float]


def announce(run_folder: Path, jobs: Sequence[str]) -> None:
    """Say what will run, and leave it in the folder of the run for those that run it.

    Args:
        run_folder: such as `results/toy`.
        jobs: names of notebooks, and `report`.
    """
    names = sorted(jobs)
    print(f"to run: {', '.join(names)}", flush=True)
    notebooks = [name for name in names if name != "report"]
    known = recorded_seconds(run_folder)
    plan = Plan(time.time(), notebooks, {name: known[name] for name in notebooks if name in known})
    write_json(run_folder / PLAN_FILE, asdict(plan))


def read_plan(run_folder: Path) -> Plan | None:
    """The plan of the run that is under way, or of the last one."""
    try:
        return Plan(**json.loads((run_folder / PLAN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def plan_stamp(run_folder: Path) -> int:
    """Changes whenever a run sets out."""
    path = run_folder / PLAN_FILE
    return path.stat().st_mtime_ns if path.is_file() else 0


def executed_notebooks(run_folder: Path) -> list[Path]:
    """Notebooks of a run that succeeded, in order; copies that failed or are being run carry a second suffix.

    Args:
        run_folder: such as `results/toy`.
    """
    return [path for path in sorted((run_folder / "notebooks").glob("*.ipynb")) if "." not in path.stem]


def wall_seconds(run_folder: Path) -> dict[str, float]:
    """How long each executed notebook of a run took, in seconds, by the name of the notebook."""
    return {path.stem: notebook_seconds(path) for path in executed_notebooks(run_folder)}


def costs(run_folder: Path) -> dict[str, Any]:
    """What a run took, for `figures.json`: `wall_s` by notebook and `total_s`, in seconds, and `peak_gib` of memory."""
    seconds, memory = wall_seconds(run_folder), map(peak_bytes, executed_notebooks(run_folder))
    return {"wall_s": seconds, "total_s": sum(seconds.values()), "peak_gib": max(memory, default=0) / 2**30}


def notebook_seconds(path: Path) -> float:
    """How long an executed notebook took; 0 where that was not noted."""
    return float(_metadata(path).get("papermill", {}).get("duration") or 0.0)


def peak_bytes(path: Path) -> int:
    """The most memory that an executed notebook and its processes took at a time; 0 where that was not noted."""
    return int(_metadata(path).get("wsseg", {}).get("peak_bytes", 0))


def _metadata(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, KeyError):
        return {}


def recorded_seconds(run_folder: Path) -> dict[str, float]:
    """Seconds by notebook of the last run here, and in their place those of the tracked reference where there is one.

    A run here may have found most of its work on disk; the reference never did.
    """
    profile = run_folder.name.partition("-seed")[0]
    reference = run_folder.parent / profile / "reference" / "figures.json"
    try:
        tracked = json.loads(reference.read_text(encoding="utf-8"))["wall_s"]
    except (OSError, ValueError, KeyError):
        tracked = {}
    return {name: seconds for name, seconds in (wall_seconds(run_folder) | tracked).items() if seconds > 0}


@dataclass(frozen=True)
class Estimate:
    """Where a notebook stands in its run.

    Attributes:
        place: 1 for the first one.
        count: how many there are.
        seconds: what it is expected to take here; None where nothing is known.
        later: what those after it are expected to take; None where nothing is known of one of them.
    """

    place: int
    count: int
    seconds: float | None
    later: float | None


def estimate(plan: Plan, name: str, finished: Mapping[str, float]) -> Estimate | None:
    """What can be foreseen when a notebook of a plan starts.

    Recorded times are scaled by (taken + p) / (recorded + p) over the notebooks that this run has finished, with p a
    twentieth of the whole, so that the first short one does not decide.

    Args:
        plan: of the run.
        name: of the notebook that starts.
        finished: seconds of the notebooks that this run has finished, by name.

    Returns:
        None if the notebook is not in the plan.
    """
    if name not in plan.notebooks:
        return None
    known = [other for other in finished if other in plan.recorded]
    prior = PRIOR * sum(plan.recorded.values())
    recorded = sum(plan.recorded[other] for other in known) + prior
    scale = (sum(finished[other] for other in known) + prior) / recorded if recorded else 1.0
    expected = {other: scale * seconds for other, seconds in plan.recorded.items()}
    rest = [other for other in plan.notebooks if other not in finished and other != name]
    later = sum(expected[other] for other in rest) if all(other in expected for other in rest) else None
    return Estimate(len(finished) + 1, len(plan.notebooks), expected.get(name), later)


def finished_since(run_folder: Path, plan: Plan) -> dict[str, float]:
    """Seconds of the notebooks of a plan that were executed since it was made."""
    executed = [path for path in executed_notebooks(run_folder) if path.stem in plan.notebooks]
    return {path.stem: notebook_seconds(path) for path in executed if path.stat().st_mtime >= plan.started}


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: `0:08`, `4:10`, `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def readable_time(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def rough_time(seconds: float) -> str:
    """Seconds as one says what one does not know well: `less than a minute`, `about 18 min`, `about 2 h 5 min`."""
    minutes = round(seconds / 60)
    if not minutes:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {readable_time(60 * minutes)}"


class Progress:
    """What is said while one notebook runs.

    Attributes:
        label: `[3/10] 03 subtraction and its ablations`, or the name alone where the run has no plan.
    """

    def __init__(self, source: Path, run_folder: Path) -> None:
        plan = read_plan(run_folder)
        self.estimate = plan and estimate(plan, source.stem, finished_since(run_folder, plan))
        place = f"[{self.estimate.place}/{self.estimate.count}] " if self.estimate else ""
        self.label = f"{place}{source.stem[:2]} {notebook_title(source)}"

    def now(self, elapsed: float, width: int) -> str:
        """The line while it runs: `… 4:10 of about 6:30; whole run about 18 min left`; the title gives way to it."""
        about = f" of about {clock(self.estimate.seconds)}" if self.estimate and self.estimate.seconds else ""
        times = f" … {clock(elapsed)}{about}{self._left(elapsed)}"
        return f"{self.label[: max(width - len(times), 0)].rstrip()}{times}"[:width]

    def started(self) -> str:
        """The line of a log when it starts."""
        about = f", {rough_time(self.estimate.seconds)}" if self.estimate and self.estimate.seconds else ""
        return f"{self.label}: started{about}{self._left(0.0)}"

    def done(self, elapsed: float) -> str:
        """The line when it has ended."""
        return f"{self.label}: done in {readable_time(elapsed)}"

    def _left(self, elapsed: float) -> str:
        if not self.estimate or self.estimate.seconds is None or self.estimate.later is None:
            return ""
        left = max(self.estimate.seconds - elapsed, 0.0) + self.estimate.later
        return f"; whole run {rough_time(left)} left"


def notebook_title(notebook: Path) -> str:
    """The first heading up to a colon, without Markdown's marks; the name of the file where there is none."""
    prose = (cell["source"] for cell in read_cells(notebook) if cell["cell_type"] == "markdown")
    headings = (line for source in prose for line in source.splitlines() if line.startswith("#"))
    return next(headings, notebook.stem).partition(":")[0].lstrip("# ").replace("*", "").replace("`", "")
