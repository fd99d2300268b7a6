"""Promises that the repository makes about itself."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from wsseg_core.base.dependencies import PACKAGE, parse_cell, read_cells
from wsseg_core.workbook.command_line import app, data_app
from wsseg_core.workbook.headless import RUN_PARAMETERS, check_parameters

ROOT = PACKAGE.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "teaching/README.md", *NOTEBOOKS, *SOLUTIONS]
LONGEST_CELL = 18  # lines; about 15 is the rule


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


@pytest.fixture(scope="module")
def conda() -> list[Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def locked_versions(python: str) -> dict[str, str]:
    """Versions of uv.lock for one Python; the lock has several where they depend on it."""
    here = {"python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux"}
    return {
        package["name"]: package["version"]
        for package in read_toml("uv.lock")["package"]
        if "version" in package
        and any(Marker(marker).evaluate(here) for marker in package.get("resolution-markers", ["python_version > '3'"]))
    }


def test_conda_users_get_the_locked_versions(conda: list[Any]) -> None:
    python = next(entry.removeprefix("python=") for entry in conda if str(entry).startswith("python="))
    pins = dict(line.split("==") for line in conda[-1]["pip"] if "==" in line)
    locked = locked_versions(python)
    wanted = [Requirement(line).name for line in read_toml("pyproject.toml")["project"]["dependencies"]]
    assert pins == {name: locked[name] for name in wanted}


def test_snakefile_orders_every_notebook() -> None:
    table = re.search(r"^UPSTREAM = (\{.*?^\})", (ROOT / "Snakefile").read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    upstream = ast.literal_eval(table[1])
    assert sorted(upstream) == [path.stem for path in NOTEBOOKS]
    for name, before in upstream.items():
        assert all(earlier < name for earlier in before)


@pytest.mark.parametrize("notebook", [*NOTEBOOKS, *SOLUTIONS], ids=lambda path: f"{path.parent.name}-{path.stem}")
class TestNotebook:
    def test_is_committed_without_outputs(self, notebook: Path) -> None:
        code = [cell for cell in read_cells(notebook) if cell["cell_type"] == "code"]
        assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"]] == []

    def test_takes_the_parameters_of_a_run(self, notebook: Path) -> None:
        check_parameters(notebook, RUN_PARAMETERS)

    def test_calls_the_package_and_defines_nothing(self, notebook: Path) -> None:
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        trees = [parse_cell(cell, notebook) for cell in read_cells(notebook) if cell["cell_type"] == "code"]
        assert not [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, definitions)]

    def test_has_short_cells(self, notebook: Path) -> None:
        code = [cell["source"] for cell in read_cells(notebook) if cell["cell_type"] == "code"]
        counted = [[line for line in source.splitlines() if not re.match("import |from ", line)] for source in code]
        assert [lines for lines in counted if len(lines) > LONGEST_CELL] == []

    def test_opens_with_a_title_and_what_it_aims_at(self, notebook: Path) -> None:
        first = read_cells(notebook)[0]
        assert first["cell_type"] == "markdown"
        assert re.match(r"# \S.*\n\n[A-Z*]", first["source"])


@pytest.mark.parametrize("document", PROSE, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_commands_in_prose_exist(document: Path) -> None:
    text = document.read_text()
    if document.suffix == ".ipynb":
        text = "\n".join(cell["source"] for cell in read_cells(document) if cell["cell_type"] == "markdown")
    quoted = "\n".join(re.findall(r"```.*?```|`[^`]+`|^    \S.*$", text, re.DOTALL | re.MULTILINE))
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z]+)", quoted)) <= set(targets)
    assert set(re.findall(r"\bwsseg ([a-z]+)", quoted)) <= {*command_names(app), "data"}
    assert set(re.findall(r"\bwsseg data ([a-z]+)", quoted)) <= command_names(data_app)


def command_names(typer_app: Any) -> set[str]:
    return {command.name or command.callback.__name__ for command in typer_app.registered_commands}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [("CXX", "no-such-g++", "g++"), ("PYTHON", "no-such-python", "install Python 3.11 to 3.13")],
)
def test_missing_tool_is_named_before_anything_is_installed(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    for name in ("Makefile", "pyproject.toml", "uv.lock", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    arguments = ["make", "test"] + ([f"PYTHON={value}"] if variable == "PYTHON" else [])
    result = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, variable: value}
    )
    lines = result.stderr.splitlines()
    assert result.returncode == 2
    assert lines[0].startswith("make: ")
    assert message in lines[0]
    assert len(lines) == 2  # the other one is make's own closing line
    assert not (tmp_path / ".venv").exists()


def test_every_place_names_the_same_pythons() -> None:
    low, high = re.findall(r"3\.(\d+)", read_toml("pyproject.toml")["project"]["requires-python"])
    supported = [f"3.{minor}" for minor in range(int(low), int(high))]
    for name in ("README.md", "CONTRIBUTING.md", "Makefile"):
        ranges = re.findall(r"Python (3\.\d+) to (3\.\d+)", (ROOT / name).read_text())
        assert set(ranges) == {(supported[0], supported[-1])}
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported


def test_entry_point_of_continuous_integration_is_executable() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_command_line_runs_from_any_folder_without_its_environment_being_named(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    command = shutil.copy(ROOT / "bin/wsseg", tmp_path / "bin/wsseg")
    missing = subprocess.run([command, "run"], cwd="/", capture_output=True, text=True)
    assert missing.returncode == 1
    assert missing.stderr == f"wsseg: {tmp_path}/.venv: not installed yet; run: make -C {tmp_path} install\n"
    installed = tmp_path / ".venv/bin/wsseg"
    installed.parent.mkdir(parents=True)
    installed.write_text("#!/bin/sh\nprintf '%s|' \"$@\"; pwd; exit 3\n")
    installed.chmod(0o755)
    done = subprocess.run([command, "run", "--profile", "my own.toml"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "run|--profile|my own.toml|/\n")


def test_another_build_of_pytorch_is_installed_with_the_locked_versions() -> None:
    def recipe(*arguments: str) -> str:
        command = ["make", "--always-make", "--dry-run", "install", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "sync --locked" in recipe()
    assert "torch-backend" not in recipe()
    assert recipe("TORCH=cpu").count("--torch-backend cpu --constraints .venv/locked.txt") == 2
    assert "uv sync" not in recipe("TORCH=cpu")


def test_binder_runs_what_its_notebooks_read_and_opens_them_with_that_profile() -> None:
    built = re.search(r"wsseg run --profile (\w+) --only 04", (ROOT / "binder/postBuild").read_text())
    assert built is not None
    assert f"WSSEG_PROFILE={built[1]}\n" in (ROOT / "binder/start").read_text()
    assert all(os.access(ROOT / "binder" / name, os.X_OK) for name in ("postBuild", "start"))


def test_pages_publish_everything_that_the_report_links_to() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]["report"]["steps"]
    copied = "".join(step.get("run", "") for step in steps)
    linked = set(re.findall(r'"\.\./(\w+)/', (PACKAGE / "workbook/templates/index.html").read_text()))
    assert linked == {"figures", "tables"}
    assert all(f"results/toy/{folder}" in copied for folder in linked | {"report"})
