import importlib.util
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

from wsseg_core.base.dependencies import PACKAGE

SCRIPT = PACKAGE.parent / "tools" / "preflight.py"
GB = 10**9
Usage = namedtuple("Usage", ["free"])


@pytest.fixture(scope="module")
def preflight() -> ModuleType:
    spec = importlib.util.spec_from_file_location("preflight", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_machine(root: Path, available: int, **cgroup: str) -> Path:
    """The files in which a kernel tells its free memory, and what a container is granted of it."""
    files = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:    {available // 1024} kB\n"}
    files |= {f"sys/fs/cgroup/{name}": text for name, text in cgroup.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("version", "refused"), [((3, 10), True), ((3, 11), False), ((3, 13), False), ((3, 14), True)])
def test_a_python_outside_the_range_is_refused(preflight: ModuleType, version: tuple[int, int], refused: bool) -> None:
    problems = list(preflight.python_problems(version))
    assert len(problems) == refused
    assert all(f"Python 3.{version[1]}" in line and "make PYTHON=python3.1" in line for line in problems)


def test_a_python_without_venv_cannot_fetch_uv(preflight: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "apt install python3-venv" in next(preflight.python_problems((3, 12)))


def compiler(folder: Path, body: str) -> str:
    """A command that reads the program that it is given, and then does as the body says."""
    script = folder / "cc"
    script.write_text(f"#!/bin/sh\nprogram=$(cat)\n{body}\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ("exit 0", []),
        ("exit 1", ["headers of C;", "headers of C++;"]),
        ('case "$program" in *Python.h*) exit 1;; esac', ["apt install python3-dev"]),
    ],
)
def test_what_a_compiler_does_not_find(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, messages: list[str]
) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, compiler(tmp_path, body))
    problems = list(preflight.compiler_problems())
    assert len(problems) == len(messages)
    assert all(message in line for message, line in zip(messages, problems, strict=True))


def test_no_compiler(preflight: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-gcc -pthread")
    monkeypatch.setenv("CXX", "no-such-g++")
    problems = list(preflight.compiler_problems())
    assert [line.split(" to compile")[0] for line in problems] == [
        "no C compiler (no-such-gcc)",
        "no C++ compiler (no-such-g++)",
    ]


def test_a_full_disk_unless_all_is_installed(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.chdir(tmp_path)
    environment = tmp_path / ".venv"
    assert not list(preflight.disk_problems(environment, lambda _: Usage(8 * GB)))
    (problem,) = preflight.disk_problems(environment, lambda _: Usage(7.9 * GB))
    assert f"{tmp_path}: 7.9 GB of disk are free and 8 are needed" in problem
    environment.mkdir()
    assert not list(preflight.disk_problems(environment, lambda _: Usage(0)))


def test_a_home_that_cannot_be_written(preflight: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not list(preflight.home_problems(tmp_path / "new"))
    for home in (tmp_path / "file" / "home", Path("/proc/home")):
        (problem,) = preflight.home_problems(home)
        assert problem.startswith(f"{home}: ")
        assert "HOME=/tmp/home make" in problem


def test_free_memory_is_the_least_that_machine_and_container_leave(preflight: ModuleType, tmp_path: Path) -> None:
    root = write_machine(tmp_path, 16 * 2**30)
    assert preflight.free_memory(root) == 16 * 2**30
    newer = {"memory.max": "5000", "memory.current": "4500", "memory.stat": "anon 4100\nfile 400\nkernel 0\n"}
    assert preflight.free_memory(write_machine(tmp_path / "2", 2**30, **newer)) == 900
    assert preflight.free_memory(write_machine(tmp_path / "3", 2**30, **newer | {"memory.max": "max"})) == 2**30
    older = {"limit_in_bytes": "900", "usage_in_bytes": "300", "stat": "cache 1\ntotal_cache 20"}
    older = {f"memory/memory.{name}": text for name, text in older.items()}
    assert preflight.free_memory(write_machine(tmp_path / "1", 2**30, **older)) == 620


def test_too_little_memory_of_either_kind(
    preflight: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(64 * 10**6))
    assert not list(preflight.memory_problems(write_machine(tmp_path, 5 * GB), tmp_path))
    (problem,) = preflight.memory_problems(write_machine(tmp_path, 2 * GB), tmp_path)
    assert "2.0 GB of memory are free and 4 are needed" in problem
    (problem,) = preflight.memory_problems(write_machine(tmp_path, 5 * GB), tmp_path / "gone")
    assert "has 0 MB to write" in problem
    assert "--shm-size" in problem


def test_problems_are_lines_of_make(
    preflight: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = ("python_problems", "compiler_problems", "disk_problems", "home_problems", "memory_problems")
    for check in checks:
        monkeypatch.setattr(preflight, check, lambda check=check: [check])
    assert preflight.main(install=True) == 5
    assert capsys.readouterr().err.splitlines() == [f"make: {check}" for check in checks]
    assert preflight.main(install=False) == 2  # what is installed already needs no compiler
    for check in checks:
        monkeypatch.setattr(preflight, check, list)
    assert preflight.main(install=True) == 0
