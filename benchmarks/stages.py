"""How much of the machine's convolution peak the stages of a profile reach.

    python benchmarks/stages.py [--profile toy] [--repeats 5] [--busy]

One image, or one step of a training, of each stage that computes convolutions, with the networks, sizes and batches of
the profile, on random pixels: its seconds (median of the rounds), the GFLOP that are in it, and their rate as a share
of that of the fastest 3×3 convolution of VGG's shapes, measured in the same round. Reading from disk, optimisers and
dense CRFs are left out; of those `report.py` has the cells of a finished run. Where other programs hold the cores,
`--busy` takes the CPU time of one thread. Results go to `results/benchmarks/stages.json`.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from saliency import peak, seconds
from torch.utils.flop_counter import FlopCounterMode

from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.files import write_json
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.toy.objects import CLASSES
from wsseg_core.nets.affinity import AffinityNet
from wsseg_core.nets.backbones import FrozenBackbone, outline_of
from wsseg_core.nets.dynamic import DynamicNet
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.segmentation import resize_masks, segmentation_loss
from wsseg_core.nets.static import StaticNet
from wsseg_core.refine.difference import Biases
from wsseg_core.refine.dynamic_step import DynamicSetting, DynamicStep
from wsseg_core.refine.static_stage import static_loss
from wsseg_core.saliency.extraction import layer_groups
from wsseg_core.saliency.gradients import prepare, saliency_maps
from wsseg_core.segment.retraining import segmentation_net

RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "stages.json"


class NoCrf:
    """A pool that gives the background at once, so that a dynamic step is timed without its CRFs."""

    def submit(self, image: object, probabilities: object) -> Callable[[], object]:
        return lambda: probabilities[0].astype("uint8")  # type: ignore[index]


def stages(profile: Profile) -> dict[str, Callable[[], object]]:
    """One call of each stage, by what it is called in tables."""
    classifier = new_classifier(profile.classifier, len(CLASSES), 0).eval().requires_grad_(False)
    trunk, side, batch = fold_batch_norm(classifier), profile.segmentation.crop, profile.segmentation.batch_size
    channels_last = {"memory_format": torch.channels_last}
    images = torch.randn(batch, 3, side, side).to(**channels_last)
    backbone = FrozenBackbone(trunk.to(**channels_last), outline_of(classifier).taps)
    maps = backbone(images)
    named = [name for group in layer_groups(profile) for name in group]
    saliency, sizes = prepare(trunk, profile.saliency.precision), profile.saliency
    few = torch.randn(sizes.batch_size, 3, max(sizes.sizes), max(sizes.sizes))
    classes = torch.arange(sizes.max_classes).repeat(sizes.batch_size, 1)
    affinity = AffinityNet(trunk, width=profile.affinity.width, frozen=profile.affinity.frozen_trunk)
    network = segmentation_net(profile.segmentation, len(CLASSES), classifier)
    masks = torch.randint(0, len(CLASSES) + 1, (batch, 2, side, side), dtype=torch.uint8)
    labels, difference = torch.ones(batch, len(CLASSES), dtype=torch.bool), profile.difference
    static = StaticNet(network, difference.channels, difference.stride)
    dynamic = DynamicStep(
        DynamicNet(network, difference.channels, 2, difference.stride),
        DynamicSetting("dynamic"),
        Biases(advice=0.4),
        NoCrf(),  # type: ignore[arg-type]
        crf_stride=profile.dynamic.crf_stride,
    )
    grid = network(maps).scores.shape[-2:]
    seen = [values[: profile.affinity.batch_size] for values in maps]
    return {
        "features of an image": lambda: backbone(images[:1]),
        f"saliency, {sizes.batch_size} images × {sizes.max_classes} classes": lambda: saliency_maps(
            saliency, few, classes, named
        ),
        "step of AffinityNet, without its pairs": lambda: affinity(seen).sum().backward(),
        "step of segmentation": lambda: segmentation_loss(
            network(maps).scores, resize_masks(masks[:, 0], grid)
        ).backward(),
        "step of the static stage": lambda: static_loss(static, (maps, masks, labels)).backward(),
        "step of the dynamic stage, without its CRFs": lambda: dynamic(images, masks[:, :1], labels, *maps).backward(),
    }


def flops(call: Callable[[], object]) -> int:
    """Of convolutions and matrix products, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="toy", help="one whose trunk is frozen")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--busy", action="store_true", help="CPU time of one thread, for a machine with other work")
    arguments = parser.parse_args()
    if arguments.busy:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    calls = stages(load_profile(arguments.profile))
    work = {name: flops(call) for name, call in calls.items()}  # warms up, too
    rounds: dict[str, list[float]] = {name: [] for name in (*calls, "peak")}
    for _ in range(arguments.repeats):
        for name, call in calls.items():
            rounds[name].append(seconds(call))
        rounds["peak"].append(peak(torch.float32))
    fastest = statistics.median(rounds["peak"])
    rows = {
        name: {
            "seconds": (taken := statistics.median(rounds[name])),
            "gflop": work[name] / 1e9,
            "share_of_peak": work[name] / taken / fastest,
        }
        for name in calls
    }
    threads = {"load_before": os.getloadavg()[0], "threads": torch.get_num_threads(), "profile": arguments.profile}
    write_json(RESULT, threads | {"peak_gflops": fastest / 1e9, "stages": rows})
    print(f"peak {fastest / 1e9:.0f} GFLOP/s, {threads['threads']} threads")
    for name, row in rows.items():
        print(f"{name:48} {row['seconds']:.3f} s  {row['gflop']:6.1f} GFLOP  {100 * row['share_of_peak']:3.0f} %")


if __name__ == "__main__":
    main()
