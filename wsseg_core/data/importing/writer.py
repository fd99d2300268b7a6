"""Writes what a reader found as a devkit: whole, or not at all.

    JPEGImages, labels.csv, classes.txt, ImageSets/Segmentation; SegmentationClass where there are masks; import.json

`import.json` says what was imported, and marks the folder as one that may be written anew. Images are symbolic links,
or copies; one that EXIF turns, or of a kind that a devkit has not, is written upright as PNG, or JPEG if it was one.
"""

import csv
import io
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import write_atomically, write_json
from wsseg_core.data.images import (
    REPLACE_IMAGE,
    SIDEWAYS,
    VOID,
    DevkitError,
    image_size,
    opened,
    orientation,
    read_image,
    write_palette_png,
)
from wsseg_core.data.importing.dataset import CONVERTED, RECORD, ImportedData, ImportedImage
from wsseg_core.data.voc import check_classes

TRANSPOSED = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}
TRANSPOSED |= {8: Image.Transpose.ROTATE_90}  # what makes an image of an EXIF orientation upright
QUALITY = 95  # of a JPEG that is turned


@dataclass(frozen=True)
class Plan:
    """What is going to be written.

    Attributes:
        kind: form of the data set.
        data: as it was read.
        images: by id.
        splits: ids of train, val and test.
        seed: of the split drawn at random; None where the form gives one.
    """

    kind: str
    data: ImportedData
    images: dict[str, ImportedImage]
    splits: dict[str, list[str]]
    seed: int | None

    def lines(self) -> Iterator[str]:
        """What was understood, in words."""
        images, masks = self.images.values(), sum(image.mask is not None for image in self.images.values())
        yield f"{self.data.source}: {self.kind}, {len(images)} images, {len(self.data.classes)} classes"
        for name in self.data.classes:
            yield f"  {name}: {sum(name in image.labels for image in images)} images"
        counts = [len(image.labels) for image in images]
        none = counts.count(0)
        yield f"labels an image: {np.mean(counts):.1f}" + (f"; {none} images without any" if none else "")
        yield f"masks: of {masks} images" if masks else "masks: none, so nothing can be scored; all else runs"
        how = "as given" if self.seed is None else f"drawn at random, seed {self.seed}"
        yield f"splits, {how}: " + ", ".join(f"{name} {len(ids)}" for name, ids in self.splits.items())
        for note in self.data.notes:
            yield f"note: {note}"
        if len(self.data.classes) == 1 and not none:
            yield "note: every image shows the one class, so a classifier has nothing to tell apart"


def planned(kind: str, data: ImportedData, val_share: float = 0.2, seed: int = 0) -> Plan:
    """Give images their ids and splits.

    Args:
        kind: the form.
        data: as read.
        val_share: of the images of each combination of labels that go to val, where the form gives no splits.
        seed: of that draw.

    Raises:
        DevkitError: two images with one name, classes that cannot be, or too few images for two splits.
    """
    if not 0 < val_share < 1:
        raise WorkbookError(f"--val-share {val_share:g}: use a number between 0 and 1, as 0.2")
    check_classes(data.classes, data.source)
    lower: dict[str, str] = {}
    for name in data.classes:
        if name != lower.setdefault(name.casefold(), name):
            wrong = f"classes {lower[name.casefold()]!r} and {name!r} differ in capitals alone"
            raise DevkitError(data.source, wrong, "write the class in one way")
    images = _identified(data)
    unknown = [image.path for image in images.values() if not image.split]
    if unknown and len(unknown) < len(images):
        wrong = f"{len(unknown)} of {len(images)} images are in no split that is known, for instance {unknown[0]}"
        raise DevkitError(data.source, wrong, "call the splits train, val and test, or name none")
    splits: dict[str, list[str]] = defaultdict(list)
    for image_id, image in images.items():
        splits[image.split or "train"].append(image_id)
    if "val" not in splits and splits.get("train") and "test" in splits:
        splits["val"] = splits.pop("test")
    given = "val" in splits and "train" in splits
    if not given:
        train, val = _drawn(images, list(images), val_share, seed)
        splits = {"train": train, "val": val}
    if not splits["train"] or not splits["val"]:
        raise DevkitError(data.source, f"{len(images)} images are too few for train and val", "add images")
    return Plan(kind, data, images, dict(splits), None if given else seed)


def _identified(data: ImportedData) -> dict[str, ImportedImage]:
    """Images by their stem; by folder and stem, as `horse_001`, where several folders number alike."""
    stems: dict[str, list[ImportedImage]] = defaultdict(list)
    for image in data.images:
        stems[image.path.stem.strip()].append(image)
    found: dict[str, ImportedImage] = {}
    for stem, images in stems.items():
        for image in images:
            name = stem if len(images) == 1 else f"{image.path.parent.name}_{stem}"
            if len(images) > 1 and image.split and image.path.parent.name != image.split:
                name = f"{image.split}_{name}"
            if name != name.encode(errors="replace").decode():
                raise DevkitError(repr(str(image.path)), "a name that is not UTF-8 text", "rename the file")
            if name in found:
                wrong = f"has the same name as {found[name].path}"
                raise DevkitError(image.path, wrong, "rename one of them, and its annotation with it")
            found[name] = image
    return found


def _drawn(
    images: dict[str, ImportedImage], ids: Sequence[str], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Train and val: of each combination of labels the share goes to val, of those with masks where there are any."""
    any_masks = any(image.mask for image in images.values())
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for image_id in sorted(ids):
        groups[tuple(sorted(images[image_id].labels))].append(image_id)
    rng = np.random.default_rng(seed)
    val: set[str] = set()
    for _, members in sorted(groups.items()):
        able = [image_id for image_id in members if images[image_id].mask or not any_masks]
        number = min(round(share * len(members)), len(able))
        val.update(rng.permutation(able)[:number].tolist() if number else ())
    if not val and len(ids) > 1:
        able = [image_id for image_id in sorted(ids) if images[image_id].mask or not any_masks]
        val = {str(rng.choice(able))}
    return [i for i in ids if i not in val], [i for i in ids if i in val]


def write_devkit(plan: Plan, out: Path, copy: bool = False) -> Path:
    """Write a devkit; an import that lies there already, and was not touched since, is replaced.

    Args:
        plan: what to write.
        out: its folder.
        copy: copy images instead of linking them.

    Raises:
        WorkbookError: the folder holds something else, an image or mask cannot be read, or masks do not fit.
    """
    out = out.absolute()
    source = plan.data.source.resolve()
    if source == out.resolve() or out.resolve() in source.parents:
        raise DevkitError(out, "would replace what is imported", "choose another folder with --out")
    check_place(out)
    with _whole(out) as folder:
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            for image_id, image in plan.images.items():
                rows.writerow([image_id, *(name for name in plan.data.classes if name in image.labels)])
        _write_lines(folder / "classes.txt", plan.data.classes)
        for split, ids in plan.splits.items():
            _write_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt", ids)
        scored = {i for ids in plan.splits.values() if any(plan.images[i].mask for i in ids) for i in ids}
        for image_id, image in tqdm(plan.images.items(), desc="writing", unit=" images", mininterval=1.0):
            _write_image(image, folder / "JPEGImages" / image_id, copy)
            if image_id in scored:
                write_palette_png(folder / "SegmentationClass" / f"{image_id}.png", _fitted_mask(image))
        record = {"kind": plan.kind, "source": str(plan.data.source.resolve()), "seed": plan.seed}
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
        write_json(folder / RECORD, record | {"files": files})
    return out


def check_place(out: Path) -> None:
    """Refuse a folder that holds anything but an import as it was written.

    Raises:
        DevkitError: it does.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    record, elsewhere = out / RECORD, "choose another folder with --out, or move it away"
    if not record.is_file():
        raise DevkitError(out, "is not empty, and nothing that was imported", elsewhere)
    try:
        known = {*json.loads(record.read_text(encoding="utf-8"))["files"], RECORD}
    except (ValueError, KeyError, TypeError, OSError):
        raise DevkitError(record, "is damaged", elsewhere) from None
    written = record.lstat().st_mtime
    for path in sorted(out.rglob("*")):
        if not path.is_dir() and (str(path.relative_to(out)) not in known or path.lstat().st_mtime > written):
            raise DevkitError(path, "was added or changed after the import", elsewhere)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside the place to fill; it gets there when it is whole."""
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("importing", "old"))
    try:
        (temporary / "JPEGImages").mkdir(parents=True)
        yield temporary
        if out.exists():
            os.replace(out, old)
        os.replace(temporary, out)
    except OSError as error:
        raise WorkbookError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None
    finally:
        if old.exists() and not out.exists():
            with suppress(OSError):
                os.replace(old, out)
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _write_image(image: ImportedImage, stem: Path, copy: bool) -> None:
    """Link or copy an image; write it upright where it is turned or of another kind."""
    suffix = image.path.suffix.lower()
    with opened(image.path, REPLACE_IMAGE) as file:
        upright, jpeg = orientation(file) == 1, file.format == "JPEG"
    if upright and suffix not in CONVERTED:
        place = stem.with_name(stem.name + suffix)
        if not copy:
            with suppress(OSError):  # a file system without links gets copies
                place.symlink_to(image.path.resolve())
                return
        shutil.copyfile(image.path, place)
        return
    buffer = io.BytesIO()
    options = {"format": "JPEG", "quality": QUALITY} if jpeg else {"format": "PNG"}
    Image.fromarray(read_image(image.path)).save(buffer, **options)
    write_atomically(stem.with_name(stem.name + (".jpg" if jpeg else ".png")), buffer.getvalue())


def _fitted_mask(image: ImportedImage) -> np.ndarray:
    """The mask of an image as it stands upright, uint8 (H, W); void everywhere where nothing was drawn."""
    height, width = image_size(image.path)
    if image.mask is None:
        return np.full((height, width), VOID, np.uint8)
    mask = image.mask()
    if mask.shape == (height, width):
        return mask
    with opened(image.path, REPLACE_IMAGE) as file:
        turned = orientation(file)
    if turned in SIDEWAYS and mask.shape == (width, height):  # drawn on the image as it is stored
        return np.array(Image.fromarray(mask).transpose(TRANSPOSED[turned]))
    wrong = f"is {width}×{height}, and its mask {mask.shape[1]}×{mask.shape[0]}"
    raise DevkitError(image.path, wrong, "draw the mask on this image, or scale the image to it")
