"""Running notebooks without a browser: one of them with papermill, or all of them in order with Snakemake."""

import ast
import contextlib
import csv
import difflib
import fcntl
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsseg_core.base.config import load_profile, profile_path
from wsseg_core.base.dependencies import parse_cell, read_cells
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.base.machine import PeakMemory
from wsseg_core.base.parallel import check_shared_memory, limit_cores
from wsseg_core.data.run import PROFILE_VARIABLE, notebook_sources, open_run, project_root
from wsseg_core.workbook.progress import Progress, plan_stamp
from wsseg_core.workbook.status_line import StatusLine

# What every notebook is told; its cell tagged `parameters` holds a default of each.
RUN_PARAMETERS = ("profile", "seed", "results")
SNAKEMAKE = (sys.executable, "-m", "snakemake")
PATIENCE = 3600  # seconds for a kernel to start and to hand over its output: a busy machine is no failure
LAB_CONFIG = Path(__file__).parent / "lab"  # opens on the notebooks, and asks for no news
LAST_STAGE = "08_dynamic_refinement"  # the last notebook whose results are compared over seeds


def check_parameters(notebook: Path, names: Iterable[str]) -> None:
    """Make sure that a notebook takes the parameters that it is about to be given.

    Papermill itself only warns about an unknown one, and injects them at the top, where later cells overwrite
    them, when no cell is tagged.

    Raises:
        WorkbookError: not exactly one cell is tagged `parameters`, or that cell does not assign one of the names.
    """
    tagged = [cell for cell in read_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise WorkbookError(
            f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag one, and assign {', '.join(names)} there"
        )
    nodes = ast.walk(parse_cell(tagged[0], notebook))
    known = sorted({node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)})
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            hint = f"the nearest known one is {near[0]!r}" if near else "its cell tagged 'parameters' assigns none"
            raise WorkbookError(f"{notebook}: unknown parameter {name!r}; {hint}")


def run_notebook(path: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Run a notebook from the workbook's folder, saying how far it is, and keep the executed copy.

    A terminal shows one line of the notebook and the whole run, with the bar of the stage that is running below it; a
    log gets a line when it starts and one when it ends.

    Args:
        path: the notebook; its file is left as it is.
        output: the executed copy, in `<folder of the run>/notebooks`; it appears under this name only when every cell
            has succeeded. A copy that failed lies beside it as `<name>.failed.ipynb`, with the error below the cell
            that raised it.
        parameters: values for names of the cell tagged `parameters`.

    Raises:
        WorkbookError: the parameters do not fit, the same notebook is being run into the same output, a cell
            raised an error, or the kernel died.
    """
    check_parameters(path, parameters)
    running, failed = (output.with_suffix(f".{state}.ipynb") for state in ("running", "failed"))
    with _alone(_lock_of(output)):
        start = time.monotonic()
        progress = Progress(path, output.parent.parent)
        with _shown(progress) as screen, PeakMemory() as memory:
            reason = _execute(path.resolve(), running.resolve(), parameters, screen)
        _note(running, peak_bytes=memory.peak)
        os.replace(running, failed if reason else output)
    if reason:
        raise WorkbookError(f"{path}: {reason}; open {failed} to see it in place, mend the cause and run again")
    failed.unlink(missing_ok=True)
    print(progress.done(time.monotonic() - start), file=sys.stderr, flush=True)


def run_seeds(profile: str, seeds: int, results: str, dry_run: bool = False, cores: int | None = None) -> bool:
    """Run the last stages of every other seed, then all of seed 0, whose tables tell how far the seeds lie apart.

    What is up to date is left alone, so that a run that was stopped goes on, and a seed more costs that seed alone.
    A dry run looks at every seed as it is now.

    Args:
        profile: name or TOML file of the profile.
        seeds: N, for seeds 0..N-1.
        results: folder of all results.
        dry_run: only say what would run.
        cores: how many to use; all when left out.

    Returns:
        Whether everything succeeded; the first seed that failed is the last one that ran.

    Raises:
        WorkbookError: the errors of `run_workflow`.
    """
    for seed in range(1, seeds):
        print(f"seed {seed}, up to {LAST_STAGE}", flush=True)
        if not run_workflow(profile, seed, results, dry_run=dry_run, cores=cores, until=LAST_STAGE):
            return False
    print("seed 0", flush=True)
    return run_workflow(profile, 0, results, dry_run=dry_run, cores=cores)


def run_workflow(
    profile: str,
    seed: int,
    results: str,
    only: str = "",
    dry_run: bool = False,
    cores: int | None = None,
    until: str = "",
) -> bool:
    """Run the notebooks that are out of date, in the order of the Snakefile, then write the report.

    Args:
        profile: name or TOML file of the profile.
        seed: repetition.
        results: folder of all results.
        only: number or name of one notebook, which runs even if it is up to date, after whatever it needs.
        dry_run: only say what would run.
        cores: how many to use; all when left out.
        until: number or name of the notebook to end with, in place of the report.

    Returns:
        Whether everything succeeded. What failed has been said by then.

    Raises:
        WorkbookError: nothing was started, because the profile, a notebook, the results folder or the machine is not
            fit, or because another profile of the same name has its results there.
    """
    root = project_root()
    run = open_run(profile, seed, results)
    check_shared_memory(run.profile)
    if profile.endswith(".toml"):
        profile = str(profile_path(profile))  # the notebooks run in another folder
    sources = notebook_sources(root)
    if not sources:
        raise WorkbookError(f"{root}: no notebooks here; change to the folder of the workbook and run again")
    for source in sources:
        check_parameters(source, RUN_PARAMETERS)
    _make_folder(run.folder)
    arguments = ["--cores", str(cores or "all"), "--nolock", "--rerun-incomplete"]
    if target := only or until:
        arguments += ["--force"] if only else []
        arguments.append(str(run.folder / "notebooks" / _named(target, sources).name))
    # In quotes, as Snakemake takes 2025 for a number and "on" for a truth value.
    arguments += ["--config", f"profile={json.dumps(profile)}", f"seed={seed}", f"results={json.dumps(results)}"]
    print(f"{run.folder}: looking for what is out of date", file=sys.stderr, flush=True)
    if dry_run:
        return _plan(arguments, root)
    _claim(run.folder, profile)
    return _snakemake(arguments, root, run.folder, cores)


@contextlib.contextmanager
def _shown(progress: Progress) -> Iterator[StatusLine | None]:
    """Where the bars of a notebook go: below its status line on a terminal, nowhere in a log."""
    if sys.stderr.isatty():
        with StatusLine(sys.stderr, progress.now) as screen:
            yield screen
    else:
        print(progress.started(), file=sys.stderr, flush=True)
        yield None


def _execute(path: Path, running: Path, parameters: Mapping[str, Any], screen: StatusLine | None) -> str:
    """Run every cell; returns why it stopped early, in words, or nothing."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    os.environ["WSSEG_HEADLESS"] = (
        "1"  # the kernel inherits it; `wsseg_core.workbook.widgets` then draws panels for explorers
    )
    try:
        papermill.execute_notebook(
            path, running, dict(parameters), kernel_name="python3", language="python", cwd=project_root(),
            progress_bar=False, stderr_file=screen, extra_arguments=["--log-level=CRITICAL"],
            start_timeout=PATIENCE, iopub_timeout=PATIENCE,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        first_line = str(error.evalue).partition("\n")[0]
        return f"stopped in cell [{error.exec_count}] by {error.ename}: {first_line}"
    except DeadKernelError:
        return "the kernel died, killed by hand or for want of memory"
    except OSError as error:
        raise WorkbookError(f"{running}: cannot be written ({error.strerror}); free disk space and run again") from None
    return ""


def _lock_of(output: Path) -> Path:
    """The lock of a notebook, by the path of its copy, executed or running."""
    return output.with_name(f".{output.name.partition('.')[0]}.lock")


def _note(executed: Path, **values: Any) -> None:
    """Keep something about a run in the metadata of the executed copy."""
    content = json.loads(executed.read_text(encoding="utf-8"))
    content["metadata"]["wsseg"] = values
    write_atomically(executed, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that the operating system takes back when its owner ends, however that happens."""
    _make_folder(lock.parent)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise WorkbookError(f"{lock}: already being run by process {file.read()}; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise WorkbookError(f"{folder}: cannot be written; make the folder writable, or choose another with --results")


def _claim(folder: Path, profile: str) -> None:
    """Note whose results lie in a folder, which is named after the profile's file alone."""
    record = folder / "profile.txt"
    if not record.is_file():
        write_atomically(record, profile.encode())
    owner = record.read_text(encoding="utf-8")
    if owner != profile:
        raise WorkbookError(
            f"{folder}: holds the results of the profile {owner}, not of {profile}; rename one of the two, choose "
            f"another folder with --results, or delete {record.name} there"
        )


def _named(only: str, sources: list[Path]) -> Path:
    found = [source for source in sources if source.stem in (only, Path(only).stem) or source.stem[:2] == only.zfill(2)]
    if not found:
        raise WorkbookError(f"no notebook {only!r}; use one of {', '.join(source.stem[:2] for source in sources)}")
    return found[0]


def open_lab(profile: str, arguments: Sequence[str] = ()) -> None:
    """Become JupyterLab in the folder of the workbook, whose notebooks then take this profile; does not return.

    Args:
        profile: name or TOML file.
        arguments: of `jupyter lab`.

    Raises:
        WorkbookError: the profile does not exist or holds a value that is not known.
    """
    load_profile(profile)
    known = str(Path(profile).resolve()) if profile.endswith(".toml") else profile
    paths = [str(LAB_CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ.update({PROFILE_VARIABLE: known, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)})
    os.chdir(project_root())
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *arguments])


def _plan(arguments: list[str], root: Path) -> bool:
    """Say which notebooks would run; False when Snakemake refuses, which is then shown."""
    summary = [*SNAKEMAKE, "--summary", "--quiet", "host", "progress", *arguments]
    result = subprocess.run(summary, cwd=root, capture_output=True, text=True)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        return False
    rows = csv.DictReader(io.StringIO(result.stdout), delimiter="\t")
    outputs = {row["output_file"]: row["rule"] for row in rows if row["plan"] == "update pending"}
    pending = sorted(Path(file).stem if rule == "notebook" else rule for file, rule in outputs.items())
    print(f"to run: {', '.join(pending)}" if pending else "nothing to do", flush=True)
    return True


def _snakemake(arguments: list[str], root: Path, folder: Path, cores: int | None) -> bool:
    """Run what is out of date; a notebook that fails says so itself, one that was killed cannot."""
    start, before = time.time(), plan_stamp(folder)
    environment = os.environ | (limit_cores(cores) if cores else {})  # the kernels inherit it
    process = subprocess.Popen([*SNAKEMAKE, "--quiet", "all", *arguments], cwd=root, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the child was interrupted too, and ends its notebook before it ends itself
        code = process.wait()
    if not code and plan_stamp(folder) == before:
        print("nothing to do", flush=True)
    left = [path for path in folder.glob("notebooks/*.running.ipynb") if path.stat().st_mtime > start]
    if code and left and not any(_owner(path) for path in folder.glob("notebooks/.*.lock")):
        raise WorkbookError(f"{left[0]}: stopped from outside; run again, it goes on from what is on disk")
    return code == 0


def _owner(lock: Path) -> str:
    """Process that holds a lock; empty when nobody does."""
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read()
    return ""
