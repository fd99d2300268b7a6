"""What labels and masks say of the same images, and what a devkit holds: what no file shows alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wsseg_core.data.images import VOID, Problem
from wsseg_core.data.voc import VocDevkit

# VOC itself has labels that its masks do not show: 4 % of 1,346 training images, where SBD's coarse masks stand in.
USUAL_SHARE = 0.1
NEEDS_TRAINING_MASKS = "the choice of CRF values (04), the scores of seeds (06 to 08), and the upper bound (07)"
NO_MASKS = "no masks to score with; training and inference need none"
MEND = "mend the labels or the masks, or bring classes.txt into the order of the values in the masks"


@dataclass(frozen=True)
class CheckedImage:
    """What one image holds, as far as it could be read.

    Attributes:
        image_id: of the image.
        problems: what is wrong with its files.
        turned: it has an EXIF orientation other than upright.
        labels: mask values of the classes that its labels name; None when they cannot be read.
        drawn: values in its mask, 0 and 255 among them; None when there is none or it cannot be read.
    """

    image_id: str
    problems: tuple[Problem, ...]
    turned: bool
    labels: frozenset[int] | None
    drawn: frozenset[int] | None


def disagreements(devkit: VocDevkit, images: Sequence[CheckedImage]) -> tuple[list[Problem], list[str]]:
    """Hold labels and masks against each other.

    A class in a mask that the labels lack is always wrong: training would be told that it is not there. A label that no
    pixel shows is usual in a few images, as an object may be too small to be drawn.

    Returns:
        Problems, and notes of what is usual.
    """
    both = {
        image.image_id: (image.labels, image.drawn)
        for image in images
        if image.labels is not None and image.drawn is not None
    }
    nothing = frozenset({0, VOID})
    if any(labels for labels, _ in both.values()) and all(drawn <= nothing for _, drawn in both.values()):
        return [_no_class_drawn(devkit, both)], []
    unlabelled = {image_id: drawn - nothing - labels for image_id, (labels, drawn) in both.items()}
    undrawn = {image_id: labels - drawn for image_id, (labels, drawn) in both.items() if drawn != {VOID}}
    folder, problems, notes = str(devkit.root / "SegmentationClass"), [], []
    if any(unlabelled.values()):
        problems.append(Problem(folder, f"{_examples(devkit, unlabelled)} show a class that the labels lack", MEND))
    if count := sum(map(bool, undrawn.values())):
        wrong = f"{_examples(devkit, undrawn)} lack a class that the labels name"
        if problems or count > USUAL_SHARE * len(both):
            problems.append(Problem(folder, wrong, MEND))
        else:
            notes.append(f"{wrong}; a few are usual")
    return problems, notes


def _no_class_drawn(devkit: VocDevkit, both: dict[str, tuple[frozenset[int], frozenset[int]]]) -> Problem:
    values = " and ".join(map(str, sorted(frozenset[int]().union(*(drawn for _, drawn in both.values())))))
    labelled = sum(bool(labels) for labels, _ in both.values())
    return Problem(
        str(devkit.root / "SegmentationClass"),
        f"the masks hold {values} alone, no class, though {labelled} of their images have labels",
        f"write i for the i-th class, as {VOID} is void and never scored: with one class `mask[mask == {VOID}] = 1`, "
        "saved with `write_palette_png`",
    )


def _examples(devkit: VocDevkit, values: dict[str, frozenset[int]]) -> str:
    found = {image_id: sorted(group) for image_id, group in values.items() if group}
    names = [f"{i} ({', '.join(devkit.classes[value - 1] for value in group)})" for i, group in found.items()]
    return f"{len(found)} of {len(values)} masks, for instance {', '.join(names[:3])},"


def describe(devkit: VocDevkit, splits: dict[str, list[CheckedImage]], val_split: str) -> Iterator[str]:
    """What there is, a line each: classes, splits, and what is unusual without being wrong."""
    yield f"{devkit.num_classes} of {len(devkit.all_classes)} classes: {', '.join(devkit.classes)}"
    for split, images in splits.items():
        unlabelled = sum(image.labels == frozenset() for image in images)
        masks = sum(image.drawn is not None for image in images)
        line = f"{split}: {len(images)} images, {unlabelled} without any label, {masks} with a mask"
        yield line if masks or split == val_split else f"{line}; what needs them is left out: {NEEDS_TRAINING_MASKS}"
    everything = {image.image_id: image for images in splits.values() for image in images}.values()
    labels = [image.labels for image in everything if image.labels is not None]
    shown = frozenset[int]().union(*labels)
    if labels and (never := [name for value, name in enumerate(devkit.classes, start=1) if value not in shown]):
        yield f"no image shows {', '.join(never)}"
    if turned := [image.image_id for image in everything if image.turned]:
        names = ", ".join(turned[:3])
        yield f"{len(turned)} images are turned as EXIF says, for instance {names}; see that their masks are upright"
