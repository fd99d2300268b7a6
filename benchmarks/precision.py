"""What bfloat16 costs: mean IoU of DCSM with CRF on the validation images in both precisions, and the time of each.

Needs a finished run: `wsseg run --profile toy`. Prints a table and writes results/benchmarks/precision.json.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from wsseg_core.base.files import write_json
from wsseg_core.classify.classifier import load_classifier
from wsseg_core.data.run import Run, open_run
from wsseg_core.evaluate.metrics import TEST_PROTOCOL, paired_bootstrap, score_masks
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.dcsm import segment_image
from wsseg_core.saliency.gradients import PRECISIONS, prepare


def score(run: Run, precision: str, ids: list[str]) -> tuple:
    """Scores and seconds an image of the whole way from image to mask."""
    model = prepare(fold_batch_norm(load_classifier(run)), precision)
    start = time.perf_counter()
    masks: dict[str, np.ndarray] = {i: segment_image(model, run.devkit.image(i), run.profile) for i in ids}
    seconds = (time.perf_counter() - start) / len(ids)
    details = {"split": run.profile.data.val_split, "protocol": TEST_PROTOCOL, "void": "left out", "crf": "paper"}
    details |= {"sizes": run.profile.saliency.sizes, "pretraining": run.profile.classifier.weights, "seed": run.seed}
    return score_masks(run.devkit, ids, masks, name=precision, details=details), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="toy")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/precision.json"))
    arguments = parser.parse_args()
    run = open_run(arguments.profile)
    measured = {name: score(run, name, run.val_ids[: arguments.images]) for name in PRECISIONS}
    (exact, exact_seconds), (rough, rough_seconds) = measured["float32"], measured["bfloat16"]
    difference = paired_bootstrap(rough, exact)
    result = {
        "images": len(exact.image_ids),
        "float32 mean IoU": exact.mean_iou,
        "bfloat16 mean IoU": rough.mean_iou,
        "difference (goal: within 0.3)": difference.value,
        "difference, low": difference.low,
        "difference, high": difference.high,
        "bfloat16 speed-up": exact_seconds / rough_seconds,
    }
    for name, value in result.items():
        print(f"{name:32s} {value:.3f}")
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
