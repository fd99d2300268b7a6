import subprocess
import sys
import time

import pytest

from wsseg_core.base.machine import PeakMemory, machine, machine_text
from wsseg_core.base.parallel import cpu_count


def test_a_machine_has_a_name_and_cores() -> None:
    facts = machine()
    assert facts["model"]
    assert facts["cores"] == cpu_count()
    assert isinstance(facts["bfloat16"], bool)


def test_words_for_a_caption() -> None:
    facts = {"model": "Fast 3", "cores": 1, "bfloat16": False}
    assert machine_text(facts) == "Fast 3, 1 core, without bfloat16"
    assert machine_text({**facts, "cores": 2, "bfloat16": True}) == "Fast 3, 2 cores, with bfloat16"
    assert machine_text(None) == "a machine that was not recorded"


def test_memory_of_this_process_and_of_those_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 * 2**20
    with PeakMemory() as alone:
        pass
    hold = f"block = b'x' * {size}; print(len(block), flush=True); input()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with PeakMemory() as both:
            pass
        process.communicate("\n")
    assert both.peak - alone.peak >= 0.9 * size
    monkeypatch.setattr("wsseg_core.base.machine._process_tree", lambda process: [2**30])
    with PeakMemory() as nobody:
        pass
    assert nobody.peak == 0


def test_what_takes_long_to_look_at_is_looked_at_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr("wsseg_core.base.machine._process_tree", lambda process: [process])
    monkeypatch.setattr(
        "wsseg_core.base.machine._proportional_bytes", lambda _: looks.append(1) or time.sleep(0.05) or 7
    )
    with PeakMemory(every=0.001) as memory:
        time.sleep(0.3)
    assert (len(looks), memory.peak) == (1, 7)
