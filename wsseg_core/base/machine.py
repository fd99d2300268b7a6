"""What a time was measured on."""

import platform
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
