"""Maps of a trunk that does not learn, computed once for all images of a run and read back ever after.

While only heads learn, the trunk gives every image the same maps at every step. They are stored as float16, one
memory-mapped file a layer and input size, for all seeds of a profile together; what reads them gets, to the bit, what
`backbones.FrozenBackbone` would give. Not in the papers: it is what lets a laptop train on photographs.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn
from tqdm import tqdm

from wsseg_core.base.artifacts import ArtifactStore
from wsseg_core.base.config import Profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run, code_fingerprint
from wsseg_core.data.transforms import resize_and_pad
from wsseg_core.nets.backbones import FrozenBackbone, outline_of
from wsseg_core.nets.folding import fold_batch_norm

NOTEBOOK = "01_training"
DONE = "done.npy"  # which rows of the maps beside it are written
FLUSH_EVERY = 50  # images
SPARE = 2**30  # bytes that are left free on the disk


def planned_features(profile: Profile, trunk: nn.Module) -> dict[int, tuple[str, ...]]:
    """The layers whose maps are stored, by the side of the padded input.

    The head and the CAMs read the last one alone; pixel affinities and segmentation read the three taps.
    """
    config, outline = profile.features, outline_of(trunk)
    plan: dict[int, tuple[str, ...]] = dict.fromkeys(config.sizes, (outline.deep,))
    if config.dense_size:
        plan[config.dense_size] = tuple(dict.fromkeys((*outline.taps, outline.deep)))
    return plan


def has_dense_features(profile: Profile) -> bool:
    """Whether features are stored for pixel affinities and segmentation, of the trunk that they are built on."""
    return profile.features.dense_size > 0 and profile.classifier.steps == 0


class FeatureStore:
    """The maps of all training and validation images of a run.

    Args:
        folder: where the files lie.
        ids: of the images, in their order on disk.
        plan: see `planned_features`.
    """

    def __init__(self, folder: Path, ids: Sequence[str], plan: dict[int, tuple[str, ...]]) -> None:
        self.folder, self.plan = folder, plan
        self.rows = {image_id: row for row, image_id in enumerate(ids)}
        self._maps = {(size, name): self._open(size, name) for size, names in plan.items() for name in names}

    def _open(self, size: int, name: str) -> np.ndarray:
        path = map_path(self.folder, size, name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise WorkbookError(f"{path}: missing or damaged; run notebook {NOTEBOOK} again") from None

    def load(self, image_id: str, size: int, names: Sequence[str]) -> list[Tensor]:
        """The maps of one image, float32 (channels, h, w) each.

        Raises:
            WorkbookError: nothing is stored at this size, or of this layer.
        """
        for name in names:
            if (size, name) not in self._maps:
                raise WorkbookError(f"no features of {name} at {size} pixels; mend the table features of the profile")
        row = self.rows[image_id]
        return [torch.from_numpy(self._maps[size, name][row].astype(np.float32)) for name in names]

    def map(self, image_id: str, size: int, name: str) -> Tensor:
        """The map of one layer, float32 (channels, h, w); see `load`."""
        return self.load(image_id, size, [name])[0]


def map_path(folder: Path, size: int, name: str) -> Path:
    """File of the maps of one layer at one input size."""
    return folder / str(size) / f"{name}.npy"


def features_folder(run: Run) -> Path:
    """Folder of the features, shared by all seeds of a profile."""
    return run.folder.parent / f"{run.profile.name}-features"


def features_settings(run: Run, trunk: nn.Module) -> dict[str, Any]:
    """What the features depend on; the seed only where the trunk is random."""
    config = asdict(run.profile.classifier)
    names = ("architecture", "width", "batch_norm", "stride", "weights")
    own = {name: config[name] for name in names} | ({"seed": run.seed} if config["weights"] == "random" else {})
    data = {key: value for key, value in run.settings()["data"].items() if not key.startswith("max_")}
    ids = [*run.train_ids, *run.val_ids]
    plan = {str(size): names for size, names in planned_features(run.profile, trunk).items()}
    return {"data": data, "trunk": own, "layers": plan, "ids": ids, "code": code_fingerprint(("nets.architectures",))}


def open_features(run: Run, trunk: nn.Module) -> FeatureStore:
    """What `extract_features` wrote.

    Raises:
        WorkbookError: it is missing, or of another trunk or other images.
    """
    settings, plan, folder = features_settings(run, trunk), planned_features(run.profile, trunk), features_folder(run)
    ArtifactStore.open(folder, NOTEBOOK, settings)
    for size in plan:
        if not _is_whole(folder / str(size)):
            raise WorkbookError(f"{folder / str(size)}: not of all images yet; run notebook {NOTEBOOK} again")
    return FeatureStore(folder, settings["ids"], plan)


def _is_whole(folder: Path) -> bool:
    try:
        return bool(np.load(folder / DONE, allow_pickle=False).all())
    except (OSError, ValueError, EOFError):
        return False


def extract_features(run: Run, trunk: nn.Module) -> FeatureStore:
    """Store the maps of all images; those that are on disk already, of this very trunk, are left alone.

    Args:
        run: the run.
        trunk: an untrained classifier of the run, whose trunk will not learn.

    Raises:
        WorkbookError: they do not fit on the disk, or exceed what float16 can hold.
    """
    settings, folder = features_settings(run, trunk), features_folder(run)
    ArtifactStore.create(folder, settings, NOTEBOOK)
    plan = planned_features(run.profile, trunk)
    folded = fold_batch_norm(trunk).to(memory_format=torch.channels_last)
    frozen = {size: FrozenBackbone(folded, names) for size, names in plan.items()}
    shapes = {size: _shapes(backbone, size) for size, backbone in frozen.items()}
    _announce(folder, len(settings["ids"]), shapes)
    for size, backbone in frozen.items():
        _extract_size(run, folder, settings["ids"], backbone, size, shapes[size])
    return FeatureStore(folder, settings["ids"], plan)


def _shapes(backbone: FrozenBackbone, size: int) -> dict[str, tuple[int, ...]]:
    return dict(zip(backbone.names, (tuple(m.shape[1:]) for m in backbone(torch.zeros(1, 3, size, size))), strict=True))


def _announce(folder: Path, images: int, shapes: dict[int, dict[str, tuple[int, ...]]]) -> None:
    """Say how large the files will be, and refuse what does not fit."""
    total = 2 * images * sum(math.prod(shape) for of_size in shapes.values() for shape in of_size.values())
    there = sum(path.stat().st_blocks * 512 for path in folder.rglob("*.npy"))
    free = shutil.disk_usage(folder).free
    print(f"features of {images} images: {total / 2**30:.2f} GiB in {folder}")
    if total - there > free - SPARE:
        raise WorkbookError(
            f"{folder}: features of {images} images need {total / 2**30:.1f} GiB and {free / 2**30:.1f} are free; free "
            "disk space, or store fewer sizes (table features of the profile)"
        )


def _extract_size(
    run: Run, folder: Path, ids: Sequence[str], backbone: FrozenBackbone, size: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    """One image after the other, so that its maps do not depend on its neighbours in a batch."""
    marks = folder / str(size) / DONE
    if not all(_holds(map_path(folder, size, name), (len(ids), *shape), np.float16) for name, shape in shapes.items()):
        marks.unlink(missing_ok=True)  # what is lost or damaged is made again, with all that lay beside it
    done = _writable(marks, (len(ids),), np.uint8)
    missing = np.flatnonzero(done == 0).tolist()
    if not missing:
        return
    maps = [_writable(map_path(folder, size, name), (len(ids), *shape), np.float16) for name, shape in shapes.items()]
    for count, row in enumerate(tqdm(missing, desc=f"features at {size} pixels", mininterval=1.0), start=1):
        image = resize_and_pad(run.devkit.image(ids[row]), size)[None].to(memory_format=torch.channels_last)
        for stored, values in zip(maps, backbone(image), strict=True):
            if not values.isfinite().all():
                raise WorkbookError(f"{ids[row]}: features exceed what float16 can hold; use another network")
            stored[row] = values[0].numpy()
        done[row] = 1
        if count % FLUSH_EVERY == 0 or count == len(missing):
            for array in (*maps, done):
                array.flush()


def _writable(path: Path, shape: tuple[int, ...], kind: type) -> np.memmap:
    """A memory-mapped array, zeros where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _holds(path, shape, kind):
        return open_memmap(path, "r+")
    return open_memmap(path, "w+", dtype=kind, shape=shape)


def _holds(path: Path, shape: tuple[int, ...], kind: type) -> bool:
    """Whether a file has such an array, whole: one that is cut short would be filled up with zeros without a word."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == kind
