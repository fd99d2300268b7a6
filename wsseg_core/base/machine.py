"""What a time was measured on, and the memory that something took."""

import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsseg_core.base.parallel import cpu_count

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of /proc/cpuinfo, x86 and Arm


def machine() -> dict[str, Any]:
    """Name of the processor, cores that this process may use, and whether it computes bfloat16 in hardware."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    facts = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", facts.get("features", "")).split())
    model = facts.get("model name") or platform.processor() or platform.machine()
    return {"model": model, "cores": cpu_count(), "bfloat16": bool(flags & BFLOAT16_FLAGS)}


def machine_text(facts: dict[str, Any] | None) -> str:
    """The same in words, for a caption."""
    if not facts:
        return "a machine that was not recorded"
    bfloat16 = "with" if facts["bfloat16"] else "without"
    return f"{facts['model']}, {facts['cores']} core{'s' * (facts['cores'] != 1)}, {bfloat16} bfloat16"


RARELY = 100  # times as long as a look takes until the next one


class PeakMemory:
    """Watches this process and all that it starts, while the block runs.

    Attributes:
        peak: bytes, the largest sum that was seen; pages that processes share count once. 0 where there is no /proc.
    """

    def __init__(self, every: float = 1.0) -> None:
        """Look once in so many seconds, or less often where looking takes long."""
        self.peak = 0
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            started = time.perf_counter()
            self.peak = max(self.peak, sum(map(_proportional_bytes, _process_tree(os.getpid()))))
            # The kernel walks all pages for it, and makes the process that it looks at wait.
            if self._ended.wait(max(self._every, RARELY * (time.perf_counter() - started))):
                return


def _process_tree(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            below = children.read_text(encoding="ascii").split()
        except OSError:  # it has just ended
            continue
        for child in below:
            yield from _process_tree(int(child))


def _proportional_bytes(process: int) -> int:
    """Memory of a process, each page divided by how many share it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
