"""What it saves to train small networks beside each other, one on each core, and not one after the other on all.

    python benchmarks/side_by_side.py [--profile toy] [--networks 4] [--steps 200] [--repeats 1]

Segmentation networks over a frozen trunk, with the sizes and batches of the profile, on random features and masks. Both
ways are measured in turn in one run; the start of the processes is in the time of the second. Results go to
`results/benchmarks/side_by_side.json`, with the load that the machine had before.
"""

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from wsseg_core.base.config import Profile, load_profile
from wsseg_core.base.files import write_json
from wsseg_core.base.parallel import cpu_count, side_by_side
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.toy.objects import CLASSES
from wsseg_core.nets.segmentation import resize_masks, segmentation_loss
from wsseg_core.segment.retraining import segmentation_net

RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "side_by_side.json"


def train(seed: int, profile: Profile, steps: int) -> float:
    """The last loss of a training."""
    torch.manual_seed(seed)
    config = profile.segmentation
    classifier = new_classifier(profile.classifier, len(CLASSES), 0).eval().requires_grad_(False)
    network = segmentation_net(config, len(CLASSES), classifier)
    with torch.no_grad():
        maps = network.encoder.backbone(torch.randn(config.batch_size, 3, config.crop, config.crop))
        grid = network(maps).scores.shape[-2:]
    masks = torch.randint(0, len(CLASSES) + 1, (config.batch_size, config.crop, config.crop), dtype=torch.uint8)
    targets, optimizer = resize_masks(masks, grid), torch.optim.AdamW(network.head.parameters(), config.learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = segmentation_loss(network(maps).scores, targets)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def seconds(workers: int | None, profile: Profile, networks: int, steps: int) -> float:
    """Wall time of all trainings."""
    start = time.perf_counter()
    work = partial(train, profile=profile, steps=steps)
    side_by_side(work, range(networks), description=f"{workers or cpu_count()} at a time", workers=workers)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="toy", help="one whose trunk is frozen")
    parser.add_argument("--networks", type=int, default=4, help="how many are trained")
    parser.add_argument("--steps", type=int, default=200, help="of each training; 30 are too few to gain")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    arguments = parser.parse_args()
    load, profile = os.getloadavg()[0], load_profile(arguments.profile)
    ways: dict[str, list[float]] = {"one_after_the_other": [], "side_by_side": []}
    for _ in range(arguments.repeats):
        for name, workers in zip(ways, (1, None), strict=True):
            ways[name].append(seconds(workers, profile, arguments.networks, arguments.steps))
    times = {name: statistics.median(rounds) for name, rounds in ways.items()}
    ratio = times["one_after_the_other"] / times["side_by_side"]
    write_json(RESULT, {"load_before": load, "cores": cpu_count(), "seconds": times, "ratio": ratio})
    print(f"one after the other {times['one_after_the_other']:.1f} s, side by side {times['side_by_side']:.1f} s: "
          f"{ratio:.2f}× on {cpu_count()} cores")  # fmt: skip


if __name__ == "__main__":
    main()
