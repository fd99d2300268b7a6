"""Files that are whole or not there."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsseg_core.base.errors import WorkbookError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content, or the new, and never a part.

    Raises:
        WorkbookError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        with suppress(OSError):
            temporary.unlink()
        raise WorkbookError(
            f"{path}: cannot be written ({reason}); free disk space or make the folder writable, then run again"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def plain(value: Any) -> Any:
    """The value as JSON would give it back: tuples become lists, keys become strings."""
    return json.loads(json.dumps(value))
