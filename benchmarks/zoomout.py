"""What pooling by one sparse matrix saves against up-sampling every map and looping over the superpixels.

    python benchmarks/zoomout.py [--repeats 3] [--sizes toy voc]     # voc takes a minute or two a repeat

Both pool the same maps of one image, noise over a smooth picture, with random features of VGG-16's shapes; the network
and SLIC are not counted. The ratios go to `results/benchmarks/zoomout.json`, with the load that the machine had before.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor

from wsseg_core.base.config import ZoomOutConfig
from wsseg_core.base.files import write_json
from wsseg_core.data.transforms import unpad
from wsseg_core.forward.zoom_out import pooling_matrix, superpixels
from wsseg_core.nets.vgg import CHANNELS_PER_WIDTH, CONVS_PER_BLOCK

# Side of the image, side of the network's input, superpixels asked for, channels of block 1.
SIZES = {"toy": (160, 128, 100, 16), "voc": (500, 500, 300, 64)}
Pooling: TypeAlias = Callable[[list[list[Tensor]], np.ndarray], np.ndarray]
RESULT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "zoomout.json"


def picture(size: int) -> np.ndarray:
    """A smooth colour image with noise, three quarters as high as wide: uint8 (H, W, 3)."""
    rng = np.random.default_rng([0, size])
    shape = size * 3 // 4, size
    smooth = cv2.resize(rng.uniform(0, 255, (8, 8, 3)).astype(np.float32), shape[::-1])
    return (smooth + rng.normal(0, 8, (*shape, 3))).clip(0, 255).astype(np.uint8)


def blocks(size: int, width: int) -> list[list[Tensor]]:
    """Maps of the convolutions of each block of VGG-16, float32 (channels, h, h) in channels-last."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, size >> block - 1, width * CHANNELS_PER_WIDTH[block]) for block, count in CONVS_PER_BLOCK.items()]
    return [
        [torch.rand(h, h, channels, generator=generator).permute(2, 0, 1) for _ in range(count)]
        for count, h, channels in shapes
    ]


def sparse_pooling(maps: list[list[Tensor]], segments: np.ndarray) -> np.ndarray:
    """As `zoom_out_features` does it, the making of the matrices included."""
    pooled = []
    for block in maps:
        matrix = pooling_matrix(segments, tuple(block[0].shape[1:]))
        pooled += [matrix @ layer.permute(1, 2, 0).flatten(0, 1).numpy() for layer in block]
    return np.concatenate(pooled, axis=1)


def loop_pooling(maps: list[list[Tensor]], segments: np.ndarray) -> np.ndarray:
    """Up-sample each map, and average it over the mask of one superpixel after the other."""
    masks = [torch.from_numpy(segments == number) for number in range(segments.max() + 1)]
    pooled = []
    for layer in (layer for block in maps for layer in block):
        large = unpad(layer, segments.shape)
        pooled.append(torch.stack([large[:, mask].mean(1) for mask in masks]).numpy())
    return np.concatenate(pooled, axis=1)


def timed(pool: Pooling, maps: list[list[Tensor]], segments: np.ndarray) -> tuple[float, np.ndarray]:
    """Wall time of one call, and its features."""
    start = time.perf_counter()
    features = pool(maps, segments)
    return time.perf_counter() - start, features


def compare(name: str, repeats: int) -> dict[str, float]:
    """Median seconds of both, measured in turn so that they meet the same load, and how far they are apart."""
    image_size, input_size, count, width = SIZES[name]
    segments = superpixels(picture(image_size), ZoomOutConfig(superpixels=count))
    maps = blocks(input_size, width)
    rounds = [(*timed(sparse_pooling, maps, segments), *timed(loop_pooling, maps, segments)) for _ in range(repeats)]
    fast, slow = (statistics.median(row[column] for row in rounds) for column in (0, 2))
    difference = max(float(np.abs(row[1] - row[3]).max()) for row in rounds)
    found = {"superpixels": int(segments.max()) + 1, "difference": difference}
    return found | {"sparse_s": fast, "loop_s": slow, "ratio": slow / fast}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="of the profiles to measure")
    arguments = parser.parse_args()
    result: dict[str, object] = {"load_before": os.getloadavg()[0], "threads": torch.get_num_threads()}
    for name in arguments.sizes:
        result[name] = line = compare(name, arguments.repeats)
        print(f"{name}: {line['ratio']:.0f} times faster than the loop ({1000 * line['sparse_s']:.1f} ms an image)")
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
