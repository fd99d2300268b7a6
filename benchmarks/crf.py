"""What the dense CRF saves by drawing only the labels it needs, and by using all cores.

    python benchmarks/crf.py [--images 24] [--repeats 3]

Both ratios are measured in one run, on noise over a smooth picture of 500×500 pixels, and go to
`results/benchmarks/crf.json`, with the load that the machine had before: on a busy one the second ratio says little.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from wsseg_core.base.config import CrfConfig
from wsseg_core.base.files import write_json
from wsseg_core.base.parallel import cpu_count, parallel_map
from wsseg_core.crf.dense import dense_crf

SIZE = 500
DRAWN_LABELS, ALL_LABELS = 3, 21  # background and two classes; background and the 20 of VOC
RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "crf.json"


def picture(labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth colour image with noise, and smooth class maps: uint8 (H, W, 3), float32 (labels, H, W)."""
    rng = np.random.default_rng([seed, labels])
    coarse = rng.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    image = cv2.resize(coarse, (SIZE, SIZE)) + rng.normal(0, 8, (SIZE, SIZE, 3))
    maps = [cv2.resize(rng.uniform(0, 1, (12, 12)).astype(np.float32), (SIZE, SIZE)) for _ in range(labels)]
    return image.clip(0, 255).astype(np.uint8), np.stack(maps)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def label_times(config: CrfConfig, repeats: int) -> tuple[float, float]:
    """Median seconds with the drawn labels and with all, measured in turn so that both meet the same load."""
    few, many = picture(DRAWN_LABELS, 0), picture(ALL_LABELS, 0)
    times = [
        (seconds(lambda: dense_crf(*few, config)), seconds(lambda: dense_crf(*many, config))) for _ in range(repeats)
    ]
    drawn, everything = zip(*times, strict=True)
    return statistics.median(drawn), statistics.median(everything)


def refined(pair: tuple[np.ndarray, np.ndarray], config: CrfConfig) -> np.ndarray:
    """The marginals of one picture."""
    return dense_crf(*pair, config)


def process_times(config: CrfConfig, images: int) -> tuple[float, float]:
    """Seconds for a set of images in this process and on all cores, the start of the processes included."""
    pairs = [picture(DRAWN_LABELS, seed) for seed in range(images)]
    work = partial(refined, config=config)

    def with_workers(workers: int) -> float:
        return seconds(lambda: list(parallel_map(work, pairs, description="dense CRF", workers=workers)))

    return with_workers(1), with_workers(cpu_count())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24, help="images shared among the processes")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the label measurement")
    arguments = parser.parse_args()
    config = CrfConfig()
    load = os.getloadavg()[0]
    drawn, everything = label_times(config, arguments.repeats)
    alone, together = process_times(config, arguments.images)
    result = {
        "load_before": load,
        "size": SIZE,
        "iterations": config.iterations,
        "labels": {"drawn": DRAWN_LABELS, "all": ALL_LABELS, "drawn_s": drawn, "all_s": everything},
        "labels_ratio": everything / drawn,
        "processes": {"images": arguments.images, "cores": cpu_count(), "one_s": alone, "all_cores_s": together},
        "processes_ratio": alone / together,
    }
    write_json(RESULT, result)
    print(f"{DRAWN_LABELS} labels instead of {ALL_LABELS}: {result['labels_ratio']:.2f} times faster ({drawn:.2f} s)")
    print(f"{cpu_count()} cores instead of 1: {result['processes_ratio']:.2f} times faster, {arguments.images} images")


if __name__ == "__main__":
    main()
