import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from wsseg_core.base import parallel
from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.parallel import check_shared_memory, cpu_count, limit_cores, parallel_map, side_by_side


def mapped(*arguments: object, **options: int) -> Iterator:
    return parallel_map(*arguments, description="testing", **options)  # type: ignore[arg-type]


def process_id(_: int) -> int:
    return os.getpid()


def test_results_come_in_the_order_of_the_items():
    items = [20_000, 1, 3, 9_000, 2, 0]  # the first takes longest
    assert list(mapped(math.factorial, items, workers=2)) == [math.factorial(item) for item in items]
    assert list(mapped(math.sqrt, range(10), workers=2, chunk=3)) == [math.sqrt(item) for item in range(10)]


def test_the_work_is_done_elsewhere_unless_there_is_one_worker_or_little_to_do():
    assert set(mapped(process_id, range(4), workers=1)) == {os.getpid()}
    assert set(mapped(process_id, range(4), workers=2, few=5)) == {os.getpid()}
    assert os.getpid() not in set(mapped(process_id, range(4), workers=2, few=4))
    assert os.getpid() not in set(mapped(process_id, range(4), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_a_worker_is_raised_here_after_the_results_before_it(workers: int):
    results = mapped(math.sqrt, [4.0, -1.0, 9.0], workers=workers)
    assert next(results) == 2
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(results)


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_no_items_give_no_results(workers: int | None):
    assert list(mapped(math.sqrt, [], workers=workers)) == []


def test_the_bar_names_the_work_and_counts_the_items(capsys: pytest.CaptureFixture[str]):
    list(parallel_map(abs, [-1, -2], description="drawing", workers=1))
    assert "drawing" in (shown := capsys.readouterr().err)
    assert "2/2" in shown


def cores(item: int) -> tuple[int, int, str | None]:
    return item, cpu_count(), os.environ.get(parallel.CORES)


def test_long_work_side_by_side_has_one_core_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(parallel.CORES, "2")
    monkeypatch.setattr(parallel, "cpu_count", lambda: 2)
    assert side_by_side(cores, [1, 2, 3], description="work") == [(1, 1, "1"), (2, 1, "1"), (3, 1, "1")]
    assert side_by_side(cores, [1], description="work", workers=1)[0][2] == "2"
    assert os.environ[parallel.CORES] == "2"


def test_at_least_one_core_is_ours_and_no_more_than_we_were_given(monkeypatch: pytest.MonkeyPatch):
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
    for name, value in limit_cores(1).items():
        monkeypatch.setenv(name, value)
    assert cpu_count() == 1


def test_a_worker_that_dies_is_told_in_one_line_instead_of_waited_for():
    with pytest.raises(WorkbookError, match="a worker process died") as caught:
        list(mapped(os._exit, [1, 1], workers=2))
    assert "\n" not in str(caught.value)


def test_batches_that_do_not_fit_into_shared_memory_are_refused_beforehand(monkeypatch: pytest.MonkeyPatch):
    # The largest: 16 images of 448 * 1.4 pixels a side, 4 bytes a value; two processes read two batches ahead.
    needed = 5 * 16 * 3 * (448 * 1.4) ** 2 * 4
    for free, refused in ((needed + 1, False), (needed - 1, True)):
        monkeypatch.setattr(parallel.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(WorkbookError, match="set workers = 0") if refused else nullcontext():
            check_shared_memory(Profile())
    check_shared_memory(load_profile("smoke"))  # reads images itself


@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_cores_that_are_no_number_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(parallel.CORES, value)
    with pytest.raises(WorkbookError, match=f"WSSEG_CORES={value}: use a number of cores"):
        cpu_count()
