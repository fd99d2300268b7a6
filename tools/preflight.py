"""Say what this machine lacks, a line for each thing with its remedy, before anything is downloaded or computed.

    python3 tools/preflight.py             # what a run needs
    python3 tools/preflight.py --install   # and what the installation needs

It gets by with any Python 3 and its standard library, because it judges that Python too.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GB = 10**9
MEMORY = 4 * GB  # the tests take 3.8
DISK = 8 * GB  # .venv takes 6
SHARED_MEMORY = 16 * 10**6  # locks of the worker processes, and the little that they share
HEADERS = {"C": "stdlib.h", "C++": "vector"}


def python_problems(version=sys.version_info[:2], project=ROOT / "pyproject.toml"):
    """The interpreter against `requires-python`, and against installing uv with it."""
    low, high = re.findall(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', project.read_text(), re.MULTILINE)[0]
    if not (3, int(low)) <= version < (3, int(high)):
        yield (
            f"this is Python {version[0]}.{version[1]}, and everything is installed for 3.{low} to 3.{int(high) - 1}; "
            f"install one of these and name it: make PYTHON=python3.{int(high) - 1}"
        )
    elif not shutil.which("uv") and not _runs([sys.executable, "-c", "import ensurepip, venv"]):
        yield f"no venv in {sys.executable} to fetch uv with; install it: apt install python3-venv"


def compiler_problems():
    """The compilers, tried on their own headers and on those of Python."""
    for language, variable in (("C", "CC"), ("C++", "CXX")):
        compiler = shlex.split(os.environ.get(variable) or sysconfig.get_config_var(variable))
        probe = [*compiler, "-x", language.lower(), "-fsyntax-only", "-I", sysconfig.get_path("include"), "-"]
        if not shutil.which(compiler[0]):
            yield f"no {language} compiler ({compiler[0]}) to compile pydensecrf2 with; install it: apt install g++"
        elif not _runs(probe, f"#include <{HEADERS[language]}>"):
            yield f"{compiler[0]} does not find the headers of {language}; install them: apt install g++"
        elif language == "C++" and not _runs(probe, "#include <Python.h>"):
            yield "Python.h is missing and pydensecrf2 compiles against it; install it: apt install python3-dev"


def disk_problems(environment=ROOT / ".venv", free=shutil.disk_usage):
    """Room for packages that are not there yet, in the project and, where it lies elsewhere, in uv's cache."""
    if environment.exists():
        return
    cache = os.environ.get("UV_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home()
    folders = {path.stat().st_dev: path for path in map(_nearest, (cache, environment))}
    for folder in folders.values():
        if free(folder).free < DISK:
            yield (
                f"{folder}: {free(folder).free / GB:.1f} GB of disk are free and {DISK // GB} are needed; "
                "free some, or move the project, or uv's cache: UV_CACHE_DIR=/elsewhere make"
            )


def home_problems(home=None):
    """A home folder in which uv, Jupyter and others can keep their files."""
    home = Path(home or Path.home())
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        yield f"{home}: your home cannot be written ({error.strerror}); name a folder that can: HOME=/tmp/home make"


def memory_problems(root=Path("/"), shared=Path("/dev/shm")):
    """Memory that is free, and memory that processes share."""
    free = free_memory(root)
    if free < MEMORY:
        yield (
            f"{free / GB:.1f} GB of memory are free and {MEMORY // GB} are needed; "
            "close programs, or give the container or the machine more"
        )
    room = shutil.disk_usage(shared).free if os.access(shared, os.W_OK) else 0
    if room < SHARED_MEMORY:
        yield (
            f"{shared} has {room // 10**6} MB to write and worker processes need {SHARED_MEMORY // 10**6}; "
            f"enlarge it: mount -o remount,size=1G {shared}, or docker run --shm-size=1g"
        )


def free_memory(root=Path("/")):
    """Bytes that are left, of the machine and of the container that this runs in, which may be granted less."""
    meminfo = (root / "proc/meminfo").read_text()
    left = [1024 * int(re.findall(r"MemAvailable:\s+(\d+)", meminfo)[0])]
    for folder, limit, usage, cache in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        try:
            granted, used = (int((root / folder / name).read_text()) for name in (limit, usage))
            cached = re.findall(rf"^{cache} (\d+)", (root / folder / "memory.stat").read_text(), re.MULTILINE)
            left.append(granted - used + int(cached[0]))
        except (OSError, ValueError):  # no such file, or no limit: "max"
            continue
    return min(left)


def _runs(command, text=""):
    done = subprocess.run(command, input=text.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def _nearest(path):
    """The folder itself, or the nearest one above it that is there."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def main(install):
    """Print every problem and return how many there are."""
    checks = [home_problems, memory_problems]
    if install:
        checks = [python_problems, compiler_problems, disk_problems, *checks]
    problems = [problem for check in checks for problem in check()]
    for problem in problems:
        print(f"make: {problem}", file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main("--install" in sys.argv[1:]) > 0)
