"""All candidate maps of one image against one guided backward pass a class, as two other libraries do it.

    python benchmarks/saliency.py [--repeats 5] [--size 500] [--width 64] [--busy]

Ours: VGG-16 at 500×500 pixels, three classes, guided gradients at the nine convolutions of blocks 3-5, in one forward
and one backward pass. Theirs: Captum's `GuidedBackprop` and grad-cam's guided model, one forward and one backward pass
down to the image for each class. Everything is measured in turn within a round, so that all meet the same load, and
each figure is the median over the rounds. The share of the peak compares the convolution FLOPs of ours a second with
those of the fastest 3×3 convolution of VGG's shapes in the same round. Where other programs hold the cores, wall time
says little; `--busy` takes the CPU time of one thread instead. Results go to `results/benchmarks/saliency.json`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop
from pytorch_grad_cam import GuidedBackpropReLUModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wsseg_core.base.files import write_json
from wsseg_core.nets.vgg import CONV_LAYERS, FcnVgg16
from wsseg_core.saliency.gradients import PRECISIONS, prepare, saliency_maps

CLASSES = (1, 5, 9)
LAYERS = [name for block in (3, 4, 5) for name in CONV_LAYERS[block]]
MEMORY_SIZE, MEMORY_GOAL_GIB = 600, 6.0
RATIO_GOALS = {"float32": 2.5, "bfloat16": 5.0}
SHARE_GOAL = 0.8
PEAK_SHAPES = ((1, 128, 250), (3, 256, 125), (3, 512, 62), (1, 512, 62), (3, 512, 31))  # images, channels, side
RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "saliency.json"


class SummedScores(nn.Module):
    """Scores (B, C) whose gradient at the score map is the signal of DCSM: 1 at every position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).sum((2, 3))


def network(width: int) -> FcnVgg16:
    torch.manual_seed(0)
    return FcnVgg16(20, width=width, fc_channels=64 * width).eval().requires_grad_(False)


def ours(model: nn.Module, image: Tensor, layers: list[str] = LAYERS) -> dict[str, Tensor]:
    return saliency_maps(model, image, torch.tensor([CLASSES]), layers)


def captum(model: nn.Module, image: Tensor) -> Tensor:
    guided = GuidedBackprop(SummedScores(model))
    return torch.cat([guided.attribute(image.clone().requires_grad_(), target=c).abs().amax(1) for c in CLASSES])


def grad_cam(model: nn.Module, image: Tensor) -> Tensor:
    guided = GuidedBackpropReLUModel(SummedScores(model), "cpu")
    return torch.stack([torch.from_numpy(guided(image.clone(), c)).abs().amax(2) for c in CLASSES])


def for_grad_cam(width: int) -> nn.Sequential:
    """The same network in a form that survives grad-cam's putting one module in the place of all ReLUs."""
    return nn.Sequential(*network(width).children())


def largest_difference(width: int) -> dict[str, float]:
    """How far the others are from ours where both compute the same: guided gradients at a small image."""
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    expected = ours(prepare(network(width)), image, ["input"])["input"][0]  # (K, H, W)
    found = {"captum": captum(network(width), image), "grad_cam": grad_cam(for_grad_cam(width), image)}
    return {name: ((maps - expected).abs().max() / expected.max()).item() for name, maps in found.items()}


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: CPU time where there is only one thread, else wall time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def peak(dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest 3×3 convolution."""
    best = 0.0
    for images, channels, side in PEAK_SHAPES:
        x = torch.randn(images, channels, side, side).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
        work = 2 * 9 * channels**2 * side**2 * images
        best = max(best, *(work / seconds(lambda x=x, w=weight: F.conv2d(x, w, padding=1)) for _ in range(4)))
    return best


def measure(size: int, width: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender and FLOPs a second of the peak, one number a round."""
    image, model = torch.randn(1, 3, size, size), network(width)
    prepared = {name: prepare(model, name) for name in PRECISIONS}
    replaced = for_grad_cam(width)
    work = {name: lambda name=name: ours(prepared[name], image) for name in PRECISIONS}
    work |= {"captum": lambda: captum(model, image), "grad_cam": lambda: grad_cam(replaced, image)}
    rounds: dict[str, list[float]] = {name: [] for name in (*work, *(f"peak_{p}" for p in PRECISIONS))}
    for _ in range(repeats + 1):
        for name, call in work.items():
            rounds[name].append(seconds(call))
        for name, dtype in PRECISIONS.items():
            rounds[f"peak_{name}"].append(peak(dtype))
    return {name: values[1:] for name, values in rounds.items()}  # the first round warms up


def convolution_flops(size: int, width: int) -> int:
    """FLOPs of one forward and one batched backward pass, padding counted as oneDNN's users count it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours(prepare(network(width)), torch.randn(1, 3, size, size))
    return counter.get_total_flops()


def peak_memory(size: int, width: int, precision: str) -> float:
    """GiB that a process of its own needs for one image, the network and the libraries included."""
    command = [sys.executable, __file__, "--memory-of", precision, "--size", str(size), "--width", str(width)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak_memory(size: int, width: int, precision: str) -> None:
    ours(prepare(network(width), precision), torch.randn(1, 3, size, size))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def summarise(rounds: dict[str, list[float]], flops: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds, for each precision."""
    result = {}
    for name in PRECISIONS:
        rows = zip(rounds[name], rounds["captum"], rounds["grad_cam"], rounds[f"peak_{name}"], strict=True)
        ratios = [(c / own, g / own, flops / own / best, best) for own, c, g, best in rows]
        captum_ratio, grad_cam_ratio, share, best = map(statistics.median, zip(*ratios, strict=True))
        result[name] = {
            "seconds": statistics.median(rounds[name]),
            "captum_ratio": captum_ratio,
            "grad_cam_ratio": grad_cam_ratio,
            "peak_gflops": best / 1e9,
            "share_of_peak": share,
        }
    return result


def report(result: dict) -> None:
    print(f"largest difference from ours at the image: {result['largest_difference']}")
    print(f"Captum {result['captum_seconds']:.2f} s, grad-cam {result['grad_cam_seconds']:.2f} s in float32")
    for name in PRECISIONS:
        row = result[name]
        print(
            f"{name:9} {row['seconds']:.2f} s: {row['captum_ratio']:.2f} times as fast as Captum, "
            f"{row['grad_cam_ratio']:.2f} times as grad-cam (goal {RATIO_GOALS[name]}); "
            f"{100 * row['share_of_peak']:.0f} % of the peak of {row['peak_gflops']:.0f} GFLOP/s (goal "
            f"{100 * SHARE_GOAL:.0f} %); {row['memory_gib']:.2f} GiB at {MEMORY_SIZE} pixels (goal {MEMORY_GOAL_GIB})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--size", type=int, default=500, help="side of the image in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels of VGG's first block")
    parser.add_argument("--busy", action="store_true", help="CPU time of one thread, for a machine with other work")
    parser.add_argument("--memory-of", choices=PRECISIONS, help="only print the peak memory of one image, in GiB")
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_peak_memory(arguments.size, arguments.width, arguments.memory_of)
        return
    warnings.filterwarnings("ignore", "Setting backward hooks")
    if arguments.busy:
        torch.set_num_threads(1)
    result: dict = {"load_before": os.getloadavg()[0], "threads": torch.get_num_threads()}
    result |= {"size": arguments.size, "width": arguments.width, "classes": len(CLASSES)}
    # First of all, while this process is small: on Linux a child's peak begins at the memory of its parent.
    memory = {name: peak_memory(MEMORY_SIZE, arguments.width, name) for name in PRECISIONS}
    result["largest_difference"] = largest_difference(arguments.width)
    if max(result["largest_difference"].values()) > 1e-3:
        sys.exit(f"the libraries do not compute the same: {result['largest_difference']}")
    flops = convolution_flops(arguments.size, arguments.width)
    rounds = measure(arguments.size, arguments.width, arguments.repeats)
    result |= {f"{name}_seconds": statistics.median(rounds[name]) for name in ("captum", "grad_cam")}
    result |= summarise(rounds, flops) | {"gflop": flops / 1e9, "rounds": rounds}
    for name in PRECISIONS:
        result[name]["memory_gib"] = memory[name]
    write_json(RESULT, result)
    report(result)


if __name__ == "__main__":
    main()
