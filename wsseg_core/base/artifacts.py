"""Arrays on disk, one file an image, with the settings that made them.

A store is a folder: `settings.json` says which notebook made it and under which settings, and every image has
one safetensors file named after its id; where it holds whole numbers alone, such as a mask, it is compressed with gzip,
to about a fiftieth. Files are written beside their place and moved there, so a file that exists under its own name is
whole; a killed run finds what it had and computes only what is missing.
"""

import gzip
import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically, write_json

SETTINGS_FILE = "settings.json"
WHOLE_NUMBERS = "biu"  # kinds of dtypes; maps of fractions would hardly shrink
GZIP = b"\x1f\x8b"  # how its files begin, and those of safetensors cannot
DAMAGES = (OSError, EOFError, zlib.error, SafetensorError)


@dataclass(frozen=True)
class ArtifactStore:
    """Per-image arrays of one stage.

    Use `create` in the stage that makes them and `open` in the stages that read them.

    Attributes:
        folder: where they lie; stores of one folder are the same store.
        record: `made_by`, the notebook, and `settings`, what their content depends on.
    """

    folder: Path
    record: Mapping[str, Any] = field(compare=False)

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any], made_by: str) -> "ArtifactStore":
        """Open a store for writing; one made under other settings is emptied first.

        Args:
            folder: where it lies.
            settings: everything that its content depends on, as JSON values.
            made_by: name of the notebook, told to whoever misses the store.

        Raises:
            WorkbookError: the folder cannot be emptied or written.
        """
        record = {"made_by": made_by, "settings": plain(settings)}
        old = _read_record(folder)
        if old != record:
            _empty(folder)
            write_json(folder / SETTINGS_FILE, record)
        return cls(folder, record)

    @classmethod
    def open(cls, folder: Path, made_by: str, settings: Mapping[str, Any] | None = None) -> "ArtifactStore":
        """Open a store for reading.

        Args:
            folder: where it lies.
            made_by: name of the notebook that makes it.
            settings: what the reader counts on; only the keys given here are compared.

        Raises:
            WorkbookError: there is no store here, or it was made under other settings (both values are named).
        """
        record = _read_record(folder)
        if record is None:
            raise WorkbookError(f"{folder}: missing; run notebook {made_by} first")
        for key, wanted in plain(settings or {}).items():
            found = record["settings"].get(key)
            if found != wanted:
                raise WorkbookError(
                    f"{folder}: made with {_difference(key, found, wanted)}; run notebook {made_by} again"
                )
        return cls(folder, record)

    def path(self, image_id: str) -> Path:
        """File of one image."""
        return self.folder / f"{image_id}.safetensors"

    def has(self, image_id: str) -> bool:
        """Whether the image's file is there and whole."""
        try:
            if _is_compressed(self.path(image_id)):
                self._read(image_id)
                return True
            with safe_open(self.path(image_id), "numpy"):  # reads the header only, and compares the length
                return True
        except DAMAGES:
            return False

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """The ids that have no whole file yet, in the order given."""
        return [image_id for image_id in image_ids if not self.has(image_id)]

    def save(self, image_id: str, **arrays: np.ndarray) -> None:
        """Write the arrays of one image."""
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        if all(array.dtype.kind in WHOLE_NUMBERS for array in arrays.values()):
            content = gzip.compress(content, compresslevel=1, mtime=0)
        write_atomically(self.path(image_id), content)

    def load(self, image_id: str) -> dict[str, np.ndarray]:
        """Read the arrays of one image.

        Raises:
            WorkbookError: the file is missing or cut short.
        """
        try:
            return self._read(image_id)
        except DAMAGES:
            raise WorkbookError(
                f"{self.path(image_id)}: missing or damaged; run notebook {self.record['made_by']} again"
            ) from None

    def _read(self, image_id: str) -> dict[str, np.ndarray]:
        content = self.path(image_id).read_bytes()
        return load(gzip.decompress(content) if content.startswith(GZIP) else content)


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _empty(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkbookError(f"{folder}: cannot be emptied ({reason}); make it writable, then run again") from None


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _difference(key: str, found: Any, wanted: Any) -> str:
    """Name the innermost value that differs, so that the message stays one readable line."""
    while isinstance(found, dict) and isinstance(wanted, dict):
        inner = next(k for k in {**wanted, **found} if found.get(k) != wanted.get(k))
        key, found, wanted = f"{key}.{inner}", found.get(inner), wanted.get(inner)
    return f"{key} = {found!r}, but this run uses {wanted!r}"
