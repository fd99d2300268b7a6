"""A finished run as one file, for a class: what its notebooks left, so that they open elsewhere without any training.

The file is a tar archive. Its first member lists every other with its checksum, and says which code and which values of
the profile made them: under others, the stages would not trust what they find and begin anew.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wsseg_core.base.dependencies import code_fingerprint, notebook_modules
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain
from wsseg_core.classify.features import features_folder
from wsseg_core.data.run import Run, notebook_sources, open_run, project_root

MANIFEST = "manifest.json"
LEFT_OUT = {"reference", "profile.txt"}  # tracked in every copy of the workbook; the place of a profile in this one
MANIFEST_KEYS = {"profile", "seed", "values", "code", "commit", "files"}
SHOWN_ONLY = {"evaluate", "workbook"}  # rooms that train nothing


def pack(run: Run, path: Path) -> int:
    """Write a run into one file; drawn scenes and the features of a frozen trunk go with it, photographs do not.

    Args:
        run: all of its notebooks have run.
        path: of the file, a `.tar.gz`.

    Returns:
        How many files are in it.

    Raises:
        WorkbookError: a notebook has not run yet, or the file cannot be written.
    """
    if not path.name or path.is_dir():
        raise WorkbookError(f"{path}: is a folder; give the file to write, as wsseg-{run.profile.name}.tar.gz")
    missing = [source.stem for source in notebook_sources(project_root()) if not _executed(run, source).is_file()]
    if missing:
        raise WorkbookError(
            f"{run.folder}: {', '.join(missing)} not run yet; run: wsseg run --profile {run.profile.name}"
        )
    files = dict(_files(run))
    sums = {name: _checksum(file) for name, file in tqdm(files.items(), desc="checksums", mininterval=1.0)}
    manifest = _maker(run) | {"commit": _commit(), "files": sums}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with tarfile.open(temporary, "w:gz", compresslevel=1) as archive:
            content = json.dumps(manifest).encode()
            header = tarfile.TarInfo(MANIFEST)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
            for name, file in tqdm(files.items(), desc="packing", mininterval=1.0):
                archive.add(file, name, recursive=False)
        os.replace(temporary, path)
    except OSError as error:
        raise WorkbookError(
            f"{path}: cannot be written ({error.strerror}); free disk space or name another file with --out"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(files)


def unpack(path: Path, results: str = "results", profile: str = "") -> Run:
    """Put a packed run where this workbook looks for it; it appears there only when all of it is whole.

    Args:
        path: what `pack` wrote.
        results: folder of all results, relative to the workbook's.
        profile: the TOML file of a profile of one's own; that of the workbook that the pack names when left out.

    Returns:
        The run.

    Raises:
        WorkbookError: the file is no pack, or damaged; it was made with other code or other values of the profile;
            there is a run already; or the folder cannot be written.
    """
    manifest = _read_manifest(path)
    run = open_run(profile or manifest["profile"], manifest["seed"], results)
    _check_maker(path, manifest, _maker(run))
    if _occupied(run.folder):
        raise WorkbookError(f"{run.folder}: there is a run already; move it away or choose another folder: --results")
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=run.folder) as temporary:
            whole = Path(temporary)
            _extract(path, whole)
            _check_files(path, whole, manifest["files"])
            for prefix, folder in _shared(run).items():
                if (whole / prefix).exists() and not folder.exists():
                    shutil.move(whole / prefix, folder)
            for part in (whole / "run").iterdir():
                os.replace(part, run.folder / part.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkbookError(f"{run.folder}: cannot be written ({reason}); see to the folder and the disk") from None
    return run


def _occupied(folder: Path) -> bool:
    """Whether a notebook has left anything there, be it only figures."""
    return any(part.name not in LEFT_OUT and not part.name.startswith(".") for part in folder.glob("*"))


def _files(run: Run) -> Iterator[tuple[str, Path]]:
    """Every file that goes along, by its name in the pack."""
    for prefix, folder in ({"run": run.folder} | _shared(run)).items():
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            passing = any(part.startswith(".") for part in inside.parts) or ".failed." in file.name
            if file.is_file() and not passing and inside.parts[0] not in LEFT_OUT:
                yield f"{prefix}/{inside.as_posix()}", file


def _shared(run: Run) -> dict[str, Path]:
    """What lies outside of the run's folder, because other runs read it too, by its name in the pack."""
    scenes = {"data": project_root() / run.profile.data.devkit} if run.profile.data.source == "toyvoc" else {}
    return {"features": features_folder(run)} | scenes


def _executed(run: Run, source: Path) -> Path:
    return run.folder / "notebooks" / source.name


def _maker(run: Run) -> dict[str, Any]:
    """What the artifacts of a run depend on, as JSON gives it back."""
    names = {name for source in notebook_sources(project_root()) for name in notebook_modules(source)}
    learning = [name for name in names if "." in name and name.split(".")[1] not in SHOWN_ONLY]
    values = plain(asdict(run.profile))
    return {"profile": run.profile.name, "seed": run.seed, "values": values, "code": code_fingerprint(learning)}


def _commit() -> str:
    """Where the code is to be had; empty where it is in no repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, cwd=project_root(), capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            if first is None or first.name != MANIFEST or (file := archive.extractfile(first)) is None:
                raise tarfile.TarError("no manifest")
            manifest = json.loads(file.read())
            if not isinstance(manifest, dict) or not manifest.keys() >= MANIFEST_KEYS:
                raise tarfile.TarError("another manifest")
            return manifest
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError):
        raise WorkbookError(f"{path}: missing, damaged, or not made by `wsseg pack`; fetch it again") from None


def _check_maker(path: Path, packed: dict[str, Any], here: dict[str, Any]) -> None:
    if packed["code"] != here["code"]:
        origin = f"take commit {packed['commit']} of the workbook" if packed["commit"] else "take its own workbook"
        raise WorkbookError(f"{path}: made with another version of the code; {origin}, or pack again with this one")
    changed = [name for name, values in here["values"].items() if packed["values"].get(name) != values]
    if changed:
        raise WorkbookError(
            f"{path}: made with other values of {', '.join(changed)} in the profile {packed['profile']}; take the "
            f"profile that it was made with, or pack again with this one"
        )


def _extract(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path) as archive:
            members = tqdm(archive, desc=f"unpacking {path.name}", unit=" files", mininterval=1.0)
            archive.extractall(folder, members=members, filter="data")  # refuses paths that lead out
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise WorkbookError(f"{path}: cannot be unpacked ({reason}); fetch it again, and check the disk") from None


def _check_files(path: Path, folder: Path, sums: dict[str, str]) -> None:
    for name, wanted in tqdm(sums.items(), desc="checksums", mininterval=1.0):
        file = folder / name
        if not file.is_file() or _checksum(file) != wanted:
            raise WorkbookError(f"{path}: {name} in it is missing or damaged; fetch the file again")


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
