"""One process pool for everything that is done image by image on the CPU."""

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError

SHARED_MEMORY = Path("/dev/shm")  # where a process that reads images leaves its batches
CORES = "WSSEG_CORES"  # environment variable
READ_AHEAD = 2  # batches of each such process, as torch has it
# Sooner done by one process than others start:
FEW_IMAGES = 50  # at a few hundredths of a second each, as with a CRF
FEW_MASKS = 600  # without

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Cores that this process may use, at least one: those of the system, or fewer where a run was given fewer.

    Raises:
        WorkbookError: the environment variable is no such number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get(CORES, "")
    if given and not (given.isdecimal() and int(given)):
        raise WorkbookError(f"{CORES}={given}: use a number of cores, 1 or more, or unset it")
    return min(cores, int(given or cores))


def limit_cores(cores: int) -> dict[str, str]:
    """What the environment of a process must say for it, its threads and its workers to use this many cores."""
    return {CORES: str(cores), "OMP_NUM_THREADS": str(cores)}


def check_shared_memory(profile: Profile) -> None:
    """Make sure, before anything is started, that processes that read images can hand over the largest batches.

    Docker grants 64 MB, and what does not fit kills them in the middle of a training.

    Raises:
        WorkbookError: there is too little room.
    """
    classifier, cam, net = profile.classifier, profile.cam, profile.segmentation
    if classifier.workers == 0 or not SHARED_MEMORY.is_dir():
        return
    batches = (
        (classifier.batch_size, profile.data.image_size * classifier.resize_range[1]),
        (cam.batch_size, cam.image_size * cam.resize_range[1]),
        (net.batch_size, net.crop),
    )
    largest = max(images * 3 * side**2 * 4 for images, side in batches)  # float32, RGB
    needed, free = (1 + READ_AHEAD * classifier.workers) * largest, shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise WorkbookError(
            f"{SHARED_MEMORY}: {free / 1e6:.0f} MB are free and batches of {classifier.workers} processes that read "
            f"images take {needed / 1e6:.0f}; set workers = 0 in the profile's [classifier], or enlarge it: "
            f"mount -o remount,size=2G {SHARED_MEMORY}, or docker run --shm-size=2g"
        )


def _one_thread() -> None:
    # A worker that starts threads of its own makes all of them wait for each other.
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each, which start when work arrives."""
    # Forking a process whose torch has live threads can deadlock; a fork server starts from a clean one.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        # What this process has imported is imported once more, and not by each worker of each pool.
        own = [name for name in sys.modules if name.startswith("wsseg_core.")]
        context.set_forkserver_preload(["torch", "cv2", *sorted({*own, "wsseg_core.base.parallel"})])
    return ProcessPoolExecutor(workers, context, initializer=_one_thread)


@contextmanager
def lost_workers(description: str) -> Iterator[None]:
    """Tell in one line that a worker was killed or could not start.

    Raises:
        WorkbookError: so it was.
    """
    try:
        yield
    except BrokenProcessPool:
        raise WorkbookError(
            f"{description}: a worker process died; free memory or use fewer cores, and in a script of your own "
            "put what runs under `if __name__ == '__main__':`"
        ) from None


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    description: str,
    workers: int | None = None,
    chunk: int = 1,
    few: int = 0,
) -> Iterator[Result]:
    """Apply a function to every item on all cores, in order, with a progress bar.

    Args:
        function: what to do with one item; it and its arguments must be picklable.
        items: what to do it with.
        description: what the progress bar says.
        workers: processes; all cores when left out, the calling process alone when 1.
        chunk: items sent to a worker at a time; raise it when one item takes milliseconds.
        few: fewer items than this are done by the calling process alone, sooner than others would start.

    Yields:
        The results, in the order of `items`. An exception in a worker is raised here.

    Raises:
        WorkbookError: a worker was killed, or could not start.
    """
    workers = 1 if len(items) < few else min(workers or cpu_count(), max(len(items), 1))
    bar: dict[str, Any] = {"total": len(items), "desc": description, "mininterval": 1.0}
    if workers == 1:
        yield from tqdm(map(function, items), **bar)
        return
    with process_pool(workers) as pool:
        try:
            with lost_workers(description):
                yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)
        finally:
            pool.shutdown(cancel_futures=True)


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], *, description: str, workers: int | None = None
) -> list[Result]:
    """Apply a function that keeps a core busy for long, such as a training, to every item; as `parallel_map`.

    Two trainings of one thread each take less time than one after the other of two threads. Whatever the function
    starts keeps to the core that it was given.
    """
    return list(
        parallel_map(partial(_with_one_core, function=function), items, description=description, workers=workers)
    )


def _with_one_core(item: Item, function: Callable[[Item], Result]) -> Result:
    if multiprocessing.parent_process() is not None:
        os.environ.update(limit_cores(1))
    return function(item)
