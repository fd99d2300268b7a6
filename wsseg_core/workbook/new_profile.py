"""A profile for a devkit of one's own, with steps and sizes for so many photographs on a laptop.

The network is that of `animals`: EfficientNet-Lite0 with the weights of ImageNet, which stay as they are.
"""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from wsseg_core.base.config import available_profiles, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically
from wsseg_core.data.images import DevkitError
from wsseg_core.data.voc import VocDevkit

TEMPLATES = Path(__file__).parent / "templates"
FEW, MANY = 100, 1_300  # training images between which steps grow


def write_profile(path: Path, root: Path, val_split: str = "val", names: Sequence[str] = ()) -> Path:
    """Write a profile, which then loads.

    Args:
        path: the TOML file.
        root: the devkit.
        val_split: the split on which scores are reported.
        names: some of the classes; training images that show none of these are left out. All when left out.

    Raises:
        WorkbookError: the file is there already, its name is not fit, or the devkit has not the splits or the classes.
    """
    if path.suffix != ".toml" or path.stem in available_profiles():
        raise WorkbookError(f"{path}: no name for a profile of your own; use one like mine.toml")
    if path.exists():
        raise WorkbookError(f"{path}: is there already; give another name, or delete it first")
    if not root.is_dir():
        raise WorkbookError(
            f"{root}: no such folder; `wsseg data import PATH --out {root}` makes a devkit of your data"
        )
    devkit = VocDevkit(root, names)
    train, val = devkit.ids("train"), devkit.ids(val_split)
    shown = [image_id for image_id in train if devkit.labels(image_id).any()]
    if train and not shown:
        raise DevkitError(devkit.split_file("train"), "no image of it has a label", "label the images first")
    train = shown if names else train
    if len(train) < 2:
        raise DevkitError(devkit.split_file("train"), f"has {len(train)} image", "train with two or more")
    masks = (root / "SegmentationClass").is_dir() and {p.stem for p in (root / "SegmentationClass").iterdir()}
    values = {
        "devkit": str(root.resolve()),
        "val_split": val_split,
        "classes": devkit.classes,
        "some": bool(names),
        "train": len(train),
        "val": len(val),
        "supervised": bool(masks and masks.intersection(train)),
        "masks": bool(masks),
    }
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    ).get_template("profile.toml")
    write_atomically(path, template.render(values, batch=_batch(len(train)), steps=_steps(len(train))).encode())
    load_profile(str(path))
    return path


def _batch(images: int) -> dict[str, int]:
    """Sizes of batches; none above half of the images, so that each is another draw."""
    return {name: max(1, min(most, images // 2)) for name, most in {"classifier": 64, "cam": 16, "small": 8}.items()}


def _steps(images: int) -> dict[str, int]:
    """Steps of each training: fewer for fewer images, but enough to learn."""
    share = min(max((images - FEW) / (MANY - FEW), 0), 1)
    ends = {
        "classifier": (400, 1200),
        "affinity": (50, 150),
        "segmentation": (100, 300),
        "dynamic": (30, 60),
        "self_training": (40, 168),
    }
    return {name: round(few + share * (many - few)) for name, (few, many) in ends.items()}
