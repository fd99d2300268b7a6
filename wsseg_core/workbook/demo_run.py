"""The profile `demo`: photographs and the shipped classifier laid out as a run, for notebooks 02 to 04.

What notebook 01 would have trained is written in its place. The labels of the photographs are what the classifier
detects: nothing is scored here, and a photograph of one's own has no others.
"""

import csv
import glob
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.files import plain, write_atomically
from wsseg_core.classify import classifier
from wsseg_core.data.run import Run, open_run, project_root
from wsseg_core.data.voc import VocDevkit
from wsseg_core.segment.shipped import shipped_classifier

PROFILE = "demo"


def prepare_run(images: Mapping[str, np.ndarray], results: str = "results", name: str = "animals") -> Run:
    """Lay photographs and classifier out as a run of the profile `demo`.

    Args:
        images: uint8 (H, W, 3), by title; all are training and validation images.
        results: folder of all results.
        name: of the folder of weights, which must be of the profile's network.

    Returns:
        The run; `load_classifier` reads the shipped weights from it.

    Raises:
        WorkbookError: the weights are missing or damaged, or a folder cannot be written.
    """
    run = open_run(PROFILE, 0, results)
    model, classes = shipped_classifier(name)
    ids = {Path(title).stem: image for title, image in images.items()}
    root = project_root() / run.profile.data.devkit
    _write_lines(root / "classes.txt", classes)
    for split in ("train", "val"):
        _write_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", ids)
    for image_id, image in ids.items():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        path = root / "JPEGImages" / f"{image_id}.png"
        if path.is_file() and path.read_bytes() != buffer.getvalue():  # another photograph of the same name
            for stored in (run.folder / "artifacts").rglob(f"{glob.escape(image_id)}.safetensors"):
                stored.unlink()
        write_atomically(path, buffer.getvalue())
    size, threshold = run.profile.data.image_size, run.profile.classifier.threshold
    detected = classifier.class_probabilities(model, VocDevkit(root), list(ids), size, batch_size=4) > threshold
    rows = [[image_id, *np.array(classes)[row]] for image_id, row in zip(ids, detected, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(root / "labels.csv", text.getvalue().encode())
    _write_checkpoint(run, model)
    return run


def _write_lines(path: Path, lines: Mapping[str, object] | list[str]) -> None:
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _write_checkpoint(run: Run, model: torch.nn.Module) -> None:
    """What the training would have left after its last step."""
    settings, steps = classifier.classifier_settings(run), run.profile.classifier.head_steps
    ArtifactStore.create(run.artifacts("classifier"), settings, classifier.NOTEBOOK)
    state = {"step": steps, "history": [], "losses": [], "model": model.state_dict(), "settings": plain(settings)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(classifier.checkpoint_path(run), buffer.getvalue())
