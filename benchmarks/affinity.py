"""The random walk along pixel affinities: sparse, as here, against squaring the dense matrix, as PSA's code does.

    python benchmarks/affinity.py [--repeats 5] [--busy]

Grids of 28×28, 56×56 (a 448-pixel image at stride 8) and 112×112 positions, four maps, 256 steps, radius 5. Ours is
measured with and without building its matrix from the affinities; dense is the walk alone, once, and at 112 not at all:
a matrix has 630 MB there, and its eight squarings are 3·10¹³ operations. Peak memory is that of a process of its own
that does nothing else, less what it holds before. Where other programs hold the cores, wall time says little; `--busy`
takes the CPU time of one thread instead. Results go to `results/benchmarks/affinity.json`, and a picture beside it.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from wsseg_core.affinity.random_walk import BETA, RADIUS, STEPS, affinities, random_walk, transition_matrix
from wsseg_core.base.files import write_json

SIDES, DENSE_SIDES = (28, 56, 112), (28, 56)
GOAL_SIDE, GOAL = 56, 100.0
MAPS, CHANNELS = 4, 64
DOUBLINGS = STEPS.bit_length() - 1
RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "affinity.json"


def scene(side: int) -> tuple[Tensor, Tensor]:
    """Features that differ from pixel to pixel, and maps: float32 (D, side, side), (K, side, side)."""
    generator = torch.Generator().manual_seed(side)
    features = torch.randn(CHANNELS, side, side, generator=generator)
    return features, torch.rand(MAPS, side, side, generator=generator)


def build(affinity: Tensor, side: int) -> Tensor:
    return transition_matrix(affinity, side, side, RADIUS, BETA)


def dense_walk(transition: Tensor, maps: Tensor) -> Tensor:
    for _ in range(DOUBLINGS):
        transition = transition @ transition
    return (maps.flatten(1) @ transition).view_as(maps)


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: CPU time where there is only one thread, else wall time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def measure(side: int, repeats: int) -> dict[str, float]:
    """Seconds of each part, the ratio to dense and the largest difference from it where dense is measured."""
    features, maps = scene(side)
    affinity = affinities(features)
    transition = build(affinity, side)
    parts = {
        "affinities_s": lambda: affinities(features),
        "matrix_s": lambda: build(affinity, side),
        "walk_s": lambda: random_walk(transition, maps),
    }
    row = {name: statistics.median(seconds(work) for _ in range(repeats + 1)) for name, work in parts.items()}
    if side in DENSE_SIDES:
        dense, walked = transition.to_dense(), []
        row["dense_walk_s"] = seconds(lambda: walked.append(dense_walk(dense, maps)))
        row["ratio"] = row["dense_walk_s"] / row["walk_s"]
        row["ratio_with_matrix"] = row["dense_walk_s"] / (row["matrix_s"] + row["walk_s"])
        row["largest_difference"] = (walked[0] - random_walk(transition, maps)).abs().max().item()
    return row


def memory_of_both(side: int, busy: bool) -> dict[str, float]:
    memory = {"memory_mib": peak_memory(side, "ours", busy)}
    return memory | ({"dense_memory_mib": peak_memory(side, "dense", busy)} if side in DENSE_SIDES else {})


def peak_memory(side: int, contender: str, busy: bool) -> float:
    """MiB that matrix and walk add to a process of their own."""
    command = [sys.executable, __file__, "--memory-of", contender, "--side", str(side), *["--busy"] * busy]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(side: int, contender: str) -> None:
    features, maps = scene(side)
    affinity = affinities(features[:1])  # one channel, whose differences leave no higher peak behind
    random_walk(build(affinities(features[:, :8, :8]), 8), maps[:, :8, :8])  # libraries load on first use
    ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed, or the walk would fill it unseen
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what was done so far
    before = memory_kib("VmRSS")
    transition = build(affinity, side)
    if contender == "dense":
        dense_walk(transition.to_dense(), maps)
    else:
        random_walk(transition, maps)
    print((memory_kib("VmHWM") - before) / 2**10)


def memory_kib(kind: str) -> int:
    """KiB that this process holds (VmRSS), or held at most (VmHWM); Linux only."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{kind}:"))


def report(grids: dict[str, dict[str, float]]) -> None:
    for side, row in grids.items():
        print(
            f"{side:>3}×{side:<3} affinities {1e3 * row['affinities_s']:5.1f} ms, matrix {1e3 * row['matrix_s']:5.1f} "
            f"ms, walk {1e3 * row['walk_s']:5.1f} ms, {row['memory_mib']:4.1f} MiB",
            end="",
        )
        if "ratio" in row:
            print(
                f"; dense {row['dense_walk_s']:.2f} s, {row['dense_memory_mib']:.0f} MiB: {row['ratio']:.0f} times "
                f"slower ({row['ratio_with_matrix']:.0f} with the matrix counted)",
                end="",
            )
        print()
    print(f"goal at {GOAL_SIDE}×{GOAL_SIDE}: {GOAL:.0f} times")


def draw(grids: dict[str, dict[str, float]]) -> None:
    """Time and memory against the side of the grid, on logarithmic scales, ours and dense."""
    sides = {name: [side for side, row in grids.items() if name in row] for name in ("walk_s", "dense_walk_s")}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    panels = {"seconds": ("walk_s", "dense_walk_s"), "MiB": ("memory_mib", "dense_memory_mib")}
    for panel, (unit, names) in zip(axes, panels.items(), strict=True):
        for name, of, label in zip(names, sides.values(), ("sparse walk", "dense squaring"), strict=True):
            panel.plot([int(side) for side in of], [grids[side][name] for side in of], "o-", label=label)
        panel.set(xlabel="side of the grid, positions", ylabel=unit, xscale="log", yscale="log")
        panel.set_xticks(SIDES, [str(side) for side in SIDES])
        panel.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(RESULT.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="repeats of ours; the median counts")
    parser.add_argument("--busy", action="store_true", help="one thread, CPU time")
    parser.add_argument("--memory-of", choices=("ours", "dense"), help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=GOAL_SIDE, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.busy:
        torch.set_num_threads(1)
    if arguments.memory_of:
        print_peak_memory(arguments.side, arguments.memory_of)
        return
    load = os.getloadavg()[0]
    grids = {str(side): measure(side, arguments.repeats) | memory_of_both(side, arguments.busy) for side in SIDES}
    settings = {"maps": MAPS, "steps": STEPS, "radius": RADIUS, "threads": torch.get_num_threads()}
    write_json(RESULT, {"load_before": load, **settings, "goal": GOAL, "grids": grids})
    report(grids)
    draw(grids)


if __name__ == "__main__":
    main()
